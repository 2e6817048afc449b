//! The fields of protobuf messages, found without decoding what they hold.
//! The format: <https://protobuf.dev/programming-guides/encoding/>.

use std::ops::Range;

use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// Smaller contents stay in their messages.
pub(in super::super) const LARGE: usize = if cfg!(test) { 64 } else { 64 << 10 };

/// The messages of `onnx.proto` on the way to a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
}

/// `TensorProto.raw_data`.
pub(super) const RAW_DATA: u32 = 9;

impl Message {
    /// What the field `number` holds, if it is on that way.
    fn child(self, number: u32) -> Option<Message> {
        match (self, number) {
            (Message::Model, 7) => Some(Message::Graph),
            (Message::Graph, 1) => Some(Message::Node),
            (Message::Graph, 5) | (Message::Attribute, 5) => Some(Message::Tensor),
            (Message::Node, 5) => Some(Message::Attribute),
            _ => None,
        }
    }

    /// What `field` holds, if it is on that way and large enough to have large contents.
    pub fn inside(self, field: &Field) -> Option<Message> {
        self.child(field.number).filter(|_| field.delimited && field.value.len() >= LARGE)
    }

    /// Whether `field` is a tensor's values, large enough to be kept apart.
    pub fn is_large_raw(self, field: &Field) -> bool {
        self == Message::Tensor && field.number == RAW_DATA && field.delimited && field.value.len() >= LARGE
    }
}

/// One field of a message, as places in the file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Field {
    pub number: u32,
    /// Whether its key says that a length follows.
    pub delimited: bool,
    /// From its key to the end of its value.
    pub whole: Range<usize>,
    /// Where its key ends.
    pub key_end: usize,
    /// Its value, without the length.
    pub value: Range<usize>,
}

/// The fields of the message at `within`; none if that is no message.
pub(super) fn fields(bytes: &[u8], within: Range<usize>) -> Option<Vec<Field>> {
    let mut fields = vec![];
    let mut at = within.start;
    while at < within.end {
        let start = at;
        let mut rest = bytes.get(at..within.end)?;
        let (number, kind) = decode_key(&mut rest).ok()?;
        let key_end = within.end - rest.len();
        let length = match kind {
            WireType::Varint => {
                decode_varint(&mut rest).ok()?;
                let end = within.end - rest.len();
                fields.push(Field { number, delimited: false, whole: start..end, key_end, value: key_end..end });
                at = end;
                continue;
            }
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::LengthDelimited => usize::try_from(decode_varint(&mut rest).ok()?).ok()?,
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        let from = within.end - rest.len();
        let end = from.checked_add(length).filter(|end| *end <= within.end)?;
        let delimited = kind == WireType::LengthDelimited;
        fields.push(Field { number, delimited, whole: start..end, key_end, value: from..end });
        at = end;
    }
    Some(fields)
}

/// The key of a field that has a length.
pub(super) fn key(number: u32) -> Vec<u8> {
    let mut out = vec![];
    encode_key(number, WireType::LengthDelimited, &mut out);
    out
}

/// A length in as few bytes as it takes.
pub(super) fn shortest(length: usize) -> Vec<u8> {
    let mut out = vec![];
    encode_varint(length as u64, &mut out);
    out
}

/// Bytes of a length of [`five_bytes`].
pub(super) const FIVE: usize = 5;

/// A length in five bytes whatever it is, so that a file can be laid out before its lengths are known.
pub(super) fn five_bytes(length: usize) -> Option<[u8; FIVE]> {
    let seven = |i: usize| (length >> (7 * i) & 0x7f) as u8;
    let fits = length >> (7 * FIVE) == 0;
    fits.then(|| [seven(0) | 0x80, seven(1) | 0x80, seven(2) | 0x80, seven(3) | 0x80, seven(4)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_five_bytes_are_read_as_what_they_say() {
        for length in [0, 1, 127, 128, 300, 1 << 20, (1 << 35) - 1] {
            let five = five_bytes(length).unwrap();
            assert_eq!(decode_varint(&mut &five[..]).unwrap(), length as u64);
            assert_eq!(decode_varint(&mut &shortest(length)[..]).unwrap(), length as u64);
        }
        assert_eq!(five_bytes(1 << 35), None);
    }

    #[test]
    fn a_field_that_reaches_beyond_its_message_is_none() {
        let mut bytes = key(7);
        bytes.extend(shortest(3));
        bytes.extend([1, 2]);
        assert_eq!(fields(&bytes, 0..bytes.len()), None);
        bytes.push(3);
        assert_eq!(fields(&bytes, 0..bytes.len()).unwrap()[0].value, 2..5);
    }
}
