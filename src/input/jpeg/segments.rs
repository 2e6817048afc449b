//! The segments of a JPEG file (ITU-T T.81, annex B): tables, the frame, the scans between them, the end.

use jpeg_decoder::ColorTransform;

use super::entropy::{self, Coverage, Part, Scan};
use super::frame::{Component, Frame};
use super::tables::Tables;
use super::{damaged, unsupported};
use crate::error::Result;

/// What a file holds, once all of it has been walked through.
pub(super) struct Survey<'a> {
    pub frame: Frame,
    /// The EXIF record, from its TIFF header on.
    pub exif: Option<&'a [u8]>,
    jfif: bool,
    /// The transform that an Adobe record names: 0 none, 1 YCbCr, 2 YCCK.
    adobe: Option<u8>,
}

/// The frame header of a file of which the beginning is given, or `None` where it is not within it.
pub(super) fn frame(start: &[u8]) -> Result<Option<Frame>> {
    let mut walk = Walk::new(start);
    loop {
        match walk.next() {
            Ok(Segment { marker, .. }) if is_end(marker) || marker == SOS => return Ok(None),
            Ok(Segment { marker, at, body }) if is_frame(marker) => return checked_frame(marker, body, at).map(Some),
            Ok(_) => {}
            // What a whole file lacks is said when all of it is read.
            Err(_) => return Ok(None),
        }
    }
}

impl<'a> Survey<'a> {
    /// Walks through all of a file, its coded data too.
    pub fn of(bytes: &'a [u8]) -> Result<Survey<'a>> {
        let mut walk = Walk::new(bytes);
        let mut tables = Tables::default();
        let (mut frame, mut exif, mut jfif, mut adobe) = (None::<Frame>, None, false, None);
        let mut coverage = Coverage::default();
        loop {
            let Segment { marker, at, body } = walk.next()?;
            match marker {
                m if is_frame(m) && frame.is_some() => return Err(unsupported("several frames (hierarchical)")),
                m if is_frame(m) => {
                    let new = checked_frame(m, body, at)?;
                    coverage = Coverage::new(&new);
                    frame = Some(new);
                }
                DHT => tables.huffman(body, at)?,
                DRI => tables.restart = restart_interval(body, at)?,
                SOS => {
                    let frame = frame.as_ref().ok_or_else(|| damaged(at, "coded data before the frame header"))?;
                    let scan = scan(frame, body, at)?;
                    walk.at = entropy::walk(bytes, walk.at, frame, &scan, &tables, &mut coverage)?;
                }
                0xe0 if body.starts_with(b"JFIF\0") => jfif = true,
                0xe1 if exif.is_none() => exif = body.strip_prefix(b"Exif\0\0"),
                0xee if body.starts_with(b"Adobe") => adobe = body.get(11).copied(),
                0xcc => return Err(unsupported("arithmetic coding")),
                0xdc => return Err(unsupported("its height only after the first scan")),
                0xde | 0xdf => return Err(unsupported("several frames (hierarchical)")),
                m if is_end(m) => {
                    let frame = frame.ok_or_else(|| damaged(at, "the file ends without a picture"))?;
                    coverage.complete(at)?;
                    return Ok(Survey { frame, exif, jfif, adobe });
                }
                _ => {}
            }
        }
    }

    /// How the colour planes are to be read, by libjpeg's rules (`default_decompress_parms`); the decoder's own differ.
    pub fn colors(&self) -> ColorTransform {
        let ids: Vec<u8> = self.frame.components.iter().map(|c| c.id).collect();
        match (ids.as_slice(), self.jfif, self.adobe) {
            ([_], ..) => ColorTransform::Grayscale,
            ([_, _, _], true, _) => ColorTransform::YCbCr,
            ([_, _, _], false, Some(0)) => ColorTransform::RGB,
            ([82, 71, 66], false, None) => ColorTransform::RGB,
            ([_, _, _], ..) => ColorTransform::YCbCr,
            (_, _, Some(2)) => ColorTransform::YCCK,
            _ => ColorTransform::CMYK,
        }
    }
}

const DHT: u8 = 0xc4;
const SOS: u8 = 0xda;
const DRI: u8 = 0xdd;

fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xc0..=0xcf) && !matches!(marker, DHT | 0xc8 | 0xcc)
}

fn is_end(marker: u8) -> bool {
    marker == 0xd9
}

