//! Memory and swap of the machine.

use super::files::Files;

/// Bytes of memory and of swap; None where the system does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    pub total: Option<u64>,
    /// What programs can have without swapping.
    pub available: Option<u64>,
    pub swap_total: Option<u64>,
    pub swap_free: Option<u64>,
    /// How much of the swap is compressed memory (zram), which no disk wears out by.
    pub zram: Option<u64>,
}

pub(super) fn memory(files: &Files) -> Memory {
    let text = files.text("proc/meminfo").unwrap_or_default();
    let of = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'))?;
        kilobytes(line.split_whitespace().next()?)
    };
    Memory {
        total: of("MemTotal").filter(|bytes| *bytes > 0),
        available: of("MemAvailable"),
        swap_total: of("SwapTotal"),
        swap_free: of("SwapFree"),
        zram: files.text("proc/swaps").map(|swaps| zram(&swaps)),
    }
}

/// `/dev/zram0  partition  524284  0  100`, sizes in kB.
fn zram(swaps: &str) -> u64 {
    let devices = swaps.lines().filter(|line| line.starts_with("/dev/zram"));
    devices.filter_map(|line| kilobytes(line.split_whitespace().nth(2)?)).fold(0, u64::saturating_add)
}

fn kilobytes(word: &str) -> Option<u64> {
    word.parse::<u64>().ok()?.checked_mul(1024)
}
