//! A file of a home that is in memory and cannot be read any more: its disk was pulled out or fails, or somebody cut
//! the file off. The system then sends SIGBUS. The program says so in a sentence and ends with exit code 74;
//! `adapt --watch` starts itself anew instead, for its other homes.

#[cfg(target_os = "linux")]
mod handler;
#[cfg(target_os = "linux")]
mod maps;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Says to a program that was started anew how often that was, and which file was lost: `2:/path`.
const LOST: &str = "ACCLIMATE_LOST_FILE";

/// What to do about it.
pub const NEXT: &str = "connect its disk again, then run `acclimate verify` on the home";

/// From now on such an end is told of, as JSON where `json` says so.
pub fn tell(json: bool) {
    #[cfg(target_os = "linux")]
    handler::install(json, None);
    #[cfg(not(target_os = "linux"))]
    let _ = json;
}

/// From now on the program starts itself anew instead, with the arguments and the environment that it has, where a
/// file of one of these homes is lost.
pub fn start_anew(json: bool, homes: &[PathBuf]) {
    #[cfg(target_os = "linux")]
    handler::install(json, Some(homes));
    #[cfg(not(target_os = "linux"))]
    let _ = (json, homes);
}

/// The file for which the program was started anew.
pub fn lost_before() -> Option<PathBuf> {
    before().map(|(_, file)| file)
}

/// How often it was started anew, and for which file the last time.
fn before() -> Option<(u32, PathBuf)> {
    let said = std::env::var_os(LOST)?.into_encoded_bytes();
    let colon = said.iter().position(|byte| *byte == b':')?;
    let (times, file) = (said.get(..colon)?, said.get(colon.saturating_add(1)..)?);
    Some((std::str::from_utf8(times).ok()?.parse().ok()?, OsStr::from_bytes(file).into()))
}

/// A home as the system names its files. A disk that is gone resolves no links.
pub fn whole(home: &Path) -> Option<PathBuf> {
    home.canonicalize().or_else(|_| std::path::absolute(home)).ok()
}
