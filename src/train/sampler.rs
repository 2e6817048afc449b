//! Which items make up which mini-batch: class-balanced epochs, batches of similar length.
//!
//! A batch depends on nothing but the items, the options and the epoch's number. The randomness is the ChaCha8 key stream
//! (`rand_chacha`), keyed by the little-endian words (seed, stream, epoch or pass, 0), and read 32 bits at a time by an own
//! Fisher–Yates shuffle with rejection, so that a later version of `rand` cannot change it.

use crate::error::{Error, Result};
use crate::stats::random::{keyed_rng, shuffle};
use rand_chacha::ChaCha8Rng;

/// One item that may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Item {
    /// Group for balancing: the class, or anything else whose groups should be seen alike.
    pub class: u32,
    /// Weight in the loss; passed through to the batch. Items of weight 0 are never drawn.
    pub weight: f32,
    /// Length (tokens, samples) for bucketing.
    pub length: u32,
}

/// Options of a [`Sampler`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Items in a mini-batch.
    pub batch: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// From 0 (every item once an epoch) to 1 (every class equally often): class c gets a share ∝ `count_c^(1 - balance)`.
    pub balance: f32,
    /// Whether to put items of similar length into the same batch.
    pub bucket: bool,
}

impl Default for SamplerOptions {
    fn default() -> SamplerOptions {
        SamplerOptions { batch: 16, seed: 0, balance: 0.5, bucket: false }
    }
}

/// A mini-batch; `items` and `weights` have the length asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Indices of the items. The last places of an epoch's last batch repeat its first items.
    pub items: Vec<usize>,
    /// Weight in the loss of each place; 0 for a repeat.
    pub weights: Vec<f32>,
    /// Greatest length among the items.
    pub length: u32,
}

/// Draws epochs of mini-batches.
#[derive(Clone, Debug)]
pub struct Sampler {
    items: Vec<Item>,
    options: SamplerOptions,
    /// Classes in ascending order, each with its items and its draws per epoch.
    classes: Vec<Class>,
}

#[derive(Clone, Debug)]
struct Class {
    class: u32,
    items: Vec<usize>,
    draws: usize,
}

/// Batches that are sorted by length together when bucketing: more gives evener lengths, fewer gives more chance.
const BUCKET_BATCHES: usize = 8;

impl Sampler {
    /// A sampler over `items`.
    ///
    /// # Errors
    /// When an option is out of range, a weight is negative or not finite, or no item has a positive weight.
    pub fn new(items: &[Item], options: SamplerOptions) -> Result<Sampler> {
        if options.batch == 0 || options.batch > 1 << 20 {
            return Err(Error::usage(format!("a mini-batch of {} items", options.batch)).hint("choose 1 or more"));
        }
        if !(0.0..=1.0).contains(&options.balance) {
            return Err(Error::usage("the class balance must be in [0, 1]"));
        }
        if items.iter().any(|i| !i.weight.is_finite() || i.weight < 0.0) {
            return Err(Error::bad_data("an item's weight is negative or not finite"));
        }
        let mut classes: Vec<Class> = Vec::new();
        for (index, item) in items.iter().enumerate().filter(|(_, i)| i.weight > 0.0) {
            match classes.binary_search_by_key(&item.class, |c| c.class) {
                Ok(at) => {
                    if let Some(c) = classes.get_mut(at) {
                        c.items.push(index);
                    }
                }
                Err(at) => classes.insert(at, Class { class: item.class, items: vec![index], draws: 0 }),
            }
        }
        let count = classes.iter().map(|c| c.items.len()).sum::<usize>();
        if count == 0 {
            return Err(Error::bad_data("there is nothing to learn from").hint("give some feedback first"));
        }
        deal(&mut classes, count, options.balance);
        Ok(Sampler { items: items.to_vec(), options, classes })
    }

    /// Draws in one epoch, before padding.
    pub fn draws(&self) -> usize {
        self.classes.iter().map(|c| c.draws).sum()
    }
    /// Mini-batches in one epoch.
    pub fn batches(&self) -> usize {
        self.draws().div_ceil(self.options.batch)
    }

    /// The mini-batches of epoch `epoch`, from 0. Over the epochs a class walks through its items in shuffled passes, so that
    /// the draws of any two of its items differ by at most one.
    pub fn epoch(&self, epoch: u64) -> Vec<Batch> {
        let mut drawn = Vec::with_capacity(self.draws());
        self.classes.iter().for_each(|c| self.draw(c, epoch, &mut drawn));
        let size = self.options.batch;
        shuffle(&mut drawn, self.rng(0, epoch));
        if self.options.bucket {
            for window in drawn.chunks_mut(size * BUCKET_BATCHES) {
                window.sort_by_key(|&i| self.items[i].length);
            }
        }
        let mut batches: Vec<Batch> = drawn.chunks(size).map(|chunk| self.batch(chunk)).collect();
        if self.options.bucket {
            shuffle(&mut batches, self.rng(1, epoch));
        }
        batches
    }

    /// Appends the draws of one class in one epoch: places [epoch·draws, (epoch+1)·draws) of its endless shuffled passes.
    fn draw(&self, class: &Class, epoch: u64, out: &mut Vec<usize>) {
        let n = class.items.len() as u64;
        let start = epoch.wrapping_mul(class.draws as u64);
        let mut left = class.draws;
        let (mut pass, mut skip) = (start / n, (start % n) as usize);
        while left > 0 {
            let mut order = class.items.clone();
            shuffle(&mut order, self.rng(2 + 2 * u64::from(class.class), pass));
            let before = out.len();
            out.extend(order.into_iter().skip(skip).take(left));
            left -= out.len() - before;
            (pass, skip) = (pass.wrapping_add(1), 0);
        }
    }

