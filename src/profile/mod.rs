//! Where the time of passes goes, for `bench --profile`: nothing is kept unless [`record`] runs.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::sync::lock;

#[cfg(feature = "train")]
mod record;
#[cfg(feature = "train")]
pub(crate) use record::{record, span};

static ON: AtomicBool = AtomicBool::new(false);
static SPENT: Mutex<BTreeMap<Place, Spent>> = Mutex::new(BTreeMap::new());

/// Where time was spent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// `forward`, `training forward`, `backward`, `frozen`, `loss` or `optimiser`.
    pub pass: &'static str,
    /// What ran it: `cpu` or `cuda`.
    pub device: &'static str,
    /// The operator's name; empty outside of plans.
    pub operator: String,
    /// Shape of its first result.
    pub shape: String,
}

/// What was spent there.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Spent {
    /// How often it ran.
    pub calls: u64,
    /// Time by the clock, of all threads that ran it together.
    pub time: Duration,
    /// Floating-point operations of products and convolutions, a multiplication with an addition as two.
    pub flop: f64,
    /// Bytes of all operands and results.
    pub moved: u64,
    /// Bytes of results that are not in an operand's place.
    pub allocated: u64,
    /// Calls that handed parts to other cores.
    pub shared: u64,
}

impl Spent {
    /// Adds what `other` says.
    pub fn add(&mut self, other: &Spent) {
        self.calls += other.calls;
        self.time += other.time;
        self.flop += other.flop;
        self.moved += other.moved;
        self.allocated += other.allocated;
        self.shared += other.shared;
    }
}

/// Whether something records.
pub(crate) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Adds to what is recorded.
pub(crate) fn add(place: Place, spent: &Spent) {
    lock(&SPENT).entry(place).or_default().add(spent);
}
