//! How fast the cores run (`cpufreq`).

use super::files::Files;

const CORES: &str = "sys/devices/system/cpu";

/// The clock of one core, in kHz.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frequency {
    pub core: usize,
    pub now: Option<u64>,
    /// What it is allowed at present.
    pub allowed: Option<u64>,
    /// What the hardware can do.
    pub most: Option<u64>,
    pub governor: Option<String>,
}

pub(super) fn frequencies(files: &Files) -> Vec<Frequency> {
    let cores = files.names(CORES).into_iter().filter_map(|name| name.strip_prefix("cpu")?.parse::<usize>().ok());
    let frequency = |core: usize| {
        let at = |what: &str| format!("{CORES}/cpu{core}/cpufreq/{what}");
        let known = Frequency {
            core,
            now: files.number(&at("scaling_cur_freq")),
            allowed: files.number(&at("scaling_max_freq")),
            most: files.number(&at("cpuinfo_max_freq")),
            governor: files.word(&at("scaling_governor")),
        };
        (known.now.is_some() || known.most.is_some()).then_some(known)
    };
    cores.filter_map(frequency).collect()
}
