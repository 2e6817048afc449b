//! Encryption of what a profile stores: XChaCha20-Poly1305 under a key that is not in the home. `docs/security.md` says what it
//! promises.
//!
//! Each profile has a key of its own, derived from the home's. A sealed piece names its place (its file, its number in it) as
//! associated data, so that it opens nowhere else. Nonces are 192 random bits: no counter has to survive a power cut.

mod key;

use std::fmt;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};

pub use key::Key;
pub(crate) use key::random;

use crate::error::{Error, ErrorKind, Result};

const NONCE: usize = 24;

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
        random(&mut nonce)?;
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

/// Something is encrypted and its key is not there.
pub(crate) fn locked(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::NoKey, what)
        .hint("give the key: `[encryption]` in the home's acclimate.toml says where it is looked for")
}

#[cfg(test)]
mod tests {
    use super::*;

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
