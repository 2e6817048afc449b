//! `import`: a profile from another home.

use std::path::PathBuf;
use std::process::ExitCode;

use acclimate::Result;
#[cfg(feature = "bundles")]
use acclimate::{
    Home,
    base::DeviceChoice,
    bundle::{self, Unlock},
};
use clap::Args;
#[cfg(feature = "bundles")]
use serde_json::json;

use super::output::Output;

/// Take in a profile that `acclimate export --bundle` wrote, as a new profile
#[derive(Args)]
#[command(after_help = "Example:\n  acclimate import home ada.age --passphrase-file secret.txt")]
pub struct Import {
    /// The home; its base must be the one that the bundle was made on
    home: PathBuf,
    /// The bundle
    file: PathBuf,
    #[command(flatten)]
    unlock: UnlockArg,
    /// Name of the new profile; the one it had when not given
    #[arg(long, value_name = "P")]
    profile: Option<String>,
}

#[derive(Args)]
#[group(required = cfg!(feature = "bundles"), multiple = false)]
struct UnlockArg {
    /// It is locked with the first line of this file
    #[arg(long, value_name = "F")]
    passphrase_file: Option<PathBuf>,
    /// It is locked for an identity in this file, as `age-keygen` writes it
    #[arg(long, value_name = "F")]
    identity: Option<PathBuf>,
}

#[cfg(not(feature = "bundles"))]
impl Import {
    pub fn run(self, _: &Output) -> Result<ExitCode> {
        let Import { home: _, file: _, unlock: UnlockArg { passphrase_file: _, identity: _ }, profile: _ } = self;
        Err(no_bundles())
    }
}

/// What a build without bundles says when it is asked for one.
#[cfg(not(feature = "bundles"))]
pub fn no_bundles() -> acclimate::Error {
    acclimate::Error::usage("this program was built without bundles")
        .hint("build it again with them: `cargo install --path . --locked --features bundles`")
}

#[cfg(feature = "bundles")]
impl Import {
    pub fn run(self, output: &Output) -> Result<ExitCode> {
        let unlock = match (&self.unlock.passphrase_file, &self.unlock.identity) {
            (Some(file), _) => Unlock::passphrase_file(file)?,
            (None, file) => Unlock::identity_file(file.as_deref().unwrap_or("".as_ref()))?,
        };
        // Nothing runs the model.
        let home = Home::open_on_device(&self.home, Some(DeviceChoice::Cpu))?;
        let taken = bundle::import(&home, &self.file, &unlock, self.profile.as_deref())?;
        let data = json!({
            "profile": taken.profile,
            "records": taken.records,
            "generations": taken.generations,
            "generation": taken.generation,
        });
        let line = format!(
            "profile {}: {} records, {} generations; generation {} is active",
            taken.profile,
            taken.records,
            taken.generations.len(),
            taken.generation
        );
        output.data(&data, || line)?;
        Ok(ExitCode::SUCCESS)
    }
}
