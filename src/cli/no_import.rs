//! `import` in a build without the feature `bundles`: says how to get it.

use std::ffi::OsString;
use std::process::ExitCode;

use acclimate::{Error, Result};
use clap::Args;

use super::output::Output;

/// Take in a profile that `acclimate export --bundle` wrote (not in this build)
#[derive(Args)]
#[command(disable_help_flag = true)]
pub struct Import {
    #[arg(allow_hyphen_values = true, trailing_var_arg = true)]
    arguments: Vec<OsString>,
}

impl Import {
    pub fn run(self, _: &Output) -> Result<ExitCode> {
        let _ = self.arguments;
        Err(no_bundles())
    }
}

/// What a build without bundles says when it is asked for one.
pub fn no_bundles() -> Error {
    Error::usage("this program was built without bundles")
        .hint("build it again with them: `cargo install --path . --locked --features bundles`")
}
