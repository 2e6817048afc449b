//! `pin`: settings and open sizes of a model become constants of it.

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::runtime::sandbox::Trial;
use acclimate::tools::pin::{Pins, pin};
use acclimate::{Error, Result};
use clap::Args;
use serde_json::json;

use super::output::{Output, bytes};
use super::vet::VetArgs;

/// Write a model anew with sizes for its open dimensions, and with values for inputs that are no part of an example
#[derive(Args)]
#[command(
    after_help = "Example:\n  acclimate pin vad.onnx --dim sequence=576 --input sr=16000 --input state=0 --output pinned.onnx"
)]
pub struct Pin {
    /// The ONNX file
    model: PathBuf,
    /// Size of an open dimension, by its name in the model, or by input and axis (`input.1`) where it has none; can be given again
    #[arg(long = "dim", value_name = "NAME=N")]
    dims: Vec<String>,
    /// Number that every value of this input is from now on; can be given again
    #[arg(long = "input", value_name = "NAME=VALUE")]
    inputs: Vec<String>,
    /// Keep this output of the model alone, with what leads to it
    #[arg(long, value_name = "NAME")]
    model_output: Option<String>,
    /// File to write
    #[arg(long, value_name = "F.onnx")]
    output: PathBuf,
    #[command(flatten)]
    vet: VetArgs,
}

impl Pin {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let pins = Pins {
            dims: self.dims.iter().map(|s| pair(s, "NAME=N")).collect::<Result<_>>()?,
            inputs: self.inputs.iter().map(|s| pair(s, "NAME=VALUE")).collect::<Result<_>>()?,
            output: self.model_output,
        };
        if pins == Pins::default() {
            return Err(Error::usage("nothing to pin")
                .hint("give --dim NAME=N, --input NAME=VALUE or --model-output NAME; inspect names all of them"));
        }
        if let Some((name, _)) = pins.dims.iter().find(|(_, size)| *size == 0) {
            return Err(Error::usage(format!("the dimension {name:?} of size 0")).hint("give it 1 or more"));
        }
        let written = pin(&self.model, &pins, &self.output, &|file| self.vet.check(file, &Trial::default()))?;
        let path = written.path.display().to_string();
        output.data(&json!({ "written": path, "bytes": written.bytes }), || {
            format!("{path}, {}", bytes(written.bytes))
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

fn pair<T: std::str::FromStr>(given: &str, form: &str) -> Result<(String, T)> {
    let parts = given.rsplit_once('=').filter(|(name, _)| !name.is_empty());
    let (name, value) = parts.ok_or_else(|| Error::usage(format!("{given:?} is not {form}")))?;
    let value = value.parse().map_err(|_| Error::usage(format!("{value:?} in {given:?} is not a number")))?;
    Ok((name.to_string(), value))
}
