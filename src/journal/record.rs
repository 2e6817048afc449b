//! What a journal records. These types are its format (see `docs/journal-format.md`): enumerations only grow at their end.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::segment::{Footer, Place, SegmentInfo};
use crate::adapter::Verdict;
use crate::error::{Error, Result};

/// Name of one interaction of a profile, counted from 0 in the order of the journal.
///
/// It is shown scrambled, so that neighbours do not look alike: the first 65,536 as four hex digits, later ones as eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InteractionId(pub u32);

/// Ids below this are shown with four digits.
const SHORT: u32 = 1 << 16;
const SHORT_FACTOR: u16 = 40_503;
const SHORT_INVERSE: u16 = inverse(SHORT_FACTOR as u32) as u16;
const SHORT_MASK: u16 = 0xA1C3;
const LONG_FACTOR: u32 = 2_654_435_769;
const LONG_INVERSE: u32 = inverse(LONG_FACTOR);
const LONG_MASK: u32 = 0x5EED_A1C3;

/// Inverse of an odd number modulo 2^32 (Newton: each round doubles the right bits, of which an odd number has 3 to begin with).
const fn inverse(odd: u32) -> u32 {
    let mut x = odd;
    let mut round = 0;
    while round < 5 {
        x = x.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(x)));
        round += 1;
    }
    x
}

impl fmt::Display for InteractionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match u16::try_from(self.0) {
            Ok(n) => write!(f, "{:04x}", n.wrapping_mul(SHORT_FACTOR) ^ SHORT_MASK),
            Err(_) => write!(f, "{:08x}", self.0.wrapping_mul(LONG_FACTOR) ^ LONG_MASK),
        }
    }
}

impl FromStr for InteractionId {
    type Err = Error;
    /// Reads what [`InteractionId`] prints.
    fn from_str(text: &str) -> Result<InteractionId> {
        let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
        let id = match text.len() {
            4 if hex => u16::from_str_radix(text, 16)
                .ok()
                .map(|shown| u32::from((shown ^ SHORT_MASK).wrapping_mul(SHORT_INVERSE))),
            8 if hex => u32::from_str_radix(text, 16)
                .ok()
                .map(|shown| (shown ^ LONG_MASK).wrapping_mul(LONG_INVERSE))
                .filter(|n| *n >= SHORT),
            _ => None,
        };
        id.map(InteractionId).ok_or_else(|| {
            Error::usage(format!("{text:?} is not the id of an interaction"))
                .hint("give the id that predict printed: four or eight hex digits")
        })
    }
}

/// Type of the elements of a stored array.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// Signed 64-bit integer.
    I64,
    /// Unsigned byte.
    U8,
}

impl Dtype {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::I64 => 8,
            Dtype::U8 => 1,
        }
    }
}

/// One named array of an input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredArray {
    /// Name of the model's input.
    pub name: String,
    /// Type of the elements.
    pub dtype: Dtype,
    /// Length of each dimension.
    pub shape: Vec<u64>,
    /// Elements, little-endian, row-major.
    #[serde(with = "bytes")]
    pub data: Vec<u8>,
}

impl StoredArray {
    /// Whether the data have the length that shape and type ask for.
    pub fn is_sound(&self) -> bool {
        let elements = self.shape.iter().try_fold(self.dtype.size() as u64, |n, d| n.checked_mul(*d));
        elements == Some(self.data.len() as u64)
    }
}

/// An input as the journal keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum StoredInput {
    /// A text.
    Text(String),
    /// The model's inputs as they are.
    Arrays(Vec<StoredArray>),
    /// An image before preprocessing.
    Image {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// The PNG file.
        #[serde(with = "bytes")]
        png: Vec<u8>,
    },
}

/// What the person said about an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FeedbackKind {
    /// The right answer is this.
    Label(String),
    /// The answer is right.
    Accept,
    /// The answer is wrong, the right one unknown.
    Reject,
}

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// A question and its answer.
    Interaction {
        /// Its name.
        id: InteractionId,
        /// Unix time in milliseconds.
        at_ms: u64,
        /// What was asked.
        input: StoredInput,
        /// Labels and probabilities, best first.
        top: Vec<(String, f32)>,
        /// Generation that answered.
        generation: u64,
    },
    /// What the person said about an interaction.
    Feedback {
        /// The interaction.
        id: InteractionId,
        /// Unix time in milliseconds.
        at_ms: u64,
        /// What was said.
        kind: FeedbackKind,
    },
    /// A training run and its outcome.
    Training {
        /// Unix time in milliseconds.
        at_ms: u64,
        /// The new generation, if one was promoted.
        generation: Option<u64>,
        /// What the gate said.
        verdict: Verdict,
        /// Optimiser steps.
        steps: u64,
        /// Duration.
        seconds: f32,
    },
    /// Every byte before this record was on the medium before this record was written.
    Synced,
    /// The segments that come before what this file holds, oldest first; only ever the first record of a file.
    Segments(Vec<SegmentInfo>),
    /// In a sealed segment: where the records of these interactions stand, by growing id.
    Index(Vec<Place>),
    /// In a sealed segment: what it holds.
    Footer(Box<Footer>),
}

impl Record {
    /// Whether it tells of something that happened, and not of the file.
    pub fn is_told(&self) -> bool {
        matches!(self, Record::Interaction { .. } | Record::Feedback { .. } | Record::Training { .. })
    }

    /// The interaction that it is or speaks of.
    pub fn interaction(&self) -> Option<InteractionId> {
        match self {
            Record::Interaction { id, .. } | Record::Feedback { id, .. } => Some(*id),
            _ => None,
        }
    }
}

/// Byte strings as one block, which postcard copies at once.
mod bytes {
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Block;
        impl Visitor<'_> for Block {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        deserializer.deserialize_bytes(Block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_short_ids_are_distinct_and_read_back() {
        let mut seen = std::collections::HashSet::new();
        for n in 0..SHORT {
            let shown = InteractionId(n).to_string();
            assert_eq!(shown.len(), 4);
            assert_eq!(shown.parse::<InteractionId>().unwrap(), InteractionId(n));
            assert!(seen.insert(shown));
        }
    }

    #[test]
    fn neighbours_differ_in_more_than_one_digit() {
        for n in (0..1000).chain(SHORT..SHORT + 1000) {
            let (a, b) = (InteractionId(n).to_string(), InteractionId(n + 1).to_string());
            assert!(a.bytes().zip(b.bytes()).filter(|(x, y)| x != y).count() >= 2, "{a} {b}");
        }
    }

    #[test]
    fn other_texts_are_no_ids() {
        for text in ["", "abc", "abcde", "zzzz", "+123", "-1ab", "1234 ", "123456789", "éé"] {
            assert!(text.parse::<InteractionId>().is_err(), "{text:?}");
        }
        let short_as_long = format!("{:08x}", 5u32.wrapping_mul(LONG_FACTOR) ^ LONG_MASK);
        assert!(short_as_long.parse::<InteractionId>().is_err());
        assert_eq!("A1C3".parse::<InteractionId>().unwrap(), InteractionId(0));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn long_ids_read_back(n in SHORT..) {
            let shown = InteractionId(n).to_string();
            prop_assert_eq!(shown.len(), 8);
            prop_assert_eq!(shown.parse::<InteractionId>().unwrap(), InteractionId(n));
        }
    }
}
