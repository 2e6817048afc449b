//! Where the key of a home is kept: a file, or the keyring of the Linux kernel.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{Disk, StagedFile, folder_of, read_file};
use crate::cipher::{Key, locked};
use crate::error::{Error, Result};

/// Longest file that is looked at for a key.
const LONGEST_FILE: u64 = 4096;

impl Key {
    internal! {
        /// Writes it to a new file, readable by its owner only, as 64 hex digits.
        ///
        /// # Errors
        /// `Usage` if there is such a file, `Io`.
        pub fn write(&self, disk: &dyn Disk, file: &Path) -> Result<()> {
            let mut text = Zeroizing::new(String::with_capacity(2 * self.bytes().len() + 1));
            for byte in self.bytes() {
                for digit in [byte >> 4, byte & 15] {
                    text.push(char::from_digit(digit.into(), 16).unwrap_or('0'));
                }
            }
            text.push('\n');
            StagedFile::write(disk, folder_of(file), text.as_bytes())?.publish(file)
        }
    }
}

/// Where the key of a home is kept. Not in the home: who has both has everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeySource {
    /// A file with 64 hex digits, or 32 bytes.
    KeyFile(PathBuf),
    /// A key of type `user` and this name in the user's keyring of the Linux kernel, with the same contents. It is gone after a
    /// restart, and somebody has to put it there again.
    Keyring(String),
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::KeyFile(file) => write!(f, "{}", file.display()),
            KeySource::Keyring(name) => write!(f, "the keyring ({name})"),
        }
    }
}

impl KeySource {
    internal! {
        /// Reads the key.
        ///
        /// # Errors
        /// `NoKey` if it is not there, `BadData` if what is there is no key, `Io`.
        pub fn load(&self, disk: &dyn Disk) -> Result<Key> {
            match self {
                KeySource::KeyFile(file) => {
                    if !disk.exists(file).map_err(|e| Error::io("cannot look for the key file", file, e))? {
                        return Err(locked("the home is encrypted, and its key file is not there").at(file.display()));
                    }
                    let contents = Zeroizing::new(read_file(disk, file, LONGEST_FILE)?);
                    warn_if_others_read(file);
                    Key::parse(&contents).ok_or_else(|| no_key().at(file.display()))
                }
                KeySource::Keyring(name) => {
                    let contents = Zeroizing::new(from_keyring(name)?);
                    Key::parse(&contents).ok_or_else(|| no_key().at(format!("key {name} of the keyring")))
                }
            }
        }
    }
}

fn no_key() -> Error {
    Error::bad_data("not a key: neither 64 hex digits nor 32 bytes").hint("make one with `openssl rand -hex 32`")
}

fn warn_if_others_read(file: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(file).map_or(0, |m| m.permissions().mode());
    if mode & 0o077 != 0 {
        tracing::warn!("others may read the key: chmod 600 {}", file.display());
    }
}

#[cfg(target_os = "linux")]
fn from_keyring(name: &str) -> Result<Vec<u8>> {
    use linux_keyutils::{KeyError, KeyRing, KeyRingIdentifier};
    let read = |ring| KeyRing::from_special_id(ring, false)?.search(name)?.read_to_vec();
    // What a login put into its session, or what a service put into the user's.
    let read = read(KeyRingIdentifier::Session).or_else(|_| read(KeyRingIdentifier::User));
    read.map_err(|e: KeyError| {
        locked(format!("the home is encrypted, and there is no key {name:?} in the keyring"))
            .because(e.to_string())
            .hint(format!("put it there: `keyctl padd user {name} @u < KEYFILE`"))
    })
}

#[cfg(not(target_os = "linux"))]
fn from_keyring(name: &str) -> Result<Vec<u8>> {
    Err(locked(format!("there is no kernel keyring on this system to look for {name:?} in")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use crate::error::ErrorKind;

    #[test]
    fn keys_are_read_as_they_are_written_and_nothing_else_is_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("key");
        let key = Key::random().unwrap();
        key.write(&RealDisk, &file).unwrap();
        assert_eq!(key.write(&RealDisk, &file).unwrap_err().kind(), ErrorKind::Usage, "a key is never overwritten");
        let source = KeySource::KeyFile(file.clone());
        assert_eq!(source.load(&RealDisk).unwrap().bytes(), key.bytes());
        assert_eq!(source.load(&RealDisk).unwrap().mark(), key.mark());
        assert_ne!(Key::random().unwrap().mark(), key.mark());
        std::fs::write(&file, [7; 32]).unwrap();
        assert_eq!(source.load(&RealDisk).unwrap().bytes(), &[7; 32]);
        for bad in [&b""[..], b"hunter2", &[b'a'; 63], &[b'g'; 64], &[7; 33], &[7; 31]] {
            std::fs::write(&file, bad).unwrap();
            assert_eq!(source.load(&RealDisk).unwrap_err().kind(), ErrorKind::BadData);
        }
        std::fs::write(&file, [7; 5000]).unwrap();
        assert!(source.load(&RealDisk).is_err());
        std::fs::remove_file(&file).unwrap();
        assert_eq!(source.load(&RealDisk).unwrap_err().kind(), ErrorKind::NoKey);
        assert_eq!(format!("{key:?}"), "Key", "a key is never printed");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernel_keeps_a_key() {
        use linux_keyutils::{KeyRing, KeyRingIdentifier};
        let missing = KeySource::Keyring("acclimate-test-absent".into()).load(&RealDisk).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NoKey);
        let Ok(ring) = KeyRing::from_special_id(KeyRingIdentifier::Session, false) else {
            eprintln!("skipped: no keyring may be used here");
            return;
        };
        let name = format!("acclimate-test-{}", std::process::id());
        let Ok(put) = ring.add_key(&name, &[9u8; 32]) else {
            eprintln!("skipped: no key may be put into the keyring here");
            return;
        };
        assert_eq!(KeySource::Keyring(name).load(&RealDisk).unwrap().bytes(), &[9; 32]);
        put.invalidate().unwrap();
    }
}
