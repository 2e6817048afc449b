//! `vet-model`: the child process in which an unknown model is loaded first; and how the other commands start it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use acclimate::Result;
use acclimate::runtime::sandbox::{Limits, Trial, Vetting, answer};
use clap::Args;

use super::task;

/// Load a model under limits and say how that went; other commands run it
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate vet-model model.onnx --memory 1000000000 --seconds 10 > answer")]
pub struct VetModel {
    /// The ONNX file
    model: PathBuf,
    /// Address space, bytes
    #[arg(long, value_name = "N")]
    memory: u64,
    /// Processor time
    #[arg(long, value_name = "S")]
    seconds: u64,
    /// Output that answers; the one that looks like the answer when not given
    #[arg(long, value_name = "NAME")]
    model_output: Option<String>,
    /// Number of labels, by which an output may be found
    #[arg(long, value_name = "N")]
    classes: Option<usize>,
    /// classification or encoder; read off the output when not given
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
}

impl VetModel {
    pub fn run(self) -> Result<ExitCode> {
        let limits = Limits { memory: self.memory, seconds: self.seconds };
        let trial = Trial { output: self.model_output, classes: self.classes, task: task(self.task.as_deref())? };
        answer(&self.model, &trial, &limits, &mut std::io::stdout().lock())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What the first load of a model may use, in a process of its own.
#[derive(Args)]
pub struct VetArgs {
    /// Memory that the first load of the model may use, MiB; 2048 and 16 times the file when not given
    #[arg(long, value_name = "M", value_parser = clap::value_parser!(u64).range(16..1 << 40))]
    load_memory_mib: Option<u64>,
    /// Processor time that the first load of the model may use, seconds; 60 and one for each MiB when not given
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..1 << 40))]
    load_seconds: Option<u64>,
}

impl VetArgs {
    /// How to load `model` for the first time.
    pub fn vetting(&self, model: &Path) -> Result<Vetting> {
        // Without /proc nobody knows where this program is: it is looked for by the name that it was started by.
        let called = || std::env::args_os().next().map_or_else(|| "acclimate".into(), PathBuf::from);
        let program = std::env::current_exe().unwrap_or_else(|_| called());
        let usual = Limits::for_bytes(std::fs::metadata(model).map_or(0, |m| m.len()));
        let memory = self.load_memory_mib.map_or(usual.memory, |m| m << 20);
        let limits = Limits { memory, seconds: self.load_seconds.unwrap_or(usual.seconds) };
        Ok(Vetting { program, limits: Some(limits) })
    }

    /// Loads `model` in a process of its own, with what `trial` chooses of it, before it is loaded here.
    pub fn check(&self, model: &Path, trial: &Trial) -> Result<()> {
        self.vetting(model)?.check(model, trial).map(drop)
    }
}
