//! The bytes of an adapter file, as `docs/adapter-format.md` lays them out: preamble, header, aligned tensors, hash
//! over everything.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::known::KnownShape;
use super::{
    Adapter, Calibrated, Confusions, Fingerprint, HeadShape, Lineage, Pooling, SiteKind, Verdict, check_confusions,
    check_data, check_head, check_order, check_site, elements,
};
use crate::error::{Error, Result};

#[cfg(target_endian = "big")]
compile_error!("adapter tensors are used as they lie in the file, which is little-endian");

/// First bytes of every adapter file.
pub const MAGIC: [u8; 8] = *b"ACCLADPT";
/// The format this code writes.
pub const VERSION: u32 = 3;
/// The first format with [`Calibrated`] in its header.
const CALIBRATED: u32 = 2;
/// The first format that says whether the head's features are normalised.
const NORMALISED: u32 = 3;
/// Tensors start at multiples of this.
pub const ALIGNMENT: usize = 64;
/// Longest header, in bytes.
pub const MAX_HEADER: usize = 16 << 20;
/// Longest file, in bytes.
pub const MAX_FILE: u64 = 4 << 30;

const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 8;
const HEADER_LEN_AT: usize = 12;
const TOTAL_LEN_AT: usize = 16;
const DATA_OFFSET_AT: usize = 24;
const DATA_LEN_AT: usize = 32;
const HEADER_CRC_AT: usize = 40;
const RESERVED_AT: usize = 44;
const PREAMBLE_CRC_AT: usize = 60;
pub(super) const PREAMBLE_LEN: usize = 64;
const HASH_LEN: usize = 32;

/// Shape of a tensor and where its data start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorPlace {
    /// Length of each dimension.
    pub shape: Vec<usize>,
    /// Bytes from the start of the tensor area.
    pub offset: u64,
}

/// A site's entry in the header; see [`super::SiteDelta`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SiteHeader {
    /// Name of the ONNX node.
    pub name: String,
    /// Sort of layer.
    pub kind: SiteKind,
    /// Rank of the delta.
    pub rank: u32,
    /// Scale numerator.
    pub alpha: f32,
    /// Where A is.
    pub a: TensorPlace,
    /// Where B is.
    pub b: TensorPlace,
}

/// The head's entry in the header; see [`super::HeadDelta`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeadHeader {
    /// Length of the feature vector.
    pub features: usize,
    /// Classes of the base.
    pub base_classes: usize,
    /// Classes with this head.
    pub classes: usize,
    /// How a sequence of features becomes one vector.
    pub pooling: Pooling,
    /// Class of each column.
    pub columns: Vec<u32>,
    /// Whether features are scaled to length 1 first; in formats 1 and 2 they are not.
    #[serde(skip)]
    pub normalised: bool,
    /// Where the weight is, features × columns.
    pub weight: TensorPlace,
    /// Where the bias is, one value per column.
    pub bias: TensorPlace,
}

/// The known inputs' entry in the header; see [`super::known::KnownInputs`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnownHeader {
    /// The class of each row of the means.
    pub classes: Vec<u32>,
    /// Where the centre is.
    pub centre: TensorPlace,
    /// Where the means are, classes × features.
    pub means: TensorPlace,
    /// Where the scores are.
    pub scores: TensorPlace,
}

/// Everything about an adapter but its tensors' data. This is the header of format 1, field for field; since format 2
/// [`Calibrated`], [`KnownHeader`] and [`Confusions`] follow it, and since format 3 whether the head's features are
/// normalised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdapterHeader {
    /// The only base it fits.
    pub base: Fingerprint,
    /// Task, such as "classification".
    pub task: String,
    /// Label of each class; may be empty.
    pub labels: Vec<String>,
    /// Sites, sorted by name.
    pub sites: Vec<SiteHeader>,
    /// Head, if there is one.
    pub head: Option<HeadHeader>,
    /// How the adapter came to be.
    pub lineage: Lineage,
    /// What the gate said.
    pub verdict: Verdict,
    /// How its scores become answers; of a file of format 1, as it was then.
    #[serde(skip)]
    pub calibrated: Calibrated,
    /// What its known inputs are like; nothing in a file of format 1.
    #[serde(skip)]
    pub known: Option<KnownHeader>,
    /// Which answers of the base model it may change; any where there is none, as in a file of format 1.
    #[serde(skip)]
    pub confusions: Option<Confusions>,
}

