//! `bench`: how fast is a model on this machine, plain, adapted and training?

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::Result;
use acclimate::runtime::sandbox::Trial;
use acclimate::sites::Pattern;
use acclimate::tools::bench::{Options, Report, Timing};
use clap::Args;
use serde_json::{Value, json};

use super::EndsArg;
use super::output::{Output, bytes, table};
use super::vet::VetArgs;

/// Time predictions, training steps and swaps of a model on this machine
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate bench model.onnx --batch 8 --threads 2")]
pub struct Bench {
    /// The ONNX file
    model: PathBuf,
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
    #[command(flatten)]
    ends: EndsArg,
    #[command(flatten)]
    vet: VetArgs,
}

impl Bench {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let options = Options {
            batch: self.batch.into(),
            sequence: self.seq.into(),
            rank: self.rank.into(),
            sites: Pattern::new(&self.sites),
            threads: self.threads.into(),
            repeats: self.repeats.into(),
            model_output: self.ends.model_output,
            model_input: self.ends.model_input,
        };
        let trial = Trial { output: options.model_output.clone(), ..Trial::default() };
        self.vet.check(&self.model, &trial)?;
        let report = acclimate::tools::bench::run(&self.model, &options)?;
        output.data(&as_json(&report, &options), || for_people(&report, &options))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn timing(t: Timing) -> Value {
    json!({ "min": t.min, "median": t.median, "cpu": t.cpu })
}

fn as_json(r: &Report, options: &Options) -> Value {
    json!({
        "batch": options.batch,
        "seq": options.sequence,
        "rank": options.rank,
        "threads": options.threads,
        "sites": r.sites,
        "predict_ms": timing(r.predict_ms),
        "adapted_predict_ms": timing(r.adapted_predict_ms),
        "merged_predict_ms": timing(r.merged_predict_ms),
        "train_step_ms": r.train_step_ms.map(timing),
        "later_step_ms": r.later_step_ms.map(timing),
        "gflops_effective": r.gflops_effective,
        "gflops_gemm": r.gflops_gemm,
        "swap_us": timing(r.swap_us),
        "train_peak_rss_bytes": r.train_peak_rss_bytes,
        "peak_rss_bytes": r.peak_rss_bytes,
        "anonymous_bytes": r.anonymous_bytes,
    })
}

fn for_people(r: &Report, options: &Options) -> String {
    let row = |name: &str, unit: &str, t: Timing| {
        let shown = |v: f64| format!("{v:.2} {unit}");
        [name.to_string(), shown(t.median), shown(t.min), shown(t.cpu)]
    };
    let mut rows = vec![
        row("prediction, base", "ms", r.predict_ms),
        row("prediction, adapted", "ms", r.adapted_predict_ms),
        row("prediction, merged", "ms", r.merged_predict_ms),
    ];
    rows.extend(r.train_step_ms.map(|t| row("training step", "ms", t)));
    rows.extend(r.later_step_ms.map(|t| row("the same, later epochs", "ms", t)));
    rows.push(row("swap of an adapter", "µs", r.swap_us));
    let effective = r.gflops_effective.map_or(String::new(), |g| format!("training at {g:.0} GFLOP/s, "));
    format!(
        "batch {}, {} layers at rank {}, {} threads\n{}\n{effective}a plain product at {:.0} GFLOP/s\nmemory {} at most, {} to the end of training; {} of it not backed by a file",
        options.batch,
        r.sites,
        options.rank,
        options.threads,
        table(["", "median", "fastest", "processor"], rows, 1),
        r.gflops_gemm,
        bytes(r.peak_rss_bytes),
        bytes(r.train_peak_rss_bytes),
        bytes(r.anonymous_bytes)
    )
}
