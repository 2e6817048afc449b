//! The subcommands that learn from what was said.

use std::process::ExitCode;

use acclimate::Result;
use clap::Subcommand;

use super::output::Output;
use super::{adapt, train};

#[derive(Subcommand)]
pub enum Learning {
    Train(train::Train),
    Adapt(adapt::Adapt),
}

impl Learning {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        match self {
            Learning::Train(c) => c.run(output),
            Learning::Adapt(c) => c.run(output),
        }
    }
}
