//! `export`: what was learned, for other programs; and all of a profile, for another home.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use acclimate::Result;
#[cfg(feature = "bundles")]
use acclimate::bundle::{self, Lock};
use clap::Args;
use serde_json::json;

use super::ProfileArg;
use super::output::{Output, bytes};

/// Write the active generation as one ONNX file that any runtime can use, or a whole profile as one encrypted file
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate export home --merged mine.onnx\n  \
    acclimate export home --profile ada --bundle ada.age --passphrase-file secret.txt")]
pub struct Export {
    /// The home
    home: PathBuf,
    #[command(flatten)]
    what: WhatArg,
    #[command(flatten)]
    profile: ProfileArg,
    #[command(flatten)]
    lock: LockArg,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct WhatArg {
    /// File to write: the base with everything learned merged into its weights; or a folder (DIR/), which gets
    /// model.onnx and a language model's tokenizer and configs
    #[arg(long, value_name = "OUT.onnx|DIR/")]
    merged: Option<PathBuf>,
    /// File to write: the profile's journal, generations and settings, encrypted; `acclimate import` takes it in
    #[arg(long, value_name = "FILE", hide = cfg!(not(feature = "bundles")))]
    #[cfg_attr(feature = "bundles", arg(requires = "lock"))]
    bundle: Option<PathBuf>,
}

#[derive(Args)]
#[group(id = "lock", multiple = false, requires = "bundle", conflicts_with = "merged")]
struct LockArg {
    /// Lock the bundle with the first line of this file
    #[arg(long, value_name = "F", hide = cfg!(not(feature = "bundles")))]
    passphrase_file: Option<PathBuf>,
    /// Lock the bundle for the holder of a key pair, as `age-keygen` makes one
    #[arg(long, value_name = "age1…", hide = cfg!(not(feature = "bundles")))]
    recipient: Option<String>,
}

impl Export {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        if let Some(file) = &self.what.bundle {
            self.write_bundle(file, output)?;
            return Ok(ExitCode::SUCCESS);
        }
        let out = self.what.merged.unwrap_or_default();
        let session = self.profile.known_session(&self.home)?;
        let written = acclimate::export::merged(&session, &out)?;
        let path = written.path.display().to_string();
        let (alone, temperature) = (written.adapter_alone, written.temperature);
        let beside: Vec<String> = written.beside.iter().map(|file| file.display().to_string()).collect();
        let data = json!({
            "written": path,
            "bytes": written.bytes,
            "beside": beside,
            "adapter_alone": alone,
            "temperature": temperature,
        });
        if alone {
            output.note(
                "the file answers with the adapter alone; here, the base model's answer stands where feedback never showed \
                 it to be wrong",
            );
        }
        output.data(&data, || {
            let first = format!("{path}, {}", bytes(written.bytes));
            [&[first][..], &beside].concat().join("\n")
        })?;
        Ok(ExitCode::SUCCESS)
    }

    #[cfg(feature = "bundles")]
    fn write_bundle(&self, file: &Path, output: &Output) -> Result<()> {
        let lock = match (&self.lock.passphrase_file, &self.lock.recipient) {
            (Some(file), _) => Lock::passphrase_file(file)?,
            (None, recipient) => Lock::recipient(recipient.as_deref().unwrap_or_default())?,
        };
        let session = self.profile.known_session(&self.home)?;
        let written = bundle::export(&session, file, &lock)?;
        let path = written.file.display().to_string();
        let data = json!({
            "written": path,
            "bytes": written.bytes,
            "records": written.records,
            "generations": written.generations,
        });
        output.data(&data, || {
            let (size, records, generations) = (bytes(written.bytes), written.records, written.generations.len());
            format!("{path}, {size}: {records} records, {generations} generations")
        })
    }

    #[cfg(not(feature = "bundles"))]
    fn write_bundle(&self, _: &Path, _: &Output) -> Result<()> {
        let _ = (&self.lock.passphrase_file, &self.lock.recipient);
        Err(super::import::no_bundles())
    }
}
