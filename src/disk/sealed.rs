//! Whole files, sealed where the disk has a key.

use std::path::Path;

use super::Disk;
use crate::cipher::locked;
use crate::error::{Error, Result};

/// First bytes of a sealed file.
const MAGIC: [u8; 8] = *b"ACCLSEAL";
const VERSION: u32 = 1;
/// Magic, version, zeros.
const START: usize = 16;

fn place(name: &Path) -> Vec<u8> {
    let name = name.file_name().unwrap_or_default().to_string_lossy();
    [b"file ", name.as_bytes()].concat()
}

/// The bytes of a file that is to be called `name`: sealed where `disk` has a key.
///
/// # Errors
/// `Io` if the system gives no randomness.
pub(crate) fn seal_file(disk: &dyn Disk, name: &Path, plain: Vec<u8>) -> Result<Vec<u8>> {
    let Some(cipher) = disk.cipher() else { return Ok(plain) };
    let mut bytes = MAGIC.to_vec();
    bytes.extend(u64::from(VERSION).to_le_bytes());
    bytes.extend(cipher.seal(&place(name), &plain)?);
    Ok(bytes)
}

/// Whether these are the first bytes of a sealed file.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC)
}

/// What is in the file `path`, whose bytes are given; `None` if it is plain, and is to be.
///
/// # Errors
/// `NoKey` if it is sealed and `disk` has no key; `BadData` if it cannot be opened, or is plain where everything is sealed.
pub(crate) fn open_file(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<Option<Vec<u8>>> {
    let Some(cipher) = disk.cipher() else {
        return match is_sealed(bytes) {
            true => Err(locked("this file is encrypted").at(path.display())),
            false => Ok(None),
        };
    };
    let version = bytes.get(MAGIC.len()..START) == Some(&u64::from(VERSION).to_le_bytes());
    if !is_sealed(bytes) || !version {
        return Err(Error::bad_data("not encrypted, as everything here is").at(path.display()).hint(NOT_OURS));
    }
    let opened = bytes.get(START..).and_then(|sealed| cipher.open(&place(path), sealed));
    match opened {
        Some(plain) => Ok(Some(plain)),
        None => {
            Err(Error::bad_data("cannot be decrypted: damaged, or of another place").at(path.display()).hint(NOT_OURS))
        }
    }
}

/// What to do about a file that does not belong where it is.
const NOT_OURS: &str = "see `acclimate verify`; put the file back from a copy, or set it aside with `acclimate repair`";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::{Cipher, Key};
    use crate::disk::{KeyedDisk, RealDisk};
    use crate::error::ErrorKind;
    use std::sync::Arc;

    #[test]
    fn a_sealed_file_needs_its_key_and_its_name() {
        let disk = |key: u8| KeyedDisk::new(Arc::new(RealDisk), Cipher::new(&Key::of([key; 32]), "ada"));
        let (name, plain) = (Path::new("a/000003.adapter"), b"ACCLADPT and so on".to_vec());
        let sealed = seal_file(&disk(1), name, plain.clone()).unwrap();
        assert_eq!(open_file(&disk(1), name, &sealed).unwrap().unwrap(), plain);
        let kind = |r: Result<Option<Vec<u8>>>| r.unwrap_err().kind();
        assert_eq!(kind(open_file(&RealDisk, name, &sealed)), ErrorKind::NoKey);
        assert_eq!(kind(open_file(&disk(2), name, &sealed)), ErrorKind::BadData);
        assert_eq!(kind(open_file(&disk(1), Path::new("a/000002.adapter"), &sealed)), ErrorKind::BadData);
        assert_eq!(kind(open_file(&disk(1), name, &plain)), ErrorKind::BadData);
        assert_eq!(seal_file(&RealDisk, name, plain.clone()).unwrap(), plain);
        assert!(open_file(&RealDisk, name, &plain).unwrap().is_none());
    }
}
