//! `bench-part`: the child process in which a part of a suite is measured.

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::tools::bench::{Options, Part, look, part};
use acclimate::{Error, Result};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::cli::output::Output;

/// Measure one part of a suite in a process of its own; `bench --suite` runs it
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate bench-part model.onnx look --json")]
pub struct BenchPart {
    /// The ONNX file
    model: PathBuf,
    what: What,
    /// With look, where a copy goes whose weights can be used in place
    #[arg(long, value_name = "FILE")]
    laid_out: Option<PathBuf>,
    /// Whether the file is one that was laid out
    #[arg(long)]
    mapped: bool,
    #[arg(long, default_value_t = 1)]
    batch: usize,
    #[arg(long, default_value_t = 32)]
    seq: usize,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[arg(long, default_value_t = 12)]
    repeats: usize,
    #[arg(long)]
    seconds: Option<f64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Look,
    Times,
    Memory,
    Beside,
}

impl BenchPart {
    pub fn run(self) -> Result<ExitCode> {
        // If the system has to end a process for want of memory, it is to be this one, and not the suite.
        let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
        let options = Options {
            batch: self.batch,
            sequence: self.seq,
            threads: self.threads,
            repeats: self.repeats,
            seconds: self.seconds,
            mapped: self.mapped,
            ..Options::default()
        };
        let measured = |what| part(&self.model, &options, what).and_then(as_json);
        let found = match self.what {
            What::Look => as_json(look(&self.model, self.laid_out.as_deref(), &options)?),
            What::Times => measured(Part::Times),
            What::Memory => measured(Part::Memory),
            What::Beside => measured(Part::Beside),
        }?;
        Output { json: true, quiet: true }.data(&found, String::new)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn as_json(found: impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(json!(found)).map_err(|e| Error::internal("cannot say what was measured").because(e))
}
