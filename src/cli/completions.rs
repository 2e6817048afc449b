//! `completions`: let the shell finish what is typed.

use std::process::ExitCode;

use acclimate::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde_json::json;

use super::Cli;
use super::output::Output;

/// Print a script that completes commands and flags in a shell
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate completions bash > ~/.local/share/bash-completion/completions/acclimate")]
pub struct Completions {
    /// The shell
    shell: Shell,
}

impl Completions {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let mut script = vec![];
        clap_complete::generate(self.shell, &mut Cli::command(), "acclimate", &mut script);
        let script = String::from_utf8_lossy(&script).into_owned();
        output.data(&json!({ "shell": self.shell.to_string(), "script": script }), || script.clone())?;
        Ok(ExitCode::SUCCESS)
    }
}
