//! Inputs that nobody gave, made from those that somebody did: they teach what the base answers away from the feedback.
//!
//! The first corrections often speak of a class or two, and nothing that the person has done so far says what a delta on the
//! inner layers does to all others. So some synthetic inputs are made, the base answers them, and its probabilities are to be kept:
//! *pseudorehearsal* (Robins 1995, *Catastrophic forgetting, rehearsal and pseudorehearsal*). A synthetic input is a random mixture of two
//! real ones with noise of up to twice its spread, smooth to rough, so that it falls between and around what was met.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::input::{ArrayData, Example};

/// Synthetic inputs a training: measured on people the bundled activity model never met (docs/training.md).
const COUNT: usize = 64;
/// Largest deviation of the noise, in deviations of the input it is added to.
const LOUDEST: f32 = 2.0;
/// Strongest correlation of the noise between neighbours.
const SMOOTHEST: f32 = 0.95;

/// Inputs between and around those of `pool`; none when some array of the pool holds no float numbers, such as token ids.
pub(super) fn synthetic(pool: &[&Example], seed: u64) -> Vec<Example> {
    let floats = pool.iter().all(|e| e.arrays.iter().all(|a| matches!(a.data, ArrayData::F32(_))));
    if pool.is_empty() || !floats {
        return vec![];
    }
    let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed_4e4e);
    let mut one = || {
        let (first, second) = (pool[rng.random_range(0..pool.len())], pool[rng.random_range(0..pool.len())]);
        let share = rng.random_range(0.0f32..1.0);
        let loudness = rng.random_range(0.0..LOUDEST);
        let mut made = first.clone();
        for (into, other) in made.arrays.iter_mut().zip(&second.arrays) {
            if let (ArrayData::F32(x), ArrayData::F32(y)) = (&mut into.data, &other.data) {
                let deviation = loudness * spread(x);
                let smoothness = rng.random_range(0.0..SMOOTHEST);
                let fresh = (1.0 - smoothness * smoothness).sqrt();
                let mut noise = 0.0f32;
                for (x, y) in x.iter_mut().zip(y) {
                    noise = smoothness * noise + fresh * bell(&mut rng);
                    *x = share * *x + (1.0 - share) * y + deviation * noise;
                }
            }
        }
        made
    };
    (0..COUNT).map(|_| one()).collect()
}

/// Bytes of as many inputs of the size of the largest of `pool`.
pub(super) fn bytes<'a>(pool: impl Iterator<Item = &'a Example>) -> u64 {
    COUNT as u64 * pool.map(Example::bytes).max().unwrap_or(0)
}

/// Standard deviation of some values.
fn spread(values: &[f32]) -> f32 {
    let n = values.len().max(1) as f32;
    let mean = values.iter().sum::<f32>() / n;
    (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / n).sqrt()
}

/// Nearly normal, of mean 0 and variance 1: the sum of four uniform numbers, scaled.
fn bell(rng: &mut ChaCha8Rng) -> f32 {
    (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>() * 0.75f32.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::NamedArray;

    fn example(values: Vec<f32>) -> Example {
        let array = NamedArray::new("x", vec![values.len()], ArrayData::F32(values)).unwrap();
        Example { arrays: vec![array] }
    }

    #[test]
    fn they_surround_what_was_met_and_follow_the_seed() {
        let (low, high) = (example((0..64).map(|i| (i % 2) as f32).collect()), example(vec![10.0; 64]));
        let made = synthetic(&[&low, &high], 3);
        assert_eq!(made.len(), COUNT);
        assert_eq!(made, synthetic(&[&low, &high], 3));
        assert_ne!(made, synthetic(&[&low, &high], 4));
        let means: Vec<f32> = made
            .iter()
            .map(|e| match &e.arrays[0].data {
                ArrayData::F32(v) => v.iter().sum::<f32>() / v.len() as f32,
                other => panic!("{other:?}"),
            })
            .collect();
        let between = means.iter().filter(|m| (1.0..9.0).contains(*m)).count();
        assert!(between > COUNT / 4, "{means:?}");
        assert!(means.iter().all(|m| m.is_finite() && (-5.0..15.0).contains(m)), "{means:?}");
    }

    #[test]
    fn the_noise_has_unit_variance() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let values: Vec<f32> = (0..20_000).map(|_| bell(&mut rng)).collect();
        assert!((spread(&values) - 1.0).abs() < 0.03);
    }

    #[test]
    fn token_ids_are_not_made_up() {
        let ids = NamedArray::new("ids", vec![2], ArrayData::I64(vec![1, 2])).unwrap();
        assert!(synthetic(&[&Example { arrays: vec![ids] }], 0).is_empty());
        assert!(synthetic(&[], 0).is_empty());
    }
}
