//! What a measurement was made on: facts of the machine, and nothing that tells whose it is.

use serde::{Deserialize, Serialize};

use crate::device::{Sensors, processor};
use crate::process::available_cores;

/// Facts that stay as they are while something is measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// The board, as its device tree names it.
    pub board: Option<String>,
    /// Processors: their name, or implementer and part.
    pub cpu: Vec<String>,
    /// Extensions of the instruction set that products use.
    pub features: Vec<String>,
    /// Cores that the process may use.
    pub cores: usize,
    /// Highest clock, MHz.
    pub max_mhz: Option<u64>,
    /// How the clock is governed.
    pub governor: Option<String>,
    /// Memory of the machine, bytes.
    pub memory_bytes: u64,
    /// Release of the kernel.
    pub kernel: String,
}

/// What changes while something is measured.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Heat {
    /// Of the processor, degrees Celsius.
    pub temperature_c: Option<f64>,
    /// What the board noticed since it was started: `under-voltage`, `frequency capped`, `throttled`, `temperature
    /// limit`. None where it does not say.
    pub throttled: Option<Vec<String>>,
}

const FEATURES: [&str; 12] =
    ["avx2", "avx512f", "avx512_vnni", "amx_tile", "fma", "neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"];

impl Machine {
    /// What `sensors` tell.
    pub fn of(sensors: &dyn Sensors) -> Machine {
        let (board, cpu, clocks) = (sensors.board(), sensors.cpu(), sensors.frequencies());
        Machine {
            board: board.model,
            features: FEATURES.iter().filter(|f| cpu.has(f)).map(|f| f.to_string()).collect(),
            cpu: cpu.clusters.into_iter().map(|(name, _)| name).collect(),
            cores: available_cores(),
            max_mhz: clocks.iter().filter_map(|c| c.most).max().map(|khz| khz / 1000),
            governor: clocks.into_iter().find_map(|c| c.governor),
            memory_bytes: sensors.memory().total.unwrap_or(0),
            kernel: board.kernel.unwrap_or_default(),
        }
    }

    /// How two differ in what speeds depend on: a line each.
    pub fn differences(&self, other: &Machine) -> Vec<String> {
        let said = |o: &Option<String>| o.clone().unwrap_or_else(|| "unknown".into());
        let mhz = |o: Option<u64>| o.map_or("unknown".into(), |mhz| format!("{mhz} MHz"));
        let pairs = [
            ("board", said(&self.board), said(&other.board)),
            ("processor", self.cpu.join(", "), other.cpu.join(", ")),
            ("instructions", self.features.join(" "), other.features.join(" ")),
            ("cores", self.cores.to_string(), other.cores.to_string()),
            ("clock", mhz(self.max_mhz), mhz(other.max_mhz)),
            ("governor", said(&self.governor), said(&other.governor)),
            ("kernel", self.kernel.clone(), other.kernel.clone()),
        ];
        let differ = pairs.into_iter().filter(|(_, a, b)| a != b);
        differ.map(|(what, a, b)| format!("{what}: {a} and {b}")).collect()
    }
}

impl Heat {
    /// What `sensors` tell now.
    pub fn now(sensors: &dyn Sensors) -> Heat {
        let t = sensors.throttling();
        let all = [
            ("under-voltage", t.under_voltage),
            ("frequency capped", t.frequency_capped),
            ("throttled", t.throttled),
            ("temperature limit", t.temperature_limit),
        ];
        let known = all.iter().any(|(_, noticed)| noticed.now.or(noticed.since_boot).is_some());
        let noticed = all.iter().filter(|(_, n)| n.now == Some(true) || n.since_boot == Some(true));
        Heat {
            temperature_c: processor(&sensors.temperatures()).map(|zone| zone.celsius),
            throttled: known.then(|| noticed.map(|(name, _)| name.to_string()).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use crate::device::Linux;

    fn board(name: &str) -> Linux {
        Linux::under(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boards").join(name))
    }

    #[test]
    fn a_board_is_known_and_its_owner_is_not() {
        let pi = board("pi-4-throttled");
        let (machine, heat) = (Machine::of(&pi), Heat::now(&pi));
        assert!(machine.board.as_deref().is_some_and(|board| board.starts_with("Raspberry Pi 4")), "{machine:?}");
        assert_eq!(machine.cpu, ["Cortex-A72"]);
        assert!(machine.features.iter().any(|f| f == "asimd") && machine.max_mhz.is_some(), "{machine:?}");
        assert!(heat.temperature_c.is_some_and(|c| c > 80.0), "{heat:?}");
        assert!(heat.throttled.as_ref().is_some_and(|all| all.iter().any(|t| t == "under-voltage")), "{heat:?}");
        let all = serde_json::to_string(&(machine, heat)).unwrap();
        let info = std::fs::read_to_string("tests/boards/pi-4-throttled/proc/cpuinfo").unwrap();
        let serial = info.lines().find_map(|l| l.strip_prefix("Serial")).expect("a serial number");
        assert!(!all.contains(serial.trim_matches(|c: char| !c.is_alphanumeric())), "{all}");
    }

    #[test]
    fn a_machine_that_says_nothing_is_no_error() {
        let nowhere = tempfile::tempdir().unwrap();
        let machine = Machine::of(&Linux::under(nowhere.path()));
        assert_eq!(machine, Machine { cores: available_cores(), ..Machine::default() });
        assert_eq!(Heat::now(&Linux::under(nowhere.path())), Heat::default());
        assert_eq!(machine.differences(&machine), [""; 0]);
        let other = Machine::of(&board("pi-4-throttled")).differences(&machine);
        assert!(other.iter().any(|d| d == "processor: Cortex-A72 and "), "{other:?}");
    }

    #[test]
    fn this_machine_has_memory_and_a_kernel() {
        let machine = Machine::of(&Linux::here());
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 26 && !machine.kernel.is_empty(), "{machine:?}");
    }
}
