//! Board, processor, kernels and cores.

use super::Check;
use crate::device::{Architecture, Cpu, Sensors};

/// Cores of 32 bits alone: others can run a system of 64 bits.
const NARROW: [&str; 5] = ["ARM1176", "Cortex-A7", "Cortex-A8", "Cortex-A9", "Cortex-A15"];

pub(super) fn checks(sensors: &dyn Sensors) -> Vec<Check> {
    let cpu = sensors.cpu();
    vec![board(sensors), processor(&cpu), kernels(&cpu), cores(sensors, &cpu)]
}

fn board(sensors: &dyn Sensors) -> Check {
    let board = sensors.board();
    let kernel = board.kernel.map(|kernel| format!("Linux {kernel}"));
    match [board.model, kernel].into_iter().flatten().collect::<Vec<_>>() {
        known if known.is_empty() => Check::unknown("board"),
        known => Check::ok("board", known.join(", ")),
    }
}

fn processor(cpu: &Cpu) -> Check {
    const NAME: &str = "processor";
    let names: Vec<&str> = cpu.clusters.iter().map(|(name, _)| name.as_str()).collect();
    let names = names.join(" and ");
    let with = |kind: &str| if names.is_empty() { kind.to_string() } else { format!("{names}, {kind}") };
    match cpu.architecture {
        Some(Architecture::Arm64) => Check::ok(NAME, with("64-bit ARM")),
        Some(Architecture::X86) => match cpu.x86_level() {
            Some(level) => Check::ok(NAME, with(&format!("x86-64 level {level}"))),
            None => Check::ok(NAME, with("x86")),
        },
        Some(Architecture::Arm32) if cpu.clusters.iter().any(|(name, _)| !NARROW.contains(&name.as_str())) => {
            Check::warn(
                NAME,
                with("64-bit ARM under a 32-bit system"),
                "install the 64-bit system of this board: programs of 32 bits are slower and see less memory",
            )
        }
        Some(Architecture::Arm32) => Check::warn(
            NAME,
            with("32-bit ARM"),
            "expect long trainings: the program is made for 64-bit boards, and this one has none of their instructions",
        ),
        None => Check::unknown(NAME),
    }
}

/// Which loops and products this processor gets: chosen while the program runs.
fn kernels(cpu: &Cpu) -> Check {
    const NAME: &str = "kernels";
    let all = |features: &[&str]| features.iter().all(|feature| cpu.has(feature));
    match cpu.architecture {
        Some(Architecture::Arm64) => {
            let has = |what: &str, has: bool| format!("{} {what}", if has { "with" } else { "without" });
            let [dots, half] = [has("dot products", cpu.has("asimddp")), has("16-bit floats", cpu.has("asimdhp"))];
            Check::ok(NAME, format!("NEON, {dots}, {half}"))
        }
        Some(Architecture::X86) if all(&["avx512f"]) => Check::ok(NAME, "AVX-512 and AVX2"),
        Some(Architecture::X86) if all(&["avx2", "fma"]) => Check::ok(NAME, "AVX2"),
        Some(Architecture::X86) => Check::warn(
            NAME,
            "SSE2: the processor, or what emulates it, has no AVX2",
            "expect half the speed or less; in a virtual machine, pass the host's processor through",
        ),
        Some(Architecture::Arm32) => Check::ok(NAME, if cpu.has("neon") { "32-bit NEON" } else { "no vectors" }),
        None => Check::unknown(NAME),
    }
}

fn cores(sensors: &dyn Sensors, cpu: &Cpu) -> Check {
    const NAME: &str = "cores";
    let frequencies = sensors.frequencies();
    let count = cpu.online.or_else(|| Some(cpu.clusters.iter().map(|(_, n)| n).sum()).filter(|n| *n > 0));
    let Some(count) = count else { return Check::unknown(NAME) };
    let mut value = match cpu.clusters.as_slice() {
        [_, _, ..] => cpu.clusters.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", "),
        _ => count.to_string(),
    };
    let most = frequencies.iter().filter_map(|f| f.most).max();
    value += &most.map(|khz| format!(", up to {} MHz", khz / 1000)).unwrap_or_default();
    let governor = frequencies.iter().find_map(|f| f.governor.clone());
    value += &governor.as_ref().map(|governor| format!(", governor {governor}")).unwrap_or_default();
    value += &sensors.load().map(|[now, ..]| format!(", load {now:.2}")).unwrap_or_default();
    // Intel's driver calls its usual governor powersave; elsewhere it is the lowest clock.
    let is_arm = cpu.architecture.is_some_and(|architecture| architecture != Architecture::X86);
    if is_arm && governor.as_deref() == Some("powersave") {
        let next = "choose another governor with `cpupower frequency-set -g ondemand`: this one keeps the lowest clock";
        return Check::warn(NAME, value, next);
    }
    Check::ok(NAME, value)
}
