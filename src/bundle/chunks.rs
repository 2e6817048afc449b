//! The pieces of a bundle: a magic number, then pieces of a kind, a length and bytes. Every length is checked before memory is
//! taken for it.

use std::io::{self, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::damaged;
use crate::error::{Error, Result};
use crate::journal::Record;

const MAGIC: [u8; 8] = *b"ACCLBNDL";
const VERSION: u32 = 1;

const MANIFEST: u8 = 1;
const RECORD: u8 = 2;
const ADAPTER: u8 = 3;
const END: u8 = 4;

/// Longest manifest: it holds settings and numbers.
const LONGEST_MANIFEST: u64 = 1 << 20;
/// Longest bundle, as its pieces count.
const LONGEST: u64 = 64 << 30;

/// A piece after the manifest.
#[derive(Debug)]
pub(super) enum Chunk {
    Record(Box<Record>),
    Adapter(u64, Vec<u8>),
    /// The last one: how many records there were.
    End(u64),
}

pub(super) struct Writer<W>(W);

impl<W: Write> Writer<W> {
    pub fn begin(mut out: W) -> io::Result<Writer<W>> {
        out.write_all(&MAGIC)?;
        out.write_all(&VERSION.to_le_bytes())?;
        Ok(Writer(out))
    }

    fn chunk(&mut self, kind: u8, parts: &[&[u8]]) -> io::Result<()> {
        let length: u64 = parts.iter().map(|p| p.len() as u64).sum();
        self.0.write_all(&[kind])?;
        self.0.write_all(&length.to_le_bytes())?;
        parts.iter().try_for_each(|p| self.0.write_all(p))
    }

    pub fn manifest(&mut self, manifest: &impl Serialize) -> io::Result<()> {
        self.chunk(MANIFEST, &[&postcard::to_stdvec(manifest).map_err(io::Error::other)?])
    }
    pub fn record(&mut self, record: &Record) -> io::Result<()> {
        self.chunk(RECORD, &[&postcard::to_stdvec(record).map_err(io::Error::other)?])
    }
    pub fn adapter(&mut self, number: u64, file: &[u8]) -> io::Result<()> {
        self.chunk(ADAPTER, &[&number.to_le_bytes(), file])
    }
    pub fn end(&mut self, records: u64) -> io::Result<()> {
        self.chunk(END, &[&records.to_le_bytes()])
    }
}

pub(super) struct Reader<R> {
    source: R,
    taken: u64,
    /// A piece that was read and belongs to what comes next.
    ahead: Option<Chunk>,
}

fn torn(e: io::Error) -> Error {
    damaged("it ends early, or was changed").because(e)
}

impl<R: Read> Reader<R> {
    pub fn begin(mut source: R) -> Result<Reader<R>> {
        let mut start = [0; 12];
        source.read_exact(&mut start).map_err(torn)?;
        if !start.starts_with(&MAGIC) {
            return Err(Error::bad_data("encrypted, but not a bundle of acclimate"));
        }
        if !start.ends_with(&VERSION.to_le_bytes()) {
            return Err(Error::bad_data("a bundle of another version")
                .hint("use the version of acclimate that made it, or a newer one"));
        }
        Ok(Reader { source, taken: 0, ahead: None })
    }

    fn bytes(&mut self) -> Result<(u8, Vec<u8>)> {
        let (mut kind, mut length) = ([0; 1], [0; 8]);
        self.source.read_exact(&mut kind).map_err(torn)?;
        self.source.read_exact(&mut length).map_err(torn)?;
        let ([kind], length) = (kind, u64::from_le_bytes(length));
        let most = match kind {
            MANIFEST => LONGEST_MANIFEST,
            RECORD => crate::journal::frame::MAX_PAYLOAD as u64,
            ADAPTER => crate::adapter::file::MAX_FILE.saturating_add(8),
            END => 8,
            _ => return Err(damaged("an unknown piece")),
        };
        self.taken = self.taken.saturating_add(length);
        if length > most || self.taken > LONGEST {
            return Err(damaged("a piece is too long"));
        }
        // Memory grows with what is there, not with what is claimed.
        let mut bytes = vec![];
        self.source.by_ref().take(length).read_to_end(&mut bytes).map_err(torn)?;
        match bytes.len() as u64 == length {
            true => Ok((kind, bytes)),
            false => Err(damaged("it ends early")),
        }
    }

    pub fn manifest<T: DeserializeOwned>(&mut self) -> Result<T> {
        let (kind, bytes) = self.bytes()?;
        match postcard::take_from_bytes(&bytes) {
            Ok((manifest, [])) if kind == MANIFEST => Ok(manifest),
            _ => Err(damaged("its first piece is not a manifest")),
        }
    }

    pub fn next(&mut self) -> Result<Chunk> {
        if let Some(chunk) = self.ahead.take() {
            return Ok(chunk);
        }
        let (kind, bytes) = self.bytes()?;
        let number = bytes.first_chunk::<8>().map(|b| u64::from_le_bytes(*b));
        match (kind, number) {
            (RECORD, _) => match Record::decode(&bytes) {
                Some(record) => Ok(Chunk::Record(Box::new(record))),
                None => Err(damaged("a record does not decode")),
            },
            (ADAPTER, Some(number)) => Ok(Chunk::Adapter(number, bytes.get(8..).unwrap_or_default().to_vec())),
            (END, Some(records)) if bytes.len() == 8 => Ok(Chunk::End(records)),
            _ => Err(damaged("a piece is malformed")),
        }
    }

    /// The next record, if records are not over.
    pub fn record(&mut self) -> Result<Option<Record>> {
        match self.next()? {
            Chunk::Record(record) => Ok(Some(*record)),
            other => {
                self.ahead = Some(other);
                Ok(None)
            }
        }
    }

    /// Makes sure that nothing follows, and that all of it was authentic.
    pub fn finish(mut self) -> Result<()> {
        match self.source.read(&mut [0; 1]).map_err(torn)? {
            0 => Ok(()),
            _ => Err(damaged("something follows its end")),
        }
    }
}