    fn batch(&self, chunk: &[usize]) -> Batch {
        let size = self.options.batch;
        let items: Vec<usize> = chunk.iter().copied().cycle().take(size).collect();
        let weights = items
            .iter()
            .enumerate()
            .map(|(place, &i)| if place < chunk.len() { self.items[i].weight } else { 0.0 })
            .collect();
        let length = items.iter().map(|&i| self.items[i].length).max().unwrap_or(0);
        Batch { items, weights, length }
    }

    fn rng(&self, stream: u64, number: u64) -> ChaCha8Rng {
        keyed_rng(self.options.seed, stream, number)
    }
}

/// Splits `draws` among the classes ∝ `count^(1 - balance)`, by largest remainder, ties to the lower class.
fn deal(classes: &mut [Class], draws: usize, balance: f32) {
    let shares: Vec<f64> = classes.iter().map(|c| (c.items.len() as f64).powf(1.0 - f64::from(balance))).collect();
    let total: f64 = shares.iter().sum();
    let mut remainders = Vec::with_capacity(classes.len());
    let mut dealt = 0;
    for (index, (c, share)) in classes.iter_mut().zip(&shares).enumerate() {
        let exact = draws as f64 * share / total;
        c.draws = exact.floor() as usize;
        dealt += c.draws;
        remainders.push((exact - exact.floor(), index));
    }
    remainders.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    for (_, index) in remainders.into_iter().take(draws.saturating_sub(dealt)) {
        if let Some(c) = classes.get_mut(index) {
            c.draws += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(class: u32) -> Item {
        Item { class, weight: 1.0, length: class * 7 % 5 + 1 }
    }
    fn counts(sampler: &Sampler, epochs: u64, n: usize) -> Vec<usize> {
        let mut counts = vec![0; n];
        for epoch in 0..epochs {
            for b in sampler.epoch(epoch) {
                for (&i, &w) in b.items.iter().zip(&b.weights) {
                    counts[i] += usize::from(w > 0.0);
                }
            }
        }
        counts
    }

    #[test]
    fn full_balance_sees_classes_equally() {
        let items: Vec<Item> = (0..40).map(|i| item(u32::from(i % 10 == 0))).collect();
        let s = Sampler::new(&items, SamplerOptions { balance: 1.0, batch: 8, ..Default::default() }).unwrap();
        let c = counts(&s, 1, 40);
        assert_eq!((0..40).filter(|i| i % 10 == 0).map(|i| c[i]).sum::<usize>(), 20);
        let none = Sampler::new(&items, SamplerOptions { balance: 0.0, ..Default::default() }).unwrap();
        assert_eq!(counts(&none, 1, 40), vec![1; 40]);
    }

    #[test]
    fn bucketing_gathers_lengths() {
        let items: Vec<Item> = (0..64).map(|i| Item { class: 0, weight: 1.0, length: 1 + i % 16 }).collect();
        let padded = |bucket| {
            let s = Sampler::new(&items, SamplerOptions { batch: 8, bucket, ..Default::default() }).unwrap();
            s.epoch(0).iter().map(|b| b.length).sum::<u32>()
        };
        assert!(padded(true) < padded(false) * 3 / 4, "{} {}", padded(true), padded(false));
    }

    #[test]
    fn bad_options_are_refused() {
        let one = [item(0)];
        assert!(Sampler::new(&[], SamplerOptions::default()).is_err());
        assert!(Sampler::new(&one, SamplerOptions { batch: 0, ..Default::default() }).is_err());
        assert!(Sampler::new(&one, SamplerOptions { balance: 1.5, ..Default::default() }).is_err());
        assert!(Sampler::new(&[Item { weight: f32::NAN, ..one[0] }], SamplerOptions::default()).is_err());
        assert!(Sampler::new(&[Item { weight: 0.0, ..one[0] }], SamplerOptions::default()).is_err());
    }

    proptest! {
        #[test]
        fn batches_are_full_fair_and_repeatable(
            classes in prop::collection::vec(0u32..5, 1..60),
            batch in 1usize..9, seed: u64, balance in 0.0f32..=1.0, bucket: bool,
        ) {
            let items: Vec<Item> = classes.iter().map(|&c| item(c)).collect();
            let s = Sampler::new(&items, SamplerOptions { batch, seed, balance, bucket }).unwrap();
            let epoch = s.epoch(3);
            prop_assert_eq!(&epoch, &s.clone().epoch(3));
            prop_assert_eq!(epoch.len(), s.batches());
            prop_assert!(epoch.iter().all(|b| b.items.len() == batch && b.weights.len() == batch && b.weights[0] > 0.0));
            prop_assert_eq!(epoch.iter().flat_map(|b| &b.weights).filter(|w| **w > 0.0).count(), s.draws());
            let c = counts(&s, 4, items.len());
            for class in 0..5 {
                let of = || (0..items.len()).filter(|&i| items[i].class == class).map(|i| c[i]);
                prop_assert!(of().max().unwrap_or(0) - of().min().unwrap_or(0) <= 1);
            }
        }
    }
}
