//! Whether a training fits the memory, and what would make it fit.

use super::{Check, bytes};
use crate::adapt::select::Chosen;
use crate::error::Result;

/// Part of the free memory that a training is told to stay within.
const SHARE: (u64, u64) = (4, 5);

/// What a training of the home needs, and what there is.
pub(super) struct Need {
    /// Estimate of the process, bytes.
    pub bytes: u64,
    pub free: Option<u64>,
    pub swap_free: Option<u64>,
    /// Layers that a gradient reaches.
    pub reachable: usize,
}

impl Need {
    pub fn fits(&self) -> bool {
        self.free.is_none_or(|free| self.bytes <= free)
    }

    /// `within` chooses layers within so many bytes.
    pub fn check(&self, within: impl FnOnce(u64) -> Result<Chosen>) -> Check {
        const NAME: &str = "training memory";
        let need = bytes(self.bytes);
        let Some(free) = self.free else {
            return Check::ok(NAME, format!("about {need}; free memory is not known"));
        };
        let value = format!("about {need}, and {} are free", bytes(free));
        if self.fits() {
            return Check::ok(NAME, value);
        }
        let swap = format!("add a swap file of {}", bytes((self.bytes - free).next_multiple_of(64 << 20)));
        // In whole mebibytes, as the flag takes them.
        let limit = (free / SHARE.1 * SHARE.0) >> 20 << 20;
        let next = match within(limit) {
            Ok(chosen) if !chosen.sites.is_empty() => {
                let all = match chosen.sites.len() == self.reachable {
                    true => "all layers still adapt".to_string(),
                    false => format!("{} of {} layers adapt", chosen.sites.len(), self.reachable),
                };
                let twice = if chosen.gradient_checkpointing { " with gradient checkpointing" } else { "" };
                format!("train with `--memory {}MiB`: {all}{twice}; or {swap}", limit >> 20)
            }
            _ => format!(
                "{swap}, or make the home anew with a smaller `--rank` or with `--sites` that name the last layers; \
                 within what is free only a head can be trained"
            ),
        };
        match self.bytes <= free.saturating_add(self.swap_free.unwrap_or(0)) {
            true => Check::warn(NAME, format!("{value}: it would swap"), next),
            false => Check::fail(NAME, format!("{value}: the kernel would end it"), next),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapt::select::ChosenSite;
    use crate::error::Error;
    use crate::tools::doctor::State;

    const MIB: u64 = 1 << 20;

    fn chosen(sites: usize, gradient_checkpointing: bool) -> Chosen {
        let site = |i: usize| ChosenSite { name: i.to_string(), share: None };
        Chosen {
            reason: String::new(),
            reachable: 7,
            rank: 8,
            micro_batch: 1,
            gradient_checkpointing,
            memory_bytes: 1,
            seconds: None,
            sites: (0..sites).map(site).collect(),
        }
    }

    fn need(bytes: u64, free: u64, swap_free: u64) -> Need {
        Need { bytes: bytes * MIB, free: Some(free * MIB), swap_free: Some(swap_free * MIB), reachable: 7 }
    }

    #[test]
    fn what_fits_needs_nothing() {
        let check = need(100, 100, 0).check(|_| panic!("nothing is to be chosen"));
        assert_eq!((check.state, check.next), (State::Ok, None));
        let unknown = Need { free: None, ..need(100, 0, 0) };
        assert_eq!(unknown.check(|_| panic!("nothing is known")).state, State::Ok);
    }

    #[test]
    fn what_does_not_fit_is_told_the_flag_that_makes_it_fit() {
        let mut asked = 0;
        let check = need(300, 200, 50).check(|limit| {
            asked = limit;
            Ok(chosen(5, true))
        });
        assert_eq!((check.state, asked), (State::Fail, 160 * MIB));
        let next = check.next.unwrap();
        assert!(next.contains("`--memory 160MiB`: 5 of 7 layers adapt with gradient checkpointing"), "{next}");
        assert!(next.contains("a swap file of 128 MiB"), "{next}");
        let swaps = need(300, 200, 100).check(|_| Ok(chosen(7, false)));
        assert_eq!(swaps.state, State::Warn);
        assert!(swaps.next.is_some_and(|next| next.contains("all layers still adapt")));
        for nothing in [Ok(chosen(0, false)), Err(Error::internal("no"))] {
            let check = need(300, 20, 0).check(|_| nothing);
            let next = check.next.unwrap();
            assert!(check.state == State::Fail && next.contains("--rank") && next.contains("--sites"), "{next}");
        }
    }
}