fn checked_frame(marker: u8, body: &[u8], at: usize) -> Result<Frame> {
    match marker {
        0xc0..=0xc2 => Frame::read(marker, body, at),
        0xc3 | 0xc7 | 0xcb | 0xcf => Err(unsupported("lossless coding")),
        0xc9 | 0xca | 0xcd | 0xce => Err(unsupported("arithmetic coding")),
        _ => Err(unsupported("several frames (hierarchical)")),
    }
}

/// A marker, where it stands, and what it holds.
struct Segment<'a> {
    marker: u8,
    at: usize,
    body: &'a [u8],
}

struct Walk<'a> {
    bytes: &'a [u8],
    /// The next byte.
    at: usize,
}

impl<'a> Walk<'a> {
    /// After the first marker, the start of the picture.
    fn new(bytes: &'a [u8]) -> Walk<'a> {
        Walk { bytes, at: 2 }
    }

    /// The next segment. Bytes between segments, which some cameras write, are passed over.
    fn next(&mut self) -> Result<Segment<'a>> {
        let end = |_| damaged(self.bytes.len(), "the file ends before its picture does");
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let is_marker = |pair: &[u8]| matches!(pair, [0xff, m] if !matches!(m, 0 | 0xff));
        let skipped = rest.windows(2).position(is_marker).ok_or(()).map_err(end)?;
        let at = self.at + skipped;
        let marker = self.bytes.get(at + 1).copied().ok_or(()).map_err(end)?;
        self.at = at + 2;
        // These stand alone.
        if matches!(marker, 0x01 | 0xd0..=0xd9) {
            return Ok(Segment { marker, at, body: &[] });
        }
        let length = match self.bytes.get(self.at..self.at + 2) {
            Some(&[a, b]) => usize::from(u16::from_be_bytes([a, b])),
            _ => return Err(end(())),
        };
        if length < 2 {
            return Err(damaged(at, "a segment of an impossible length"));
        }
        let body = self.bytes.get(self.at + 2..self.at + length).ok_or(()).map_err(end)?;
        self.at += length;
        Ok(Segment { marker, at, body })
    }
}

fn restart_interval(body: &[u8], at: usize) -> Result<u32> {
    match *body {
        [a, b] => Ok(u16::from_be_bytes([a, b]).into()),
        _ => Err(damaged(at, "a restart interval of the wrong length")),
    }
}

/// A scan header, whose components are given by their places in the frame.
fn scan(frame: &Frame, body: &[u8], at: usize) -> Result<Scan> {
    let wrong = |why: &str| damaged(at, why);
    let (&count, rest) = body.split_first().ok_or_else(|| wrong("a scan header that is too short"))?;
    let Some((pairs, &[from, to, bits])) = rest.split_at_checked(2 * usize::from(count)) else {
        return Err(wrong("a scan header of the wrong length"));
    };
    let mut parts = Vec::with_capacity(pairs.len() / 2);
    for &[id, tables] in pairs.as_chunks::<2>().0 {
        let place = frame.components.iter().position(|c| c.id == id);
        let place = place.ok_or_else(|| wrong("a scan of a colour component that the frame does not have"))?;
        parts.push(Part { place, dc: (tables >> 4).into(), ac: (tables & 15).into() });
    }
    // A sequential scan is all 64 coefficients with all their bits.
    let (from, to, bits) = if frame.progressive { (from, to, bits) } else { (0, 63, 0) };
    let scan = Scan { parts, from, to, high: bits >> 4, low: bits & 15 };
    // A progressive scan is the first coefficients of some components, or others of one.
    let fits = !frame.progressive || (from, to) == (0, 0) || (from > 0 && scan.parts.len() == 1);
    if scan.parts.is_empty() || from > to || to > 63 || scan.low > 13 || !fits {
        return Err(wrong("a scan header that contradicts itself"));
    }
    let (h, v) = frame.max_factors();
    let between = |c: &Component| (c.h > 1 && c.h < h) || (c.v > 1 && c.v < v);
    if let [part] = scan.parts.as_slice()
        && frame.components.get(part.place).is_some_and(between)
    {
        // The decoder counts such a plane's blocks wrong.
        return Err(unsupported(
            "a colour plane of a quarter and one of half the width or height, in scans of their own",
        ));
    }
    Ok(scan)
}
