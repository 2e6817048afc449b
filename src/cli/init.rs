//! `init`: make a home for a model.

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::disk::KeySource;
use acclimate::runtime::{Dropped, NewClasses, Replayed, ReplayedProfile, TrainLimits};
use acclimate::{Home, InitOptions, Result};
use clap::Args;
use serde_json::{Value, json};

use super::limits::LimitsArg;
use super::output::{Output, bytes, printable};
use super::vet::VetArgs;
use super::{DEFAULT_PROFILE, EndsArg, TASKS, given, task};

/// Make a home: a folder that holds a model and what it learns
#[derive(Args)]
#[command(
    after_help = "Example:\n  acclimate init home --model model.onnx --labels labels.txt\n  acclimate init new --model better.onnx --from home"
)]
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
    /// Replay the feedback of all profiles of this home, which is only read, on the new model
    #[arg(long, value_name = "OLDHOME")]
    from: Option<PathBuf>,
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
        let options = given(options, self.from.as_ref(), InitOptions::replaying);
        let options = self.ends.chosen(options);
        let mut warnings = vec![];
        let (home, replayed) = Home::init_reporting(&self.home, &options, &mut |warning| {
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
            "takes": home.takes(),
            "encrypted": config.encryption.is_some(),
            "model_output": home.base().output_name()?,
            "warnings": warnings,
        });
        if let Some(replayed) = &replayed {
            data["from"] = replayed_json(replayed);
        }
        let mut lines = format!("{shown}: {} model that takes {}", config.task, home.takes());
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
                output.note(match home.generates() {
                    true => "no layer of this model can adapt: it answers, and does not learn",
                    false => "no layer of this model can adapt: only a head will be trained",
                });
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
        if let Some(replayed) = &replayed {
            replayed.profiles.iter().for_each(|p| lines += &format!("\n{}", one_profile(p)));
            if !replayed.new_classes.is_empty() {
                let new: Vec<String> = replayed.new_classes.iter().map(|label| printable(label)).collect();
                lines += &format!("\nnew classes, which the new model does not have: {}", new.join(", "));
            }
        }
        lines += &match home.generates() {
            true => format!("\nnext: acclimate chat {shown}"),
            false => format!("\nnext: {}", next(&shown, replayed.as_ref())),
        };
        output.data(&data, || lines)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn dropped_json(dropped: Dropped) -> Value {
    let Dropped { ignored, superseded, rejected, unfit, .. } = dropped;
    json!({ "ignored": ignored, "superseded": superseded, "rejected": rejected, "unfit": unfit })
}

fn replayed_json(replayed: &Replayed) -> Value {
    let sum = |of: fn(&ReplayedProfile) -> usize| replayed.profiles.iter().map(of).sum::<usize>();
    let dropped = replayed.profiles.iter().fold(Dropped::default(), |all, p| all.plus(p.dropped));
    let one = |p: &ReplayedProfile| {
        json!({
            "profile": p.profile,
            "replayed": p.replayed,
            "dropped": dropped_json(p.dropped),
            "damaged": p.damaged,
            "orphaned": p.orphaned,
            "reason": p.unfit,
        })
    };
    json!({
        "replayed": sum(|p| p.replayed),
        "dropped": dropped_json(dropped),
        "damaged": sum(|p| p.damaged),
        "orphaned": sum(|p| p.orphaned),
        "new_classes": replayed.new_classes,
        "profiles": replayed.profiles.iter().map(one).collect::<Vec<_>>(),
    })
}

/// What was replayed of one profile, in a line.
fn one_profile(p: &ReplayedProfile) -> String {
    let Dropped { ignored, superseded, rejected, unfit, .. } = p.dropped;
    let counted = |n: usize, one: &str, many: &str| (n > 0).then(|| format!("{n} {}", if n == 1 { one } else { many }));
    let reason = p.unfit.as_deref().map(|reason| format!(" ({})", printable(reason))).unwrap_or_default();
    let left_out: Vec<String> = [
        counted(ignored, "ignored", "ignored"),
        counted(superseded, "superseded", "superseded"),
        counted(
            rejected,
            "rejection of an answer that the new model does not give",
            "rejections of answers that the new model does not give",
        ),
        counted(unfit, "on an input", "on inputs")
            .map(|text| format!("{text} that the new model does not take{reason}")),
        counted(p.damaged, "place", "places").map(|text| format!("{text} of the old journal that cannot be read")),
        counted(p.orphaned, "record", "records").map(|text| format!("{text} of it about what is lost")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let left_out = if left_out.is_empty() { String::new() } else { format!("; left out: {}", left_out.join(", ")) };
    let items = if p.replayed == 1 { "item" } else { "items" };
    format!("profile {}: {} feedback {items} replayed{left_out}", p.profile, p.replayed)
}

/// What to type after this.
fn next(shown: &str, replayed: Option<&Replayed>) -> String {
    let profiles = || replayed.iter().flat_map(|r| &r.profiles).filter(|p| p.replayed > 0).map(|p| p.profile.as_str());
    match profiles().find(|name| *name == DEFAULT_PROFILE).or_else(|| profiles().next()) {
        Some(DEFAULT_PROFILE) => format!("acclimate train {shown}"),
        Some(name) => format!("acclimate train {shown} --profile {name}"),
        None => format!("acclimate predict {shown} INPUT"),
    }
}
