//! Random numbers that are the same wherever they are drawn: ChaCha8 read 32 bits at a time by a
//! Fisher–Yates shuffle of our own with rejection, so that a later version of `rand` cannot change it.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The crate's one random stream for decisions that must be repeatable: ChaCha8 keyed by (seed, stream, number, 0).
pub(crate) fn keyed_rng(seed: u64, stream: u64, number: u64) -> ChaCha8Rng {
    let mut key = [0u8; 32];
    for (bytes, word) in key.chunks_exact_mut(8).zip([seed, stream, number, 0]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

/// Fisher–Yates, from the last place down.
pub(crate) fn shuffle<T>(items: &mut [T], mut rng: ChaCha8Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(&mut rng, last as u32 + 1) as usize);
    }
}

/// A uniform number below `n > 0`: 32-bit draws at or beyond the last whole multiple of `n` are thrown away.
fn below(rng: &mut ChaCha8Rng, n: u32) -> u32 {
    let limit = (1u64 << 32) / u64::from(n) * u64::from(n);
    loop {
        let draw = rng.next_u32();
        if u64::from(draw) < limit {
            return draw % n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_fixed() {
        let mut order: Vec<u32> = (0..8).collect();
        shuffle(&mut order, keyed_rng(7, 1, 2));
        assert_eq!(order, FIXED);
    }
    const FIXED: [u32; 8] = [6, 0, 3, 1, 7, 2, 4, 5];
}
