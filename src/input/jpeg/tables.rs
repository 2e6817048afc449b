//! The Huffman tables of a JPEG file (ITU-T T.81, annex C).

use super::damaged;
use crate::error::Result;

/// Bits that the first look at a code takes; longer codes are searched.
pub(super) const LOOK: u32 = 9;

/// A Huffman table.
pub(super) struct Table {
    /// Length and value of the code that starts with these bits; length 0 where it is longer than [`LOOK`].
    pub short: Vec<(u8, u8)>,
    /// For each length: the codes below this belong to it, aligned to 16 bits, and value 0 of it is at this place.
    pub long: [(u32, i32); 17],
    pub values: Vec<u8>,
}

impl Table {
    /// From the numbers of codes of each length and their values; `None` where there are more codes than a length has.
    pub fn new(counts: &[u8; 16], values: &[u8]) -> Option<Table> {
        let mut table = Table { short: vec![(0, 0); 1 << LOOK], long: [(0, 0); 17], values: values.to_vec() };
        let (mut code, mut place) = (0u32, 0usize);
        for (length, &count) in (1u32..).zip(counts) {
            let first = code;
            table.long[length as usize].1 = place as i32 - first as i32;
            for _ in 0..count {
                let &value = values.get(place)?;
                if length <= LOOK {
                    let from = (code << (LOOK - length)) as usize;
                    table.short.get_mut(from..from + (1 << (LOOK - length)))?.fill((length as u8, value));
                }
                code += 1;
                place += 1;
            }
            if code > 1 << length {
                return None;
            }
            table.long[length as usize].0 = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }
}

/// The tables that a scan reads with.
#[derive(Default)]
pub(super) struct Tables {
    pub dc: [Option<Table>; 4],
    pub ac: [Option<Table>; 4],
    /// MCUs between restart markers, 0 without.
    pub restart: u32,
}

impl Tables {
    pub fn huffman(&mut self, mut body: &[u8], at: usize) -> Result<()> {
        let short = || damaged(at, "a code table that is too short");
        while let Some((&kind, rest)) = body.split_first() {
            let counts: &[u8; 16] = rest.first_chunk().ok_or_else(short)?;
            let total: usize = counts.iter().map(|&n| usize::from(n)).sum();
            let values = rest.get(16..16 + total).ok_or_else(short)?;
            let table =
                Table::new(counts, values).ok_or_else(|| damaged(at, "a code table that contradicts itself"))?;
            let tables = if kind >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            *tables.get_mut(usize::from(kind & 15)).ok_or_else(short)? = Some(table);
            body = rest.get(16 + total..).unwrap_or_default();
        }
        Ok(())
    }
}
