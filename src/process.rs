//! What this process holds of the machine and may take of it, and what it survives.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

/// What training may cost. Without a limit every site that a gradient reaches may adapt.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct TrainLimits {
    /// Most memory of the process, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Longest training, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_seconds: Option<f64>,
}

impl TrainLimits {
    /// Limits the memory of the process while it trains, bytes.
    #[must_use]
    pub fn memory_bytes(mut self, most: u64) -> TrainLimits {
        self.memory_bytes = Some(most);
        self
    }
    /// Limits the time of a training, seconds.
    #[must_use]
    pub fn budget_seconds(mut self, most: f64) -> TrainLimits {
        self.budget_seconds = Some(most);
        self
    }
    /// True when nothing is limited.
    pub fn are_unlimited(&self) -> bool {
        *self == TrainLimits::default()
    }
}

/// Says between the steps of a training whether it may go on.
pub trait Pacer: Sync {
    /// Asked before each step, by every thread that takes steps. It may wait. False ends the training as a stop does:
    /// its checkpoint stays.
    fn may_go_on(&self) -> bool;
}

/// Cores that this process may use, as they were when it was first asked: affinity and the quota of its cgroup
/// count, and to look them up opens files.
pub fn available_cores() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// A `kB` line of a file under `/proc`; 0 where there is none.
pub fn status_bytes(file: &str, key: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key));
    line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kb| kb * 1024)
}

/// Memory that this process may use at most, bytes: the machine's, or less where its cgroup has less. None where the
/// system does not say.
pub fn machine_memory() -> Option<u64> {
    let read = |file: String| std::fs::read_to_string(file).ok();
    let groups = read("/proc/self/cgroup".into()).unwrap_or_default();
    // Of version 2, which has one line; in a container its root is the container's own group.
    let own = groups.lines().find_map(|l| l.strip_prefix("0::")).unwrap_or("/");
    let above = Path::new(own).ancestors();
    let files =
        above.map(|group| format!("/sys/fs/cgroup{}/memory.max", group.display().to_string().trim_end_matches('/')));
    let files = files.chain(["/sys/fs/cgroup/memory/memory.limit_in_bytes".to_string()]);
    let limits = files.filter_map(|file| read(file)?.trim().parse::<u64>().ok());
    let machine = Some(status_bytes("/proc/meminfo", "MemTotal:")).filter(|bytes| *bytes > 0);
    limits.chain(machine).min()
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// True while this thread runs inside a call whose panic becomes an error: a panic hook can then stay silent.
pub fn in_guarded_call() -> bool {
    GUARDED.with(Cell::get)
}

/// Makes this thread one whose panics all become errors.
pub(crate) fn guard_thread() {
    GUARDED.with(|g| g.set(true));
}

/// Runs `work`; the message of its panic, if it panics.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = GUARDED.with(|g| g.replace(true));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDED.with(|g| g.set(before));
    outcome.map_err(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| s.to_string());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
    })
}
