//! Adapter files: written once, loaded and verified in full before use. Their bytes are in [`super::layout`].

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::known::KnownView;
pub(crate) use super::layout::MAX_FILE;
pub use super::layout::{AdapterHeader, HeadHeader, SiteHeader, TensorPlace};
use super::layout::{PREAMBLE_LEN, Preamble, damaged, decode_header, encode, floats, verify};
use super::{Adapter, DenseTensor, Fingerprint, HeadDelta, SiteDelta};
use crate::disk::{Bytes, Disk, FileAccess, RealDisk, StagedFile, folder_of, read_full};
use crate::disk::{is_sealed, open_file, seal_file};
use crate::error::{Error, Result};

/// Writes an adapter file: temporary file, fsync, rename, fsync of the folder.
///
/// # Errors
/// `Usage` if `path` exists, `BadData` if the adapter is not valid, `Io`.
pub fn write_adapter(disk: &dyn Disk, path: &Path, adapter: &Adapter) -> Result<()> {
    stage_adapter(disk, path, adapter)?.publish(path)
}

/// Writes an adapter file that is to be called `name` and does not have that name yet; encrypted where the disk has a
/// key.
///
/// # Errors
/// As [`write_adapter`].
pub fn stage_adapter<'a>(disk: &'a dyn Disk, name: &Path, adapter: &Adapter) -> Result<StagedFile<'a>> {
    stage_bytes(disk, name, &seal_file(disk, name, encode(adapter)?)?)
}

/// The bytes of an adapter file, as they are stored, in a file that nobody may write to.
pub(crate) fn stage_bytes<'a>(disk: &'a dyn Disk, name: &Path, bytes: &[u8]) -> Result<StagedFile<'a>> {
    let mut staged = StagedFile::write(disk, folder_of(name), bytes)?;
    staged.set_read_only()?;
    Ok(staged)
}

/// Reads the header alone, checked by its checksums but not by the hash over the file; and the file's length. An
/// encrypted file is read as a whole.
///
/// # Errors
/// `BadData`, `Io`.
pub fn read_header(disk: &dyn Disk, path: &Path) -> Result<(AdapterHeader, u64)> {
    let io = |e| Error::io("cannot read the adapter", path, e);
    let file = disk.open_read(path).map_err(io)?;
    let len = file.len().map_err(io)?;
    let mut start = [0; PREAMBLE_LEN];
    let n = read_full(&*file, &mut start, 0).map_err(io)?;
    if disk.cipher().is_some() || is_sealed(&start) {
        return AdapterFile::open_on(disk, path, None).map(|adapter| (adapter.header, len));
    }
    let preamble = Preamble::decode(start.get(..n).unwrap_or(&[])).map_err(|e| e.at(path.display()))?;
    if len != preamble.total_len {
        let what = format!("damaged adapter: {len} bytes instead of {}", preamble.total_len);
        return Err(damaged(what).at(path.display()));
    }
    let mut bytes = vec![0; preamble.header_len];
    let n = read_full(&*file, &mut bytes, PREAMBLE_LEN as u64).map_err(io)?;
    let header = decode_header(&preamble, bytes.get(..n).unwrap_or(&[])).map_err(|e| e.at(path.display()))?;
    Ok((header, len))
}

/// A tensor in the file's bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TensorView<'a> {
    /// Length of each dimension.
    pub shape: &'a [usize],
    /// Row-major values, 64-byte-aligned.
    pub data: &'a [f32],
}

impl TensorView<'_> {
    /// A copy of its own.
    pub fn to_dense(self) -> DenseTensor {
        DenseTensor { shape: self.shape.to_vec(), data: self.data.to_vec() }
    }
}

/// A site in the file's bytes.
#[derive(Debug, Clone, Copy)]
pub struct SiteView<'a> {
    /// Name, kind, rank, alpha.
    pub header: &'a SiteHeader,
    /// A.
    pub a: TensorView<'a>,
    /// B.
    pub b: TensorView<'a>,
}

/// An adapter file, verified in full; tensors are read where they lie in it, mapped or in memory of its own.
#[derive(Debug)]
pub struct AdapterFile {
    path: PathBuf,
    bytes: Bytes,
    header: AdapterHeader,
    /// Byte range of each tensor in file order.
    ranges: Vec<Range<usize>>,
}

impl AdapterFile {
    /// Reads and verifies an adapter file of the real disk; with `expected_base`, one that fits that base.
    ///
    /// # Errors
    /// `BadData` if the file is damaged or fits another base (both hashes are named), `Io`.
    pub fn open(path: &Path, expected_base: Option<&Fingerprint>) -> Result<AdapterFile> {
        AdapterFile::open_on(&RealDisk, path, expected_base)
    }

    /// As [`AdapterFile::open`], on any disk.
    ///
    /// # Errors
    /// As [`AdapterFile::open`].
    pub fn open_on(disk: &dyn Disk, path: &Path, expected_base: Option<&Fingerprint>) -> Result<AdapterFile> {
        AdapterFile::open_as(disk, path, expected_base, FileAccess::Read)
    }