impl AdapterHeader {
    /// Tensors in file order.
    fn places(&self) -> impl Iterator<Item = (&str, &TensorPlace)> {
        let sites = self.sites.iter().flat_map(|s| [(s.name.as_str(), &s.a), (s.name.as_str(), &s.b)]);
        let head = self.head.iter().flat_map(|h| [("head", &h.weight), ("head", &h.bias)]);
        let known = self.known.iter().flat_map(|k| [&k.centre, &k.means, &k.scores].map(|t| ("known inputs", t)));
        sites.chain(head).chain(known)
    }

    fn check(&self) -> Result<()> {
        check_order(self.sites.iter().map(|s| s.name.as_str()))?;
        for s in &self.sites {
            check_site(&s.name, s.kind, s.rank, s.alpha, &s.a.shape, &s.b.shape)?;
        }
        check_confusions(self.confusions.as_ref(), self.head.as_ref().map(|h| h.classes))?;
        self.calibrated.check()?;
        if let Some(k) = &self.known {
            let (classes, centre, means, scores) = (&k.classes, &k.centre.shape, &k.means.shape, &k.scores.shape);
            KnownShape { classes, centre, means, scores }.check()?;
        }
        let Some(h) = &self.head else { return Ok(()) };
        let shape = HeadShape {
            features: h.features,
            base_classes: h.base_classes,
            classes: h.classes,
            columns: &h.columns,
            normalised: h.normalised,
            weight: &h.weight.shape,
            bias: &h.bias.shape,
        };
        check_head(&shape, self.labels.len())
    }

    /// Number of trained values.
    pub fn parameters(&self) -> u64 {
        let known = self.known.iter().flat_map(|k| [&k.centre, &k.means, &k.scores]);
        let count = |t: &TensorPlace| elements(&t.shape).unwrap_or(0) as u64;
        let all: u64 = self.places().map(|(_, t)| count(t)).sum();
        all.saturating_sub(known.map(count).sum())
    }
}

/// The first bytes of the file.
pub(super) struct Preamble {
    version: u32,
    pub(super) header_len: usize,
    pub(super) total_len: u64,
    data_offset: usize,
    data_len: usize,
    header_crc: u32,
}

pub(super) fn damaged(what: impl Into<String>) -> Error {
    Error::bad_data(what).hint("roll back to another generation, or copy the file again from where it came")
}

fn align(n: usize) -> Option<usize> {
    n.checked_next_multiple_of(ALIGNMENT)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|b| u32::from_le_bytes(*b))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|b| u64::from_le_bytes(*b))
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|b| *b == 0)
}

