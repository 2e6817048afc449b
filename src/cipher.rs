//! Encryption of what a profile stores: XChaCha20-Poly1305 under a key that is not in the home. `docs/security.md` says what it
//! promises.
//!
//! Each profile has a key of its own, derived from the home's. A sealed piece names its place (its file, its number in it) as
//! associated data, so that it opens nowhere else. Nonces are 192 random bits: no counter has to survive a power cut.

mod disk;
mod key;

use std::fmt;
use std::path::Path;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};

pub use disk::KeyedDisk;
pub(crate) use key::random;
pub use key::{Key, KeySource};

use crate::disk::Disk;
use crate::error::{Error, ErrorKind, Result};

const NONCE: usize = 24;

/// First bytes of a sealed file.
const MAGIC: [u8; 8] = *b"ACCLSEAL";
const VERSION: u32 = 1;
/// Magic, version, zeros.
const START: usize = 16;

/// Seals and opens what one profile stores.
#[derive(Clone)]
pub struct Cipher(XChaCha20Poly1305);

impl fmt::Debug for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cipher")
    }
}

impl Cipher {
    /// The cipher of a profile of the home whose key is `key`.
    pub fn new(key: &Key, profile: &str) -> Cipher {
        Cipher(XChaCha20Poly1305::new(key.derive(&format!("profile {profile}")).bytes().into()))
    }

    /// `plain`, to be opened only with the same key and `place`: nonce, ciphertext, tag.
    ///
    /// # Errors
    /// `Io` if the system gives no randomness.
    pub(crate) fn seal(&self, place: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        let mut nonce = [0; NONCE];
        key::random(&mut nonce)?;
        let payload = Payload { msg: plain, aad: place };
        let sealed = self.0.encrypt(XNonce::from_slice(&nonce), payload);
        let sealed = sealed.map_err(|_| Error::internal("a record is too large to encrypt"))?;
        Ok([&nonce[..], &sealed].concat())
    }

    /// What was sealed; `None` if it was sealed with another key, for another place, or is not as it was.
    pub(crate) fn open(&self, place: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
        self.0.decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: place }).ok()
    }
}

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

/// Something is encrypted and its key is not there.
pub(crate) fn locked(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::NoKey, what)
        .hint("give the key: `[encryption]` in the home's acclimate.toml says where it is looked for")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;
    use std::sync::Arc;

    fn cipher(key: u8, profile: &str) -> Cipher {
        Cipher::new(&Key::of([key; 32]), profile)
    }

    #[test]
    fn a_piece_opens_with_its_key_at_its_place_and_whole() {
        let (ada, sealed) = (cipher(1, "ada"), cipher(1, "ada").seal(b"frame 7", b"secret").unwrap());
        assert_eq!(sealed.len(), b"secret".len() + NONCE + 16);
        assert_eq!(ada.open(b"frame 7", &sealed).unwrap(), b"secret");
        assert_ne!(sealed, ada.seal(b"frame 7", b"secret").unwrap(), "a nonce is used once");
        assert!(ada.open(b"frame 8", &sealed).is_none(), "another place");
        assert!(cipher(1, "bob").open(b"frame 7", &sealed).is_none(), "another profile");
        assert!(cipher(2, "ada").open(b"frame 7", &sealed).is_none(), "another key");
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(ada.open(b"frame 7", &bytes).is_none());
        }
        assert!((0..sealed.len()).all(|len| ada.open(b"frame 7", &sealed[..len]).is_none()));
    }

    #[test]
    fn a_sealed_file_needs_its_key_and_its_name() {
        let disk = |key: u8| KeyedDisk::new(Arc::new(RealDisk), cipher(key, "ada"));
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

    /// The XChaCha20-Poly1305 example of draft-irtf-cfrg-xchacha-03, A.3.1.
    #[test]
    fn it_is_the_published_cipher() {
        let hex = |text: &str| -> Vec<u8> {
            text.as_bytes()
                .chunks(2)
                .map(|b| u8::from_str_radix(std::str::from_utf8(b).unwrap(), 16).unwrap())
                .collect()
        };
        let key: [u8; 32] = std::array::from_fn(|i| 0x80 + i as u8);
        let nonce: Vec<u8> = (0x40..0x58).collect();
        let aad = hex("50515253c0c1c2c3c4c5c6c7");
        let plain: &[u8] =
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
            sunscreen would be it.";
        let tag = hex("c0875924c1c7987947deafd8780acf49");
        let cipher = Cipher(XChaCha20Poly1305::new((&key).into()));
        let sealed = cipher.0.encrypt(XNonce::from_slice(&nonce), Payload { msg: plain, aad: &aad }).unwrap();
        assert_eq!(sealed[plain.len()..], tag);
        assert_eq!(cipher.open(&aad, &[nonce, sealed].concat()).unwrap(), plain);
    }
}