    /// As [`AdapterFile::open`], on any disk, mapped or read. An encrypted file is always read.
    ///
    /// # Errors
    /// As [`AdapterFile::open`].
    pub fn open_as(
        disk: &dyn Disk,
        path: &Path,
        expected_base: Option<&Fingerprint>,
        access: FileAccess,
    ) -> Result<AdapterFile> {
        let bytes = match access {
            FileAccess::Mmap => disk.map(path, MAX_FILE),
            FileAccess::Read => disk.load(path, MAX_FILE),
        };
        let bytes = bytes.map_err(|e| Error::io("cannot read the adapter", path, e))?;
        let bytes = open_file(disk, path, &bytes)?.map_or(bytes, |plain| Bytes::copy_of(&plain));
        let file = AdapterFile::of_bytes(path, bytes)?;
        expected_base.map_or(Ok(()), |base| file.fits(base))?;
        Ok(file)
    }

    /// Whether it belongs to that base.
    ///
    /// # Errors
    /// `BadData` if not; both hashes are named.
    pub(crate) fn fits(&self, expected: &Fingerprint) -> Result<()> {
        let base = self.header.base;
        if *expected == base {
            return Ok(());
        }
        Err(Error::bad_data(format!(
            "this adapter belongs to another base: it was trained on {base}, the model here is {expected}"
        ))
        .at(self.path.display())
        .hint("use the model file it was trained on, or train a new adapter for this one"))
    }

    /// The bytes of the file, as they are without encryption.
    #[cfg(feature = "bundles")]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Verifies the bytes of the adapter file at `path`.
    pub(crate) fn of_bytes(path: &Path, bytes: Bytes) -> Result<AdapterFile> {
        let (header, ranges) = verify(&bytes).map_err(|e| {
            let place = match e.place() {
                Some(name) => format!("{name} in {}", path.display()),
                None => path.display().to_string(),
            };
            e.at(place)
        })?;
        Ok(AdapterFile { path: path.to_owned(), bytes, header, ranges })
    }

    /// Everything but the tensors.
    pub fn header(&self) -> &AdapterHeader {
        &self.header
    }
    /// Where the file was when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn view<'a>(&'a self, index: usize, place: &'a TensorPlace) -> TensorView<'a> {
        TensorView { shape: &place.shape, data: self.tensor(index) }
    }

    /// Whether its tensors lie in the page cache, not in memory of their own.
    pub fn is_mapped(&self) -> bool {
        self.bytes.is_mapped()
    }

    /// The values of tensor `index` in file order.
    pub(crate) fn tensor(&self, index: usize) -> &[f32] {
        floats(&self.bytes, self.ranges.get(index).cloned().unwrap_or(0..0))
    }

    /// The sites, sorted by name, with their tensors.
    pub fn sites(&self) -> impl Iterator<Item = SiteView<'_>> {
        self.header.sites.iter().enumerate().map(|(i, header)| SiteView {
            header,
            a: self.view(2 * i, &header.a),
            b: self.view(2 * i + 1, &header.b),
        })
    }

    /// The head's entry, its weight (features × columns) and its bias (columns).
    pub fn head(&self) -> Option<(&HeadHeader, TensorView<'_>, TensorView<'_>)> {
        let first = 2 * self.header.sites.len();
        self.header.head.as_ref().map(|h| (h, self.view(first, &h.weight), self.view(first + 1, &h.bias)))
    }

    /// What the known inputs are like.
    pub fn known(&self) -> Option<KnownView<'_>> {
        let first = 2 * self.header.sites.len() + 2 * usize::from(self.header.head.is_some());
        self.header.known.as_ref().map(|k| KnownView {
            classes: &k.classes,
            centre: self.tensor(first),
            means: self.tensor(first + 1),
            scores: self.tensor(first + 2),
        })
    }

    /// A copy in memory.
    pub fn to_adapter(&self) -> Adapter {
        let sites = self.sites().map(|s| SiteDelta {
            name: s.header.name.clone(),
            kind: s.header.kind,
            rank: s.header.rank,
            alpha: s.header.alpha,
            a: s.a.to_dense(),
            b: s.b.to_dense(),
        });
        let head = self.head().map(|(h, weight, bias)| HeadDelta {
            features: h.features,
            base_classes: h.base_classes,
            classes: h.classes,
            pooling: h.pooling,
            columns: h.columns.clone(),
            normalised: h.normalised,
            weight: weight.to_dense(),
            bias: bias.data.to_vec(),
        });
        Adapter {
            base: self.header.base,
            task: self.header.task.clone(),
            labels: self.header.labels.clone(),
            sites: sites.collect(),
            head,
            lineage: self.header.lineage.clone(),
            verdict: self.header.verdict.clone(),
            confusions: self.header.confusions.clone(),
            calibrated: self.header.calibrated.clone(),
            known: self.known().map(|known| known.to_known_inputs()),
        }
    }
}

#[cfg(test)]
mod tests;
