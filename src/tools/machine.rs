//! What a measurement was made on: facts of the machine, and nothing that tells whose it is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::process::{available_cores, status_bytes};

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
    /// The warmest thermal zone, degrees Celsius.
    pub temperature_c: Option<f64>,
    /// Flags of throttling and under-voltage of a Raspberry Pi's firmware, in hex.
    pub throttled: Option<String>,
    /// How often cores were slowed down for their heat, where the processor counts that.
    pub slowed_down: Option<u64>,
}

/// Parts of ARM that boards have, as `/proc/cpuinfo` numbers them.
const ARM: [(&str, &str); 14] = [
    ("0xd03", "Cortex-A53"),
    ("0xd04", "Cortex-A35"),
    ("0xd05", "Cortex-A55"),
    ("0xd07", "Cortex-A57"),
    ("0xd08", "Cortex-A72"),
    ("0xd09", "Cortex-A73"),
    ("0xd0a", "Cortex-A75"),
    ("0xd0b", "Cortex-A76"),
    ("0xd0c", "Neoverse-N1"),
    ("0xd0d", "Cortex-A77"),
    ("0xd40", "Neoverse-V1"),
    ("0xd41", "Cortex-A78"),
    ("0xd42", "Cortex-A78AE"),
    ("0xd4f", "Neoverse-V2"),
];
const FEATURES: [&str; 12] =
    ["avx2", "avx512f", "avx512_vnni", "amx_tile", "fma", "neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve"];

fn read(path: PathBuf) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_string();
    Some(text).filter(|t| !t.is_empty())
}

impl Machine {
    /// What the files below `root` say, which is `/` but for recorded ones.
    pub fn of(root: &Path) -> Machine {
        let info = read(root.join("proc/cpuinfo")).unwrap_or_default();
        let fields = |name: &str| -> Vec<&str> {
            let lines = info.lines().filter_map(|l| l.split_once(':'));
            lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim()).collect()
        };
        let mut cpu: Vec<String> = fields("model name").into_iter().map(str::to_string).collect();
        let parts = fields("CPU part").into_iter().zip(fields("CPU implementer"));
        if cpu.is_empty() || parts.clone().next().is_some() {
            let known = |part: &str| ARM.iter().find(|(number, _)| *number == part).map(|(_, name)| name.to_string());
            cpu = parts
                .map(|(part, by)| match known(part).filter(|_| by == "0x41") {
                    Some(name) => name,
                    None => format!("implementer {by}, part {part}"),
                })
                .collect();
        }
        cpu.dedup();
        let has: Vec<&str> =
            fields("flags").first().or(fields("Features").first()).map_or(vec![], |f| f.split_whitespace().collect());
        let clock = root.join("sys/devices/system/cpu/cpu0/cpufreq");
        Machine {
            board: read(root.join("proc/device-tree/model")),
            cpu,
            features: FEATURES.iter().filter(|f| has.contains(f)).map(|f| f.to_string()).collect(),
            cores: available_cores(),
            max_mhz: read(clock.join("cpuinfo_max_freq")).and_then(|khz| Some(khz.parse::<u64>().ok()? / 1000)),
            governor: read(clock.join("scaling_governor")),
            memory_bytes: status_bytes(&root.join("proc/meminfo").to_string_lossy(), "MemTotal:"),
            kernel: read(root.join("proc/sys/kernel/osrelease")).unwrap_or_default(),
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
    /// What the files below `root` say now.
    pub fn now(root: &Path) -> Heat {
        let entries = |folder: &str| -> Vec<PathBuf> {
            let found = std::fs::read_dir(root.join(folder)).into_iter().flatten().flatten();
            found.map(|entry| entry.path()).collect()
        };
        let zones = entries("sys/class/thermal").into_iter().filter_map(|zone| {
            let milli: f64 = read(zone.join("temp"))?.parse().ok()?;
            Some(milli / 1000.0)
        });
        // Zones that are not connected say 0, or less.
        let warmest = zones.filter(|c| (1.0..150.0).contains(c)).max_by(f64::total_cmp);
        let firmware = ["soc/soc:firmware", "soc:firmware"].iter();
        let throttled = firmware.map(|f| root.join("sys/devices/platform").join(f).join("get_throttled"));
        let counts = entries("sys/devices/system/cpu")
            .into_iter()
            .filter_map(|cpu| read(cpu.join("thermal_throttle/core_throttle_count"))?.parse::<u64>().ok());
        Heat {
            temperature_c: warmest,
            throttled: throttled.into_iter().find_map(read),
            slowed_down: counts.reduce(|a, b| a + b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files of a Raspberry Pi 4: `/proc/cpuinfo` ends with the board's serial number.
    fn pi_4() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let core = "BogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n\
                    CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n";
        let info =
            format!("processor\t: 0\n{core}processor\t: 1\n{core}Revision\t: c03111\nSerial\t\t: 10000000abcdef01\n");
        put("proc/cpuinfo", &info);
        put("proc/device-tree/model", "Raspberry Pi 4 Model B Rev 1.1\0");
        put("proc/device-tree/serial-number", "10000000abcdef01\0");
        put("proc/sys/kernel/osrelease", "6.12.47+rpt-rpi-v8\n");
        put("proc/sys/kernel/hostname", "kitchen\n");
        put("proc/meminfo", "MemTotal:        3884336 kB\nMemFree: 1 kB\n");
        put("sys/class/thermal/thermal_zone0/temp", "48199\n");
        put("sys/class/thermal/thermal_zone1/temp", "-256000\n");
        put("sys/devices/platform/soc/soc:firmware/get_throttled", "50005\n");
        put("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "1800000\n");
        put("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "ondemand\n");
        root
    }

    #[test]
    fn a_board_is_known_and_its_owner_is_not() {
        let root = pi_4();
        let machine = Machine::of(root.path());
        assert_eq!(machine.board.as_deref(), Some("Raspberry Pi 4 Model B Rev 1.1"));
        assert_eq!((&machine.cpu[..], &machine.features[..]), (&["Cortex-A72".to_string()][..], &["asimd".into()][..]));
        assert_eq!((machine.max_mhz, machine.governor.as_deref()), (Some(1800), Some("ondemand")));
        assert_eq!((machine.memory_bytes, machine.kernel.as_str()), (3_884_336 << 10, "6.12.47+rpt-rpi-v8"));
        let heat = Heat::now(root.path());
        assert_eq!((heat.temperature_c, heat.throttled.as_deref()), (Some(48.199), Some("50005")));
        let all = serde_json::to_string(&(machine, heat)).unwrap();
        for secret in ["abcdef01", "kitchen"] {
            assert!(!all.contains(secret), "{all}");
        }
    }

    #[test]
    fn a_machine_that_says_nothing_is_no_error() {
        let nowhere = tempfile::tempdir().unwrap();
        let machine = Machine::of(nowhere.path());
        assert_eq!(machine, Machine { cores: available_cores(), ..Machine::default() });
        assert_eq!(Heat::now(nowhere.path()), Heat::default());
        assert_eq!(machine.differences(&machine), [""; 0]);
        let other = Machine::of(pi_4().path()).differences(&machine);
        assert!(other.iter().any(|d| d == "governor: ondemand and unknown"), "{other:?}");
        assert!(other.iter().any(|d| d == "processor: Cortex-A72 and "), "{other:?}");
    }

    #[test]
    fn this_machine_has_memory_and_a_kernel() {
        let machine = Machine::of(Path::new("/"));
        assert!(machine.cores > 0 && machine.memory_bytes > 1 << 26 && !machine.kernel.is_empty(), "{machine:?}");
    }
}
