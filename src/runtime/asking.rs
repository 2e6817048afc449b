//! Which answers ask for a label: those that the model doubts most, at most at the rate that the home sets.
//!
//! Answers are counted in blocks of [`BLOCK`] by their ids. Every block has a budget, which it cannot exceed and does not
//! hand on: over any number of whole blocks at most `rate` of the answers ask. Within a block an answer asks if its score
//! is among the highest of the recent ones, by the share of the budget that is left to the share of the block that is
//! left. So the threshold follows the model, and nothing has to be known of answers to come.
//!
//! The decision is a function of what the journal keeps of the answers of this block and the one before it: it needs no
//! record of its own, is the same in every process, and goes on after a restart. An answer of the block that is not in
//! the journal any more counts as one that asked.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::journal::{InteractionEntry, InteractionId, Journal, JournalId, JournalState};

/// Share of answers that ask in a home that does not say.
pub(crate) const ASK_RATE: f64 = 0.1;
/// Answers that share a budget.
const BLOCK: u32 = 64;

/// # Errors
/// `Usage` for a rate outside 0 to 1.
pub(crate) fn check(rate: f64) -> Result<()> {
    match (0.0..=1.0).contains(&rate) {
        true => Ok(()),
        false => Err(Error::usage(format!("an ask_rate of {rate}")).hint("choose 0 to 1; 0 never asks")),
    }
}

/// What is kept of one answer.
#[derive(Debug)]
struct Seen {
    id: u32,
    /// The class that was answered; none while no class is known.
    label: Option<Arc<str>>,
    /// Probability that the answer is wrong, by the model.
    doubt: f32,
    asked: bool,
}

/// Decides for one profile.
#[derive(Debug)]
pub(crate) struct Asking {
    rate: f64,
    seed: u64,
    /// The growing file that `seen` was read with.
    file: Option<JournalId>,
    /// Answers of the latest block and of the one before it, by growing id.
    seen: VecDeque<Seen>,
    /// Id below which everything is taken in.
    next: u32,
}

impl Asking {
    pub fn new(rate: f64, seed: u64) -> Asking {
        Asking { rate, seed, file: None, seen: VecDeque::new(), next: 0 }
    }

    /// Whether interaction `id`, which was recorded last, asks.
    pub fn asks(&mut self, journal: &Journal, id: InteractionId) -> bool {
        self.decide(journal.state(), journal.file(), id.0)
    }

    fn decide(&mut self, state: &JournalState, file: JournalId, id: u32) -> bool {
        if self.rate <= 0.0 {
            return false;
        }
        let from = start(id).saturating_sub(BLOCK);
        if self.file != Some(file) || self.next < from {
            self.seen.clear();
            (self.file, self.next) = (Some(file), from);
        }
        // One that cannot be read is as one that is gone; whatever else reads it tells of the damage.
        let recorded = state.interactions_from(InteractionId(self.next)).flatten();
        recorded.take_while(|entry| entry.id.0 <= id).for_each(|entry| self.take(entry));
        self.seen.back().is_some_and(|last| last.id == id && last.asked)
    }

    fn take(&mut self, entry: InteractionEntry) {
        let id = entry.id.0;
        let (label, p) = entry.answer.map_or((None, 0.0), |(label, p)| (Some(label), p));
        while self.seen.front().is_some_and(|seen| seen.id < start(id).saturating_sub(BLOCK)) {
            self.seen.pop_front();
        }
        let seen = Seen { id, label, doubt: 1.0 - p, asked: false };
        let asked = self.would_ask(&seen);
        self.seen.push_back(Seen { asked, ..seen });
        self.next = id.saturating_add(1);
    }

    fn would_ask(&self, new: &Seen) -> bool {
        let block = self.seen.iter().filter(|seen| seen.id >= start(new.id));
        let before = new.id - start(new.id);
        let (mut there, mut asked, mut alike) = (0, 0, 0u16);
        for seen in block {
            there += 1;
            asked += u32::from(seen.asked);
            alike += u16::from(seen.asked && seen.label == new.label);
        }
        let used = asked + before.saturating_sub(there);
        let left = self.budget(new.id / BLOCK).saturating_sub(used);
        if left == 0 {
            return false;
        }
        if new.label.is_none() {
            // Nothing is known: each label teaches as much as any other.
            return true;
        }
        // A class that was asked about in this block waits for others: what a model confuses most is one pair of classes.
        let score = new.doubt / f32::from(1 + alike);
        let (mut higher, mut equal, mut all) = (0u16, 1u16, 1u16);
        for earlier in self.seen.iter().filter(|seen| seen.label.is_some()) {
            all += 1;
            higher += u16::from(earlier.doubt > score);
            equal += u16::from(earlier.doubt == score);
        }
        // Equal scores are put in order by chance.
        let rank = f64::from(higher) + chance(self.seed, new.id) * f64::from(equal);
        rank / f64::from(all) < f64::from(left) / f64::from(BLOCK - before)
    }

    /// Answers of block `k` that may ask.
    fn budget(&self, k: u32) -> u32 {
        let until = |blocks: u32| (self.rate * f64::from(BLOCK) * f64::from(blocks)).floor();
        (until(k + 1) - until(k)) as u32
    }
}

fn start(id: u32) -> u32 {
    id - id % BLOCK
}

/// 0 to 1, the same for the same `id` (SplitMix64).
fn chance(seed: u64, id: u32) -> f64 {
    let mut z = seed.wrapping_add(u64::from(id).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 11) as f64 / (1u64 << 53) as f64
}
