//! Memory, swap and the limits of the control group.

use super::{Check, bytes};
use crate::device::{Memory, Sensors};

/// Free memory below which only small models learn, and below which hardly anything runs.
const LITTLE: u64 = 128 << 20;
const NOTHING: u64 = 32 << 20;
/// Machines with less than this want swap.
const SMALL: u64 = 2 << 30;

pub(super) fn checks(sensors: &dyn Sensors) -> Vec<Check> {
    let memory = sensors.memory();
    vec![of_machine(&memory), swap(&memory), limits(sensors)]
}

/// Memory that a program may take now: the machine's, or what the control group leaves.
pub(super) fn free(sensors: &dyn Sensors) -> Option<u64> {
    [sensors.memory().available, sensors.group().memory_left()].into_iter().flatten().min()
}

fn of_machine(memory: &Memory) -> Check {
    const NAME: &str = "memory";
    let (Some(total), Some(available)) = (memory.total, memory.available) else { return Check::unknown(NAME) };
    let value = format!("{} free of {}", bytes(available), bytes(total));
    let next = "end other programs, or switch the desktop off (`sudo systemctl set-default multi-user.target`)";
    match available {
        0..NOTHING => Check::fail(NAME, value, next),
        NOTHING..LITTLE => Check::warn(NAME, value, next),
        _ => Check::ok(NAME, value),
    }
}

fn swap(memory: &Memory) -> Check {
    const NAME: &str = "swap";
    let Some(total) = memory.swap_total else { return Check::unknown(NAME) };
    if total == 0 {
        return match memory.total {
            Some(memory) if memory < SMALL => Check::warn(
                NAME,
                "none",
                "add compressed memory (`sudo apt install zram-tools`): without swap the kernel ends a program where \
                 memory runs short",
            ),
            _ => Check::ok(NAME, "none"),
        };
    }
    let free = memory.swap_free.unwrap_or(total);
    let kind = match memory.zram {
        Some(zram) if zram >= total => ", compressed memory",
        Some(zram) if zram > 0 => ", some of it compressed memory",
        _ => "",
    };
    let value = format!("{} free of {}{kind}", bytes(free), bytes(total));
    match free < total / 5 {
        true => Check::warn(NAME, value, "end what takes the memory before a training: it would swap, and take hours"),
        false => Check::ok(NAME, value),
    }
}

fn limits(sensors: &dyn Sensors) -> Check {
    const NAME: &str = "limits";
    let group = sensors.group();
    let memory = group.memory_max.into_iter().chain(group.memory_high).min();
    let parts = [
        memory.map(|most| format!("{} of memory, {} left", bytes(most), bytes(group.memory_left().unwrap_or(most)))),
        group.cores.map(|cores| format!("{cores:.2} cores of time")),
    ];
    let value = parts.into_iter().flatten().collect::<Vec<_>>().join("; ");
    if group.memory_left().is_some_and(|left| left < NOTHING) {
        let next = "raise MemoryMax of the service or --memory of the container: what goes beyond it is killed";
        return Check::fail(NAME, value, next);
    }
    if group.memory_left().is_some_and(|left| left < LITTLE) {
        return Check::warn(NAME, value, "raise MemoryMax of the service or --memory of the container");
    }
    if group.cores.is_some_and(|cores| cores < 1.0) {
        return Check::warn(
            NAME,
            value,
            "raise CPUQuota of the service or --cpus of the container to one core or more",
        );
    }
    Check::ok(NAME, if value.is_empty() { "none by a control group".into() } else { value })
}
