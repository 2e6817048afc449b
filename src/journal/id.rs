//! Names of interactions, and of the files of a journal.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Random name of one journal file.
pub type JournalId = [u8; 16];

/// A random name for a new journal file.
pub(super) fn random_id() -> Result<JournalId> {
    let mut id = [0; 16];
    crate::cipher::random(&mut id)?;
    Ok(id)
}

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
                .hint("give the id that came with the answer: four or eight hex digits")
        })
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
