//! Locks and opens a bundle with age: a passphrase, or a key pair.

use std::fmt;
use std::io::{BufRead, Read, Write};
use std::path::Path;

use age::secrecy::SecretString;
use age::stream::StreamWriter;
use age::{DecryptError, Decryptor, Encryptor, Identity, Recipient, scrypt, x25519};
use zeroize::Zeroizing;

use crate::disk::{RealDisk, read_file};
use crate::error::{Error, ErrorKind, Result};

/// Longest file with a passphrase or an identity.
const LONGEST_FILE: u64 = 64 << 10;
/// Cost of guessing a passphrase, as a power of two: age's own choice, 256 MiB for each guess.
const WORK: u8 = 18;
/// Largest cost that a bundle may ask for, 1 GiB: a hostile one must neither fill the memory nor keep a processor busy for hours.
const MOST_WORK: u8 = 20;

/// What a bundle is locked with.
#[derive(Clone)]
pub enum Lock {
    /// A passphrase.
    Passphrase(SecretString),
    /// The public half of a key pair.
    Recipient(x25519::Recipient),
}

/// What a bundle is opened with.
#[derive(Clone)]
pub enum Unlock {
    /// A passphrase.
    Passphrase(SecretString),
    /// The secret halves of key pairs; one of them has to fit.
    Identities(Vec<x25519::Identity>),
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lock")
    }
}

impl fmt::Debug for Unlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Unlock")
    }
}

/// The first line of a file.
fn passphrase(file: &Path) -> Result<SecretString> {
    let bytes = Zeroizing::new(read_file(&RealDisk, file, LONGEST_FILE)?);
    let line = bytes.split(|b| *b == b'\n' || *b == b'\r').next().unwrap_or_default();
    match std::str::from_utf8(line) {
        Ok(text) if !text.trim().is_empty() => Ok(SecretString::from(text.to_owned())),
        _ => Err(Error::bad_data("the first line of this file is no passphrase").at(file.display())),
    }
}

impl Lock {
    /// The passphrase in the first line of `file`.
    ///
    /// # Errors
    /// `BadData` if there is none, `Io`.
    pub fn passphrase_file(file: &Path) -> Result<Lock> {
        passphrase(file).map(Lock::Passphrase)
    }

    /// The recipient `age1…`.
    ///
    /// # Errors
    /// `Usage` if it is not one.
    pub fn recipient(text: &str) -> Result<Lock> {
        let recipient = text.trim().parse().map_err(|e: &str| {
            Error::usage(format!("{text:?} is not an age recipient"))
                .because(e)
                .hint("it begins with age1; `age-keygen` makes one")
        })?;
        Ok(Lock::Recipient(recipient))
    }

    pub(super) fn seal<W: Write>(&self, out: W) -> Result<StreamWriter<W>> {
        let mut by_passphrase;
        let recipient: &dyn Recipient = match self {
            Lock::Recipient(recipient) => recipient,
            Lock::Passphrase(passphrase) => {
                by_passphrase = scrypt::Recipient::new(passphrase.clone());
                by_passphrase.set_work_factor(WORK);
                &by_passphrase
            }
        };
        let encryptor = Encryptor::with_recipients(std::iter::once(recipient));
        let encryptor = encryptor.map_err(|e| Error::internal("cannot encrypt").because(e))?;
        encryptor.wrap_output(out).map_err(|e| Error::new(ErrorKind::Io, "cannot write the bundle").because(e))
    }
}

impl Unlock {
    /// The passphrase in the first line of `file`.
    ///
    /// # Errors
    /// `BadData` if there is none, `Io`.
    pub fn passphrase_file(file: &Path) -> Result<Unlock> {
        passphrase(file).map(Unlock::Passphrase)
    }

    /// The identities `AGE-SECRET-KEY-1…` in `file`, as `age-keygen` writes them.
    ///
    /// # Errors
    /// `BadData` if there is none, `Io`.
    pub fn identity_file(file: &Path) -> Result<Unlock> {
        let bytes = Zeroizing::new(read_file(&RealDisk, file, LONGEST_FILE)?);
        let text = std::str::from_utf8(&bytes).unwrap_or_default();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let identities: std::result::Result<Vec<x25519::Identity>, &str> = lines.map(str::parse).collect();
        match identities {
            Ok(identities) if !identities.is_empty() => Ok(Unlock::Identities(identities)),
            _ => Err(Error::bad_data("not a file of age identities")
                .at(file.display())
                .hint("its lines begin with AGE-SECRET-KEY-1 or #; `age-keygen` writes one")),
        }
    }

    pub(super) fn open<R: BufRead + 'static>(&self, source: R) -> Result<Box<dyn Read>> {
        let decryptor = Decryptor::new_buffered(source).map_err(explain)?;
        let opened = match self {
            Unlock::Passphrase(passphrase) => {
                let mut identity = scrypt::Identity::new(passphrase.clone());
                identity.set_max_work_factor(MOST_WORK);
                decryptor.decrypt(std::iter::once(&identity as &dyn Identity))
            }
            Unlock::Identities(all) => decryptor.decrypt(all.iter().map(|i| i as &dyn Identity)),
        };
        Ok(Box::new(opened.map_err(explain)?))
    }
}

fn explain(e: DecryptError) -> Error {
    match e {
        DecryptError::NoMatchingKeys | DecryptError::DecryptionFailed | DecryptError::KeyDecryptionFailed => {
            Error::new(ErrorKind::NoKey, "the bundle does not open with this passphrase or identity")
                .hint("give what it was locked with: --passphrase-file, or --identity of the recipient")
        }
        DecryptError::Io(e) => Error::bad_data("damaged bundle: it ends early").because(e),
        other => Error::bad_data("not a bundle, or a damaged one").because(other.to_string()),
    }
}
