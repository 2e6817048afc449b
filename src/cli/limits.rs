//! Limits of what training may cost, `--memory` and `--budget-seconds`.

use acclimate::process::TrainLimits;
use bytesize::ByteSize;
use clap::Args;

#[derive(Args)]
pub(super) struct LimitsArg {
    /// Most memory while training, such as 128MiB; the layers that adapt are chosen to fit it
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Longest training; the layers that adapt are chosen to fit it, and a candidate that will not be done is given up
    #[arg(long, value_name = "S", value_parser = seconds)]
    budget_seconds: Option<f64>,
}

impl LimitsArg {
    /// What is given here, and of the rest what `otherwise` says.
    pub fn or(&self, otherwise: TrainLimits) -> TrainLimits {
        let mut limits = otherwise;
        limits.memory_bytes = self.memory.or(limits.memory_bytes);
        limits.budget_seconds = self.budget_seconds.or(limits.budget_seconds);
        limits
    }
}

fn size(text: &str) -> Result<u64, String> {
    match text.parse::<ByteSize>() {
        Ok(ByteSize(0)) => Err("it must be more than nothing".into()),
        Ok(ByteSize(bytes)) => Ok(bytes),
        Err(e) => Err(format!("{e}; use MiB, GiB, MB or GB")),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds.is_finite() => Ok(seconds),
        _ => Err(format!("{text:?} is not a positive number of seconds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_and_times_are_seconds() {
        assert_eq!(size("128MiB"), Ok(128 << 20));
        assert_eq!(size("1.5 GiB"), Ok(3 << 29));
        assert_eq!(size("500MB"), Ok(500_000_000));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(seconds("90"), Ok(90.0));
        assert_eq!(seconds("2.5"), Ok(2.5));
        for bad in ["", "MiB", "0MiB", "-1MiB", "1 mile", "1..2s"] {
            assert!(size(bad).is_err() && seconds(bad).is_err(), "{bad}");
        }
    }
}
