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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::disk::RealDisk;
    use crate::error::ErrorKind;
    use crate::journal::{SegmentSize, StoredInput};

    fn journal(folder: &Path) -> Journal {
        let at = |name: &str| folder.join(name);
        let wait = Duration::from_secs(5);
        Journal::open(Arc::new(RealDisk), &at("journal.log"), &at("journal.lock"), wait, 1).unwrap()
    }

    /// Records an answer of class `label` with probability `p`.
    fn answered(journal: &mut Journal, label: &str, p: f32) -> InteractionId {
        let top = if p > 0.0 { vec![(label.to_string(), p)] } else { vec![] };
        journal.record_interaction(1, StoredInput::Text(String::new()), top, 0).unwrap()
    }

    /// Which of the answers with probabilities `p` ask; their classes come in turn.
    fn asked(rate: f64, classes: usize, p: impl Iterator<Item = f32>) -> Vec<bool> {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, mut asking) = (journal(folder.path()), Asking::new(rate, 0));
        let mut one = |(n, p): (usize, f32)| {
            let id = answered(&mut journal, &(n % classes).to_string(), p);
            asking.asks(&journal, id)
        };
        p.enumerate().map(&mut one).collect()
    }

    fn count(asked: &[bool]) -> usize {
        asked.iter().filter(|asked| **asked).count()
    }

    /// 0 to 1, of no pattern.
    fn noise(n: u32) -> f32 {
        chance(99, n) as f32
    }

    const BLOCKS: u32 = 20;

    #[test]
    fn the_rate_is_kept_whatever_the_answers_are() {
        let n = BLOCKS * BLOCK;
        type Doubts = (&'static str, fn(u32) -> f32);
        let all: [Doubts; 5] = [
            ("noise", |i| 0.2 + 0.7 * noise(i)),
            ("ever more doubtful", |i| 1.0 - 0.0005 * i as f32),
            ("ever surer", |i| 0.2 + 0.0005 * i as f32),
            ("always the same", |_| 1.0),
            ("no class known", |_| 0.0),
        ];
        for rate in [0.003, 0.05, 0.1, 0.37, 1.0] {
            for (what, p) in all {
                let asked = asked(rate, 7, (0..n).map(p));
                for (k, blocks) in asked.chunks(BLOCK as usize).enumerate() {
                    let most = (rate * f64::from(BLOCK)).ceil() as usize;
                    assert!(count(blocks) <= most, "{what} at {rate}: {} in block {k}", count(blocks));
                }
                let (all, most) = (count(&asked), (rate * f64::from(n)).floor() as usize);
                assert!(all <= most && all >= most * 9 / 10, "{what} at {rate}: {all} of {most}");
            }
        }
        assert_eq!(count(&asked(0.0, 7, (0..n).map(|i| 0.2 + 0.7 * noise(i)))), 0);
    }

    #[test]
    fn answers_in_doubt_ask_and_the_threshold_follows_the_model() {
        // One in eight is in doubt; half way the model becomes surer of everything.
        let p = |i: u32| {
            let doubt = if noise(i) < 0.125 { 0.5 } else { 0.1 * noise(i) };
            1.0 - if i < BLOCKS / 2 * BLOCK { doubt } else { doubt / 20.0 }
        };
        let n = BLOCKS * BLOCK;
        let asked = asked(0.1, 50, (0..n).map(p));
        let doubtful = |half: std::ops::Range<u32>| {
            half.filter(|&i| asked[i as usize]).map(|i| u32::from(noise(i) < 0.125)).sum::<u32>()
        };
        let half = n / 2;
        // By chance 8 of 64 would be. What a block has left at its end is spent on whatever comes.
        assert!(doubtful(0..half) > 40, "{}", doubtful(0..half));
        assert!(doubtful(half..n) > 40, "{}", doubtful(half..n));
    }

    #[test]
    fn a_class_that_was_asked_about_waits_for_others() {
        // Class 0 is always in more doubt than class 1.
        let n = BLOCKS * BLOCK;
        let asked = asked(0.1, 2, (0..n).map(|i| if i % 2 == 0 { 0.4 } else { 0.6 } + 0.05 * noise(i)));
        let of_one = asked.iter().skip(1).step_by(2).filter(|asked| **asked).count();
        assert!(3 * of_one > count(&asked), "{of_one} of {}", count(&asked));
    }

    #[test]
    fn while_no_class_is_known_the_first_answers_ask() {
        let asked = asked(0.1, 1, (0..200).map(|_| 0.0));
        let at: Vec<usize> = (0..200).filter(|&i| asked[i]).collect();
        assert_eq!(
            at,
            [0, 1, 2, 3, 4, 5, 64, 65, 66, 67, 68, 69, 128, 129, 130, 131, 132, 133, 134, 192, 193, 194, 195, 196, 197]
        );
    }

    #[test]
    fn every_process_decides_alike_also_from_sealed_segments() {
        let folder = tempfile::tempdir().unwrap();
        let mut own = journal(folder.path());
        own.set_segment_size(SegmentSize { records: 50, ..SegmentSize::default() });
        let mut asking = Asking::new(0.2, 3);
        let mut asked = 0;
        for n in 0..500 {
            let id = answered(&mut own, &(n % 5).to_string(), 0.3 + 0.6 * noise(n));
            let asks = asking.asks(&own, id);
            asked += u32::from(asks);
            assert_eq!(Asking::new(0.2, 3).asks(&own, id), asks, "{n}, by another session");
            if n % 37 == 0 {
                let reopened = journal(folder.path());
                assert_eq!(Asking::new(0.2, 3).asks(&reopened, id), asks, "{n}, after a restart");
            }
        }
        assert!(own.state().segments().len() > 5 && asked > 80, "{asked}");
    }

    #[test]
    fn an_answer_that_is_gone_counts_as_one_that_asked() {
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, mut asking) = (journal(folder.path()), Asking::new(0.1, 0));
        let asked: Vec<InteractionId> = (0..6).map(|_| answered(&mut journal, "", 0.0)).collect();
        assert!(asked.iter().all(|id| asking.asks(&journal, *id)), "six of 64");
        journal.forget(&HashSet::from_iter(asked[..5].iter().copied()), false).unwrap();
        let id = answered(&mut journal, "", 0.0);
        assert!(!asking.asks(&journal, id) && !Asking::new(0.1, 0).asks(&journal, id));
    }

    #[test]
    fn a_rate_outside_of_0_to_1_is_refused() {
        assert!([0.0, 0.1, 1.0].iter().all(|rate| check(*rate).is_ok()));
        for rate in [-0.1, 1.5, f64::NAN, f64::INFINITY] {
            assert_eq!(check(rate).unwrap_err().kind(), ErrorKind::Usage);
        }
    }
}
