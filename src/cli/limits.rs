//! Limits of what training may cost, as people write them: `128MiB`, `90s`.

use acclimate::process::TrainLimits;
use clap::Args;

#[derive(Args)]
pub(super) struct LimitsArg {
    /// Most memory while training, such as 128MiB; the layers that adapt are chosen to fit it
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// Longest training, such as 90s or 10min; the layers that adapt are chosen to fit it
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    time: Option<f64>,
}

impl LimitsArg {
    /// What is given here, and of the rest what `otherwise` says.
    pub fn or(&self, otherwise: TrainLimits) -> TrainLimits {
        let mut limits = otherwise;
        limits.memory_bytes = self.memory.or(limits.memory_bytes);
        limits.seconds = self.time.or(limits.seconds);
        limits
    }
}

/// A number and its unit.
fn parts(text: &str) -> Result<(f64, &str), String> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number = text[..end].parse::<f64>().map_err(|_| format!("{text:?} does not start with a number"))?;
    if number <= 0.0 {
        return Err("it must be more than nothing".into());
    }
    Ok((number, text[end..].trim()))
}

fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = parts(text)?;
    let factor: u64 = match unit {
        "" | "B" => 1,
        "kB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return Err(format!("unknown unit {unit:?}; use MiB, GiB, MB or GB")),
    };
    Ok((number * factor as f64) as u64)
}

fn seconds(text: &str) -> Result<f64, String> {
    let (number, unit) = parts(text)?;
    match unit {
        "" | "s" => Ok(number),
        "min" => Ok(number * 60.0),
        "h" => Ok(number * 3600.0),
        _ => Err(format!("unknown unit {unit:?}; use s, min or h")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_have_units() {
        assert_eq!(size("128MiB"), Ok(128 << 20));
        assert_eq!(size("1.5 GiB"), Ok(3 << 29));
        assert_eq!(size("500MB"), Ok(500_000_000));
        assert_eq!(size("4096"), Ok(4096));
        assert_eq!(seconds("90"), Ok(90.0));
        assert_eq!(seconds("2.5min"), Ok(150.0));
        for bad in ["", "MiB", "0MiB", "-1MiB", "1 mile", "1..2s"] {
            assert!(size(bad).is_err() && seconds(bad).is_err(), "{bad}");
        }
    }
}
