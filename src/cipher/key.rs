//! The key of a home.

use std::fmt;

use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind, Result};

pub(crate) const LENGTH: usize = 32;

/// 256 random bits. Wiped from memory when dropped.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; LENGTH]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Fills `bytes` from the operating system's generator.
pub(crate) fn random(bytes: &mut [u8]) -> Result<()> {
    getrandom::fill(bytes)
        .map_err(|e| Error::new(ErrorKind::Io, "the system gives no random numbers").because(e.to_string()))
}

impl Key {
    /// A new random key.
    ///
    /// # Errors
    /// `Io` if the system gives no randomness.
    pub fn random() -> Result<Key> {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        random(&mut *bytes)?;
        Ok(Key(bytes))
    }

    /// These bytes as a key. They must be random.
    pub fn of(bytes: [u8; LENGTH]) -> Key {
        Key(Zeroizing::new(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8; LENGTH] {
        &self.0
    }

    /// A key of its own for `purpose`.
    pub(super) fn derive(&self, purpose: &str) -> Key {
        Key::of(*blake3::keyed_hash(&self.0, purpose.as_bytes()).as_bytes())
    }

    /// Tells this key from another one, and nothing else about it: 16 hex digits.
    pub fn mark(&self) -> String {
        let hash = self.derive("mark of a home's key");
        hash.0.iter().take(8).map(|b| format!("{b:02x}")).collect()
    }

    /// The key in the contents of a file or a keyring: 64 hex digits, or 32 bytes.
    pub(crate) fn parse(contents: &[u8]) -> Option<Key> {
        if let Ok(bytes) = <[u8; LENGTH]>::try_from(contents) {
            return Some(Key::of(bytes));
        }
        let digits = contents.trim_ascii();
        if digits.len() != 2 * LENGTH {
            return None;
        }
        let mut bytes = Zeroizing::new([0; LENGTH]);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |d: &u8| char::from(*d).to_digit(16);
            let [high, low] = pair else { return None };
            *byte = (digit(high)? << 4 | digit(low)?) as u8;
        }
        Some(Key(bytes))
    }
}
