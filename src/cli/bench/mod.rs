//! `bench`: how fast is a model on this machine, plain, adapted and training? `--suite` asks that of many models,
//! `--compare` what changed between two such runs, and `--report` writes one that can be handed on.

mod child;
mod compare;
#[cfg(test)]
mod compare_tests;
mod models;
mod page;
mod part;
mod plan;
mod report;
mod results;
mod single;
mod suite;
mod targets;
mod words;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use acclimate::runtime::sandbox::Trial;
use acclimate::sites::Pattern;
use acclimate::tools::bench::Options;
use acclimate::{Error, Result};
use clap::{ArgGroup, Args, Subcommand};

use super::output::Output;
use super::vet::VetArgs;
use super::{DeviceArg, EndsArg, model_file};

/// Where a suite's results go.
const OUT: &str = "acclimate-bench";

/// `bench`, and what it runs.
#[derive(Subcommand)]
pub enum Command {
    Bench(Bench),
    #[command(hide = true)]
    BenchPart(part::BenchPart),
}

impl Command {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        match self {
            Command::Bench(c) => c.run(output),
            Command::BenchPart(c) => c.run(),
        }
    }
}

/// Time predictions, training steps and swaps of a model, or of many, on this machine
#[derive(Args)]
#[command(
    group(ArgGroup::new("many").args(["suite", "report"])),
    after_help = "Examples:\n  acclimate bench model.onnx --batch 8 --threads 2\n  acclimate bench --suite --quick\n  \
                        acclimate bench --compare before.json after.json --fail-slower 10%\n  \
                        acclimate bench --report report.json"
)]
pub struct Bench {
    /// The ONNX file, or a home
    #[arg(required_unless_present_any = ["suite", "compare", "report"])]
    model: Option<PathBuf>,
    /// Examples per prediction and per training step
    #[arg(long, value_name = "B", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// Length of sequences, where the model has them
    #[arg(long, value_name = "S", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    seq: u16,
    /// Rank of the low-rank deltas
    #[arg(long, value_name = "R", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    rank: u16,
    /// Layers that adapt: names with * between commas; all when not given
    #[arg(long, value_name = "PATTERN", default_value = "all")]
    sites: String,
    /// Threads
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Runs of each measurement
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..))]
    repeats: u16,
    /// Say where the time goes, by pass and operator
    #[arg(long)]
    profile: bool,
    /// Keep less between the passes of a training step, and compute it again
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Measure the bundled models and those of a folder, each in a process of its own, and write JSON and a page
    #[arg(long, conflicts_with_all = ["model", "compare", "report"])]
    suite: bool,
    /// Say what changed between two results of --suite, beyond what repeating them would change
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["model", "report"])]
    compare: Option<Vec<PathBuf>>,
    /// Measure as --suite does, and write a file with facts of this machine that can be handed on
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "acclimate-report.json",
          conflicts_with = "model")]
    report: Option<PathBuf>,
    /// With --suite or --report, the folder that scripts/fetch-models.sh filled [default: $ACCLIMATE_MODELS]
    #[arg(long, value_name = "DIR", requires = "many")]
    models: Option<PathBuf>,
    /// With --suite, where results.json and index.html go [default: acclimate-bench]
    #[arg(long, value_name = "DIR", requires = "many", conflicts_with = "report")]
    out: Option<PathBuf>,
    /// With --suite or --report, fewer shapes and runs: half a minute for the bundled models
    #[arg(long, requires = "many")]
    quick: bool,
    /// With --compare, exit code 1 if something got slower, or takes more memory, by this much: 10%
    #[arg(long, value_name = "SHARE", requires = "compare", conflicts_with = "many", value_parser = compare::share)]
    fail_slower: Option<f64>,
    #[command(flatten)]
    device: DeviceArg,
    #[command(flatten)]
    ends: EndsArg,
    #[command(flatten)]
    vet: VetArgs,
}

impl Bench {
    fn run(self, output: &Output) -> Result<ExitCode> {
        if self.model.is_none() && self.device.choice()?.is_some() {
            return Err(Error::usage("--device is for one model").hint("name an ONNX file, or a home"));
        }
        if let Some(files) = &self.compare {
            return compare::run(&files[0], &files[1], self.fail_slower, output);
        }
        if self.suite || self.report.is_some() {
            let how = suite::How { models: self.models, quick: self.quick };
            return match &self.report {
                Some(file) => report::run(file, &how, output),
                None => suite::run(self.out.as_deref().unwrap_or(Path::new(OUT)), &how, output),
            };
        }
        let Some(given) = self.model else { return Err(Error::usage("no model").hint("name an ONNX file, or a home")) };
        let options = Options {
            batch: self.batch.into(),
            sequence: self.seq.into(),
            rank: self.rank.into(),
            sites: Pattern::new(&self.sites),
            threads: self.threads.into(),
            repeats: self.repeats.into(),
            seconds: None,
            model_output: self.ends.model_output,
            model_input: self.ends.model_input,
            profile: self.profile,
            gradient_checkpointing: self.gradient_checkpointing,
            mapped: given.is_dir(),
            device: self.device.choice()?.unwrap_or_default(),
        };
        if self.gradient_checkpointing {
            super::allocator::return_freed();
        }
        let trial = Trial { output: options.model_output.clone(), ..Trial::default() };
        let model = model_file(&given)?;
        self.vet.check(&model, &trial)?;
        let report = acclimate::tools::bench::run(&model, &options)?;
        output.data(&single::as_json(&report, &options), || single::for_people(&report, &options))?;
        Ok(ExitCode::SUCCESS)
    }
}
