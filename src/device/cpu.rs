//! The processor: its architecture, cores and instructions.

use std::collections::BTreeSet;

use super::files::{Files, word};

/// Families of processors that the program is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    Arm64,
    Arm32,
    X86,
}

/// What `/proc/cpuinfo` tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cpu {
    pub architecture: Option<Architecture>,
    /// What x86 processors call themselves.
    pub model: Option<String>,
    /// Cores of each kind: `[("Cortex-A78AE", 6)]`. Several kinds are big.LITTLE.
    pub clusters: Vec<(String, usize)>,
    /// Cores that are switched on.
    pub online: Option<usize>,
    /// Instructions that all cores have, as the kernel names them: `asimddp`, `avx2`.
    pub features: BTreeSet<String>,
}

impl Cpu {
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }

    /// The x86-64 level (1 to 4) of the psABI.
    pub fn x86_level(&self) -> Option<u8> {
        const LEVELS: [&[&str]; 3] = [
            &["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"],
            &["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"],
            &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"],
        ];
        let has_all = |level: &&&[&str]| level.iter().all(|feature| self.has(feature));
        (self.architecture == Some(Architecture::X86) && self.has("lm"))
            .then(|| 1 + LEVELS.iter().take_while(has_all).count() as u8)
    }
}

pub(super) fn cpu(files: &Files) -> Cpu {
    let text = files.text("proc/cpuinfo").unwrap_or_default();
    let mut cpu = Cpu { online: online(files), ..Cpu::default() };
    let mut features: Option<BTreeSet<String>> = None;
    let mut implementer = None;
    let mut generation = None;
    for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match key.trim() {
            "flags" | "Features" if !value.is_empty() => {
                let all: BTreeSet<String> = value.split_whitespace().filter_map(word).collect();
                let is_x86 = key.trim() == "flags";
                cpu.architecture = Some(if is_x86 { Architecture::X86 } else { arm(&all) });
                features = Some(features.map_or(all.clone(), |known| known.intersection(&all).cloned().collect()));
            }
            "model name" => cpu.model = cpu.model.or_else(|| word(value)),
            "CPU implementer" => implementer = hexadecimal(value),
            "CPU architecture" => generation = value.parse::<u32>().ok(),
            "CPU part" => {
                if let Some(part) = hexadecimal(value) {
                    count(&mut cpu.clusters, core_name(implementer, part));
                }
            }
            _ => {}
        }
    }
    if cpu.clusters.is_empty() {
        let cores = text.lines().filter(|line| line.starts_with("processor") && line.contains(':')).count();
        cpu.clusters.extend(cpu.model.clone().filter(|_| cores > 0).map(|model| (model, cores)));
    }
    // A processor of the eighth generation that runs a kernel of 32 bits.
    if cpu.architecture == Some(Architecture::Arm64) && generation.is_some_and(|generation| generation < 8) {
        cpu.architecture = Some(Architecture::Arm32);
    }
    cpu.features = features.unwrap_or_default();
    cpu
}

/// Kernels of 64 bits name the vector unit `asimd`, those of 32 bits `neon`.
fn arm(features: &BTreeSet<String>) -> Architecture {
    if features.contains("asimd") { Architecture::Arm64 } else { Architecture::Arm32 }
}

fn count(clusters: &mut Vec<(String, usize)>, name: String) {
    const MOST: usize = 16;
    match clusters.iter().position(|(known, _)| *known == name) {
        Some(at) => clusters[at].1 += 1,
        None if clusters.len() < MOST => clusters.push((name, 1)),
        None => {}
    }
}

/// The range of cores in `/sys/devices/system/cpu/online`: `0-3,5`.
fn online(files: &Files) -> Option<usize> {
    const MOST: usize = 1 << 16;
    let text = files.word("sys/devices/system/cpu/online")?;
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        (first <= last && last < MOST).then(|| last - first + 1)
    };
    text.split(',').map(range).try_fold(0_usize, |sum, cores| Some(sum + cores?))
}

fn hexadecimal(value: &str) -> Option<u32> {
    u32::from_str_radix(value.strip_prefix("0x")?, 16).ok()
}

/// Names of the kernel's `arch/arm64/include/asm/cputype.h` and of Arm's manuals.
fn core_name(implementer: Option<u32>, part: u32) -> String {
    let known = match (implementer, part) {
        (Some(0x41), part) => match part {
            0xb76 => "ARM1176",
            0xc07 => "Cortex-A7",
            0xc08 => "Cortex-A8",
            0xc09 => "Cortex-A9",
            0xc0f => "Cortex-A15",
            0xd03 => "Cortex-A53",
            0xd04 => "Cortex-A35",
            0xd05 => "Cortex-A55",
            0xd07 => "Cortex-A57",
            0xd08 => "Cortex-A72",
            0xd09 => "Cortex-A73",
            0xd0a => "Cortex-A75",
            0xd0b => "Cortex-A76",
            0xd0c => "Neoverse-N1",
            0xd0d => "Cortex-A77",
            0xd40 => "Neoverse-V1",
            0xd41 => "Cortex-A78",
            0xd42 => "Cortex-A78AE",
            0xd44 => "Cortex-X1",
            0xd46 => "Cortex-A510",
            0xd47 => "Cortex-A710",
            0xd49 => "Neoverse-N2",
            0xd4d => "Cortex-A715",
            0xd80 => "Cortex-A520",
            0xd81 => "Cortex-A720",
            _ => "",
        },
        (Some(0x4e), 0x003) => "Denver 2",
        (Some(0x4e), 0x004) => "Carmel",
        _ => "",
    };
    match (known, implementer) {
        ("", Some(implementer)) => format!("core {implementer:#x}/{part:#x}"),
        ("", None) => format!("core {part:#x}"),
        (name, _) => name.into(),
    }
}
