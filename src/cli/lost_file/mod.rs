//! A file of a home that is in memory and cannot be read any more: its disk was pulled out or fails, or somebody cut
//! the file off. The system then sends SIGBUS. The program says so in a sentence and ends with exit code 74;
//! `adapt --watch` starts itself anew instead, for its other homes.

#[cfg(target_os = "linux")]
mod handler;
#[cfg(target_os = "linux")]
mod maps;

use std::path::PathBuf;

/// Says to a program that was started anew which file was lost.
const LOST: &str = "ACCLIMATE_LOST_FILE";

/// What to do about it.
pub const NEXT: &str = "connect its disk again, then run `acclimate verify` on the home";

/// From now on such an end is told of, as JSON where `json` says so.
pub fn tell(json: bool) {
    #[cfg(target_os = "linux")]
    handler::install(json, false);
    #[cfg(not(target_os = "linux"))]
    let _ = json;
}

/// From now on the program starts itself anew instead, with the arguments and the environment that it has.
pub fn start_anew(json: bool) {
    #[cfg(target_os = "linux")]
    handler::install(json, true);
    #[cfg(not(target_os = "linux"))]
    let _ = json;
}

/// The file for which the program was started anew.
pub fn lost_before() -> Option<PathBuf> {
    std::env::var_os(LOST).filter(|path| !path.is_empty()).map(PathBuf::from)
}
