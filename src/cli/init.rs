//! `init`: make a home for a model.

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::disk::KeySource;
use acclimate::runtime::{NewClasses, TrainLimits};
use acclimate::{Home, InitOptions, Result};
use clap::Args;
use serde_json::json;

use super::limits::LimitsArg;
use super::output::{Output, bytes};
use super::vet::VetArgs;
use super::{EndsArg, TASKS, given, task};

/// Make a home: a folder that holds a model and what it learns
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate init home --model model.onnx --labels labels.txt")]
pub struct Init {
    /// Folder to make
    home: PathBuf,
    /// The ONNX file; it is copied
    #[arg(long, value_name = "M.onnx")]
    model: PathBuf,
    /// What the model answers; read off its outputs when not given
    #[arg(long, value_parser = TASKS)]
    task: Option<String>,
    /// Names of the classes, one a line; numbered from 0 when not given
    #[arg(long, value_name = "F")]
    labels: Option<PathBuf>,
    /// tokenizer.json of a model that takes text
    #[arg(long, value_name = "F")]
    tokenizer: Option<PathBuf>,
    /// Arrays go to a model of pictures as they are, normalised already; only files of pictures are preprocessed
    #[arg(long)]
    tensor: bool,
    /// Rank of the low-rank deltas
    #[arg(long, default_value_t = 8)]
    rank: usize,
    /// Layers that may adapt: names with * between commas (see `acclimate inspect`); all when not given
    #[arg(long, value_name = "PATTERN", default_value = "all")]
    sites: String,
    #[command(flatten)]
    ends: EndsArg,
    #[command(flatten)]
    limits: LimitsArg,
    /// Greatest share of answers that ask for a label, 0 to 1; 0 never asks
    #[arg(long, value_name = "X", default_value_t = 0.1)]
    ask_rate: f64,
    /// Let feedback name new classes without --new-class
    #[arg(long)]
    new_classes: bool,
    /// Encrypt what the profiles store
    #[arg(long, requires = "key")]
    encrypt: bool,
    #[command(flatten)]
    key: KeyArg,
    #[command(flatten)]
    vet: VetArgs,
}

#[derive(Args)]
#[group(id = "key", multiple = false, requires = "encrypt")]
struct KeyArg {
    /// With the key in this file, outside of the home; one that is not there is made
    #[arg(long, value_name = "F")]
    key_file: Option<PathBuf>,
    /// With the key of this name in the kernel's keyring of this user
    #[arg(long, value_name = "NAME")]
    keyring: Option<String>,
}

impl KeyArg {
    fn source(self) -> Option<KeySource> {
        self.key_file.map(KeySource::KeyFile).or(self.keyring.map(KeySource::Keyring))
    }
}

impl Init {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let options = InitOptions::new(&self.model)
            .rank(self.rank)
            .sites(&self.sites)
            .tensor(self.tensor)
            .ask_rate(self.ask_rate)
            .limits(self.limits.or(TrainLimits::default()))
            .vetting(self.vet.vetting(&self.model)?);
        let options = given(options, task(self.task.as_deref())?, InitOptions::task);
        let options = given(options, self.labels, InitOptions::labels);
        let options = given(options, self.tokenizer, InitOptions::tokenizer);
        let options = given(options, self.new_classes.then_some(NewClasses::Allow), InitOptions::new_classes);
        let options = given(options, self.key.source(), InitOptions::key);
        let options = self.ends.chosen(options);
        let mut warnings = vec![];
        let home = Home::init_telling(&self.home, &options, &mut |warning| {
            output.warn(warning);
            warnings.push(warning.to_string());
        })?;
        let config = home.config();
        let shown = home.path().display().to_string();
        let mut data = json!({
            "home": shown,
            "fingerprint": config.fingerprint,
            "task": config.task,
            "classes": home.labels().len(),
            "takes": home.intake().takes(),
            "encrypted": config.encryption.is_some(),
            "model_output": home.base().output_name()?,
            "warnings": warnings,
        });
        let mut lines = format!("{shown}: {} model that takes {}", config.task, home.intake().takes());
        if !home.labels().is_empty() {
            lines += &format!(", {} classes", home.labels().len());
        }
        #[cfg(feature = "train")]
        {
            let summary = home.summary()?;
            data["sites"] = json!(summary.sites);
            data["trainable_parameters"] = json!(summary.trainable_parameters);
            data["train_memory_bytes"] = json!(summary.train_memory_bytes);
            data["unreachable"] = json!(summary.unreachable);
            lines += &format!(
                "\n{} layers can adapt, {} trainable parameters, about {} while training",
                summary.sites.len(),
                summary.trainable_parameters,
                bytes(summary.train_memory_bytes)
            );
            data["reason"] = json!(summary.reason);
            if let Some(reason) = &summary.reason {
                lines += &format!("\n{reason}");
            }
            if summary.sites.is_empty() {
                output.note("no layer of this model can adapt: only a head will be trained");
            }
            for site in &summary.unreachable {
                output.note(format_args!("not trained: {site}"));
            }
        }
        if let Some(encryption) = &config.encryption {
            lines += &format!(
                "\nencrypted with the key in {}: keep a copy of it elsewhere, without it everything learned is lost",
                encryption.key
            );
        }
        lines += &format!("\nnext: acclimate predict {shown} INPUT");
        output.data(&data, || lines)?;
        Ok(ExitCode::SUCCESS)
    }
}