impl Preamble {
    fn encode(&self) -> [u8; PREAMBLE_LEN] {
        let mut out = [0; PREAMBLE_LEN];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(MAGIC_AT, &MAGIC);
        put(VERSION_AT, &self.version.to_le_bytes());
        put(HEADER_LEN_AT, &(self.header_len as u32).to_le_bytes());
        put(TOTAL_LEN_AT, &self.total_len.to_le_bytes());
        put(DATA_OFFSET_AT, &(self.data_offset as u64).to_le_bytes());
        put(DATA_LEN_AT, &(self.data_len as u64).to_le_bytes());
        put(HEADER_CRC_AT, &self.header_crc.to_le_bytes());
        let crc = crc32fast::hash(&out[..PREAMBLE_CRC_AT]);
        out[PREAMBLE_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Preamble> {
        let bytes: &[u8; PREAMBLE_LEN] =
            bytes.first_chunk().ok_or_else(|| damaged(format!("not an adapter: {} bytes are too few", bytes.len())))?;
        let (covered, crc) = bytes.split_at(PREAMBLE_CRC_AT);
        if !covered.starts_with(&MAGIC) {
            return Err(Error::bad_data("not an adapter: it does not start with ACCLADPT"));
        }
        if u32_at(crc, 0) != Some(crc32fast::hash(covered)) {
            return Err(damaged("damaged adapter: the preamble's checksum does not match"));
        }
        let version = u32_at(covered, VERSION_AT).unwrap_or(0);
        if !(1..=VERSION).contains(&version) {
            return Err(Error::bad_data(format!("adapter format {version} is not known here, only 1 to {VERSION}"))
                .hint("update acclimate to a version that reads it"));
        }
        let preamble = || {
            let header_len = usize::try_from(u32_at(covered, HEADER_LEN_AT)?).ok().filter(|n| *n <= MAX_HEADER)?;
            let total_len = u64_at(covered, TOTAL_LEN_AT).filter(|n| *n <= MAX_FILE)?;
            let data_offset = usize::try_from(u64_at(covered, DATA_OFFSET_AT)?).ok()?;
            let data_len = usize::try_from(u64_at(covered, DATA_LEN_AT)?).ok()?;
            let whole = data_offset.checked_add(data_len)?.checked_add(HASH_LEN)? as u64;
            let sound = align(PREAMBLE_LEN.checked_add(header_len)?)? == data_offset
                && data_len.is_multiple_of(ALIGNMENT)
                && whole == total_len
                && is_zero(covered.get(RESERVED_AT..)?);
            let header_crc = u32_at(covered, HEADER_CRC_AT)?;
            sound.then_some(Preamble { version, header_len, total_len, data_offset, data_len, header_crc })
        };
        preamble().ok_or_else(|| damaged("damaged adapter: the lengths in its preamble contradict each other"))
    }

    fn header_end(&self) -> usize {
        PREAMBLE_LEN.saturating_add(self.header_len)
    }
}

pub(super) fn decode_header(preamble: &Preamble, bytes: &[u8]) -> Result<AdapterHeader> {
    if crc32fast::hash(bytes) != preamble.header_crc {
        return Err(damaged("damaged adapter: the header's checksum does not match"));
    }
    let odd = |e| damaged("damaged adapter: its header does not decode").because(e);
    let (mut header, mut rest) = postcard::take_from_bytes::<AdapterHeader>(bytes).map_err(odd)?;
    if preamble.version >= CALIBRATED {
        ((header.calibrated, header.known, header.confusions), rest) = postcard::take_from_bytes(rest).map_err(odd)?;
    }
    if preamble.version >= NORMALISED {
        let normalised: bool;
        (normalised, rest) = postcard::take_from_bytes(rest).map_err(odd)?;
        match &mut header.head {
            Some(head) => head.normalised = normalised,
            None if normalised => return Err(damaged("damaged adapter: normalised features without a head")),
            None => {}
        }
    }
    if !rest.is_empty() {
        return Err(damaged(format!("damaged adapter: {} stray bytes in its header", rest.len())));
    }
    header.check().map(|()| header)
}

/// Checks every byte of an adapter file; its header, and the byte range of each tensor in file order.
pub(super) fn verify(bytes: &[u8]) -> Result<(AdapterHeader, Vec<Range<usize>>)> {
    let preamble = Preamble::decode(bytes)?;
    if bytes.len() as u64 != preamble.total_len {
        return Err(damaged(format!(
            "damaged adapter: {} bytes instead of {}, {}",
            bytes.len(),
            preamble.total_len,
            if (bytes.len() as u64) < preamble.total_len { "it is cut off" } else { "something follows it" }
        )));
    }
    let uncovered = || damaged("damaged adapter: its lengths do not cover it");
    let (covered, hash) = bytes.split_last_chunk::<HASH_LEN>().ok_or_else(uncovered)?;
    if blake3::hash(covered) != *hash {
        return Err(damaged("damaged adapter: its hash does not match its contents"));
    }
    let header = decode_header(&preamble, bytes.get(PREAMBLE_LEN..preamble.header_end()).ok_or_else(uncovered)?)?;
    let padding = |range: Range<usize>| match covered.get(range) {
        Some(bytes) if is_zero(bytes) => Ok(()),
        _ => Err(damaged("damaged adapter: its padding is not zero")),
    };
    padding(preamble.header_end()..preamble.data_offset)?;

    let mut ranges = Vec::new();
    let mut next = preamble.data_offset;
    for (name, place) in header.places() {
        let misplaced = || damaged("damaged adapter: a tensor is not where it belongs").at(name);
        let offset = usize::try_from(place.offset).ok().and_then(|o| o.checked_add(preamble.data_offset));
        let len = elements(&place.shape).and_then(|n| n.checked_mul(size_of::<f32>()));
        let end =
            len.and_then(|len| next.checked_add(len)).filter(|end| *end <= covered.len()).ok_or_else(misplaced)?;
        if offset != Some(next) {
            return Err(misplaced());
        }
        check_data(name, &place.shape, floats(covered, next..end))?;
        ranges.push(next..end);
        next = align(end).ok_or_else(misplaced)?;
        padding(end..next)?;
    }
    if next != covered.len() {
        return Err(damaged("damaged adapter: bytes after its last tensor"));
    }
    Ok((header, ranges))
}

/// The floats at `range`, empty where the bytes are not those of aligned floats.
pub(super) fn floats(bytes: &[u8], range: Range<usize>) -> &[f32] {
    bytes.get(range).and_then(|b| bytemuck::try_cast_slice(b).ok()).unwrap_or(&[])
}

/// Lays tensors out one after the other.
#[derive(Default)]
struct Area(Vec<u8>);

impl Area {
    fn place(&mut self, shape: &[usize], data: &[f32]) -> TensorPlace {
        let offset = self.0.len() as u64;
        self.0.extend_from_slice(bytemuck::cast_slice(data));
        self.0.resize(self.0.len().next_multiple_of(ALIGNMENT), 0);
        TensorPlace { shape: shape.to_vec(), offset }
    }
}

fn encode_header(header: &AdapterHeader) -> Result<Vec<u8>> {
    let odd = |e| Error::internal("cannot encode a header").because(e);
    let first = postcard::to_stdvec(header).map_err(odd)?;
    let normalised = header.head.as_ref().is_some_and(|head| head.normalised);
    postcard::to_extend(&(&header.calibrated, &header.known, &header.confusions, normalised), first).map_err(odd)
}

/// The bytes of an adapter file.
///
/// # Errors
/// `BadData` if the adapter is not valid; `Usage` if it is larger than the format allows.
pub fn encode(adapter: &Adapter) -> Result<Vec<u8>> {
    adapter.validate()?;
    let mut area = Area::default();
    let mut sites = Vec::with_capacity(adapter.sites.len());
    for s in &adapter.sites {
        let a = area.place(&s.a.shape, &s.a.data);
        let b = area.place(&s.b.shape, &s.b.data);
        sites.push(SiteHeader { name: s.name.clone(), kind: s.kind, rank: s.rank, alpha: s.alpha, a, b });
    }
    let head = adapter.head.as_ref().map(|h| HeadHeader {
        features: h.features,
        base_classes: h.base_classes,
        classes: h.classes,
        pooling: h.pooling,
        columns: h.columns.clone(),
        normalised: h.normalised,
        weight: area.place(&h.weight.shape, &h.weight.data),
        bias: area.place(&[h.bias.len()], &h.bias),
    });
    let known = adapter.known.as_ref().map(|k| KnownHeader {
        classes: k.classes.clone(),
        centre: area.place(&[k.centre.len()], &k.centre),
        means: area.place(&k.means.shape, &k.means.data),
        scores: area.place(&[k.scores.len()], &k.scores),
    });
    let header = AdapterHeader {
        base: adapter.base,
        task: adapter.task.clone(),
        labels: adapter.labels.clone(),
        sites,
        head,
        lineage: adapter.lineage.clone(),
        verdict: adapter.verdict.clone(),
        calibrated: adapter.calibrated.clone(),
        known,
        confusions: adapter.confusions.clone(),
    };
    let header = encode_header(&header)?;
    let data_offset = (PREAMBLE_LEN + header.len()).next_multiple_of(ALIGNMENT);
    let total_len = (data_offset + area.0.len() + HASH_LEN) as u64;
    if header.len() > MAX_HEADER || total_len > MAX_FILE {
        return Err(Error::usage("the adapter is too large for a file").hint("choose a lower rank or fewer sites"));
    }
    let preamble = Preamble {
        version: VERSION,
        header_len: header.len(),
        total_len,
        data_offset,
        data_len: area.0.len(),
        header_crc: crc32fast::hash(&header),
    };
    let mut out = Vec::with_capacity(total_len as usize);
    out.extend_from_slice(&preamble.encode());
    out.extend_from_slice(&header);
    out.resize(data_offset, 0);
    out.extend_from_slice(&area.0);
    let hash = blake3::hash(&out);
    out.extend_from_slice(hash.as_bytes());
    Ok(out)
}

#[cfg(test)]
mod tests;
