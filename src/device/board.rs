//! Which board this is, how busy, and whether its clock can be believed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::files::Files;

/// 2026-11-30, in seconds since 1970: no clock that is set shows an earlier time to this program.
const WRITTEN: u64 = 1_795_996_800;

/// What the board and its kernel call themselves.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Board {
    pub model: Option<String>,
    pub kernel: Option<String>,
}

/// Whether the clock is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    pub now: SystemTime,
    /// False where it shows a time before this program was written.
    pub is_plausible: bool,
    /// Whether the network's time was taken over since the start; None where nobody says.
    pub synchronised: Option<bool>,
}

impl Clock {
    /// A clock that shows `now`.
    pub fn showing(now: SystemTime, synchronised: Option<bool>) -> Clock {
        Clock { now, is_plausible: now >= UNIX_EPOCH + Duration::from_secs(WRITTEN), synchronised }
    }
}

pub(super) fn board(files: &Files) -> Board {
    let tree = files.text("proc/device-tree/model").and_then(|text| super::files::word(&text));
    let desktop = || {
        let read = |what: &str| files.word(&format!("sys/class/dmi/id/{what}"));
        match (read("sys_vendor"), read("product_name")) {
            (Some(vendor), Some(product)) if !product.starts_with(&vendor) => Some(format!("{vendor} {product}")),
            (vendor, product) => product.or(vendor),
        }
    };
    Board { model: tree.or_else(desktop), kernel: files.word("proc/sys/kernel/osrelease") }
}

/// Tasks that run or wait for the processor, averaged over 1, 5 and 15 minutes.
pub(super) fn load(files: &Files) -> Option<[f64; 3]> {
    let text = files.text("proc/loadavg")?;
    let mut fields = text.split_whitespace().map(|f| f.parse::<f64>().ok().filter(|load| (0.0..1e6).contains(load)));
    Some([fields.next()??, fields.next()??, fields.next()??])
}

/// systemd-timesyncd touches a file once it has taken the network's time over; other services do not say.
pub(super) fn clock(files: &Files) -> Clock {
    let synchronised = match files.has("run/systemd/timesync/synchronized") {
        true => Some(true),
        false => files.has("run/systemd/timesync").then_some(false),
    };
    Clock::showing(SystemTime::now(), synchronised)
}
