//! An ONNX file whose large tensors begin where a page of memory can begin, so that they can be used from a map of it.
//!
//! Before the values of each stands a field that no version of ONNX has and that every reader of protobuf skips.
//! Without these fields, and with every length in as few bytes as it takes, the file is the original again, byte for
//! byte: so it has the original's hash.

use std::ops::Range;

use super::wire::{FIVE, Message, fields, five_bytes, key, shortest};

/// Large tensors begin at multiples of it. It is the size of a page on a Raspberry Pi 5; pages of other machines are
/// mostly smaller.
pub(super) const ALIGNMENT: u64 = 16 << 10;

/// The field of a `TensorProto` that moves what follows.
const PADDING: u32 = 6860;

/// A piece of a file that is made from another one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Piece {
    /// These bytes.
    New(Vec<u8>),
    /// The other file's bytes at this place.
    Copy(Range<usize>),
}

/// The pieces of the aligned form of the file in `bytes`; none if it has no large tensor, or is not plainly written.
pub(super) fn aligned(bytes: &[u8]) -> Option<Vec<Piece>> {
    let mut layout = Layout { bytes, pieces: vec![], at: 0, moved: false };
    layout.message(0..bytes.len(), Message::Model)?;
    layout.moved.then_some(layout.pieces)
}

struct Layout<'a> {
    bytes: &'a [u8],
    pieces: Vec<Piece>,
    /// Length of the pieces.
    at: u64,
    moved: bool,
}

impl Layout<'_> {
    fn put(&mut self, piece: Piece) {
        self.at += match &piece {
            Piece::New(bytes) => bytes.len(),
            Piece::Copy(range) => range.len(),
        } as u64;
        put(&mut self.pieces, piece);
    }

    fn message(&mut self, within: Range<usize>, kind: Message) -> Option<()> {
        for field in fields(self.bytes, within)? {
            if kind == Message::Tensor && field.number == PADDING {
                return None;
            }
            if let Some(child) = kind.inside(&field) {
                let header = [self.bytes.get(field.whole.start..field.key_end)?, &[0; FIVE]].concat();
                let (length, key) = (self.pieces.len(), header.len() - FIVE);
                self.at += header.len() as u64;
                self.pieces.push(Piece::New(header));
                let start = self.at;
                self.message(field.value, child)?;
                let inside = five_bytes(usize::try_from(self.at - start).ok()?)?;
                if let Some(Piece::New(header)) = self.pieces.get_mut(length) {
                    header[key..].copy_from_slice(&inside);
                }
                continue;
            }
            if kind.is_large_raw(&field) {
                let mut padding = key(PADDING);
                let before = (padding.len() + FIVE + field.value.start - field.whole.start) as u64;
                let zeros = (self.at + before).wrapping_neg() % ALIGNMENT;
                padding.extend(five_bytes(zeros as usize)?);
                padding.resize(padding.len() + zeros as usize, 0);
                self.put(Piece::New(padding));
                self.moved = true;
            }
            self.put(Piece::Copy(field.whole));
        }
        Some(())
    }
}

/// The pieces of the file that was aligned to make that in `bytes`; none if none was.
pub(super) fn original(bytes: &[u8]) -> Option<Vec<Piece>> {
    let mut found = Found { bytes, padded: false };
    let pieces = found.message(0..bytes.len(), Message::Model)?.0;
    found.padded.then_some(pieces)
}

struct Found<'a> {
    bytes: &'a [u8],
    padded: bool,
}

impl Found<'_> {
    /// The pieces of a message and their length.
    fn message(&mut self, within: Range<usize>, kind: Message) -> Option<(Vec<Piece>, usize)> {
        let (mut pieces, mut length) = (vec![], 0);
        for field in fields(self.bytes, within)? {
            if kind == Message::Tensor && field.number == PADDING {
                // Whatever else is in there would escape the hash.
                self.bytes.get(field.value.clone())?.iter().all(|b| *b == 0).then_some(())?;
                self.padded = true;
                continue;
            }
            if let Some(child) = kind.inside(&field) {
                let (inner, inside) = self.message(field.value, child)?;
                let header = [self.bytes.get(field.whole.start..field.key_end)?, &shortest(inside)].concat();
                length += header.len() + inside;
                put(&mut pieces, Piece::New(header));
                inner.into_iter().for_each(|piece| put(&mut pieces, piece));
                continue;
            }
            length += field.whole.len();
            put(&mut pieces, Piece::Copy(field.whole));
        }
        Some((pieces, length))
    }
}

/// Adds a piece; one that continues the last is joined with it.
fn put(pieces: &mut Vec<Piece>, piece: Piece) {
    if let (Some(Piece::Copy(last)), Piece::Copy(next)) = (pieces.last_mut(), &piece)
        && last.end == next.start
    {
        last.end = next.end;
        return;
    }
    pieces.push(piece);
}
