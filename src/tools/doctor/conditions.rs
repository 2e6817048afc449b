//! Temperature, throttling, voltage, clock, pressure and power.

use super::{Check, State};
use crate::device::{Noticed, Pressure, Sensors, Supply, processor};

/// Degrees at which a training waits, and how near to the critical trip point it gets dangerous.
const WARM: f64 = 75.0;
const MARGIN: f64 = 5.0;
/// Percent of a minute that some task waits: from there on there is no room for more.
const BUSY: f64 = 50.0;
const SHORT: f64 = 10.0;
/// A battery that a training should not empty.
const LOW: u8 = 20;

pub(super) fn checks(sensors: &dyn Sensors) -> Vec<Check> {
    vec![temperature(sensors), throttling(sensors), voltage(sensors), clock(sensors), pressure(sensors), power(sensors)]
}

fn temperature(sensors: &dyn Sensors) -> Check {
    const NAME: &str = "temperature";
    let zones = sensors.temperatures();
    let Some(zone) = processor(&zones) else { return Check::unknown(NAME) };
    let off = zone.critical.map(|t| format!(", off at {t:.0} °C")).unwrap_or_default();
    let value = format!("{:.0} °C ({}){off}", zone.celsius, zone.name);
    if zone.critical.is_some_and(|critical| zone.celsius >= critical - MARGIN) {
        return Check::fail(NAME, value, "cool the board at once: it is about to switch itself off");
    }
    match zone.celsius >= WARM {
        true => Check::warn(NAME, value, "give it a heat sink or a fan, or more air: hot boards slow down"),
        false => Check::ok(NAME, value),
    }
}

fn throttling(sensors: &dyn Sensors) -> Check {
    const NAME: &str = "throttling";
    let seen = sensors.throttling();
    let kinds = [
        (seen.frequency_capped, "clock held down"),
        (seen.throttled, "slowed down"),
        (seen.temperature_limit, "at its soft temperature limit"),
    ];
    if kinds.iter().all(|(noticed, _)| *noticed == Noticed::default()) {
        return Check::unknown(NAME);
    }
    let told = |of: &dyn Fn(&Noticed) -> Option<bool>| -> Vec<&str> {
        kinds.iter().filter(|(noticed, _)| of(noticed) == Some(true)).map(|(_, what)| *what).collect()
    };
    let (now, before) = (told(&|n| n.now), told(&|n| n.since_boot));
    let next = "cool it and look at its supply: times that are measured while it is slow are not those to come";
    match (now.is_empty(), before.is_empty()) {
        (false, _) => Check::warn(NAME, format!("now: {}", now.join(", ")), next),
        (true, false) => Check::warn(NAME, format!("since it was started: {}", before.join(", ")), next),
        (true, true) => Check::ok(NAME, "none"),
    }
}

fn voltage(sensors: &dyn Sensors) -> Check {
    const NAME: &str = "voltage";
    match sensors.throttling().under_voltage {
        Noticed { now: Some(true), .. } => Check::fail(
            NAME,
            "too low now",
            "use the supply that was made for this board and a short cable: low voltage damages files on SD cards",
        ),
        Noticed { since_boot: Some(true), .. } => Check::warn(
            NAME,
            "was too low since it was started",
            "use the supply that was made for this board and a short cable before it trains",
        ),
        Noticed { now: None, since_boot: None } => Check::unknown(NAME),
        _ => Check::ok(NAME, "enough"),
    }
}

fn clock(sensors: &dyn Sensors) -> Check {
    const NAME: &str = "clock";
    let clock = sensors.clock();
    match (clock.is_plausible, clock.synchronised) {
        (false, _) => Check::warn(
            NAME,
            "not set: it shows a time before this program was written",
            "set the time (`sudo timedatectl set-ntp true`, or a clock with a battery): dates of feedback are wrong",
        ),
        (true, Some(true)) => Check::ok(NAME, "set by the network"),
        (true, Some(false)) => Check::ok(NAME, "plausible, and not yet set by the network"),
        (true, None) => Check::ok(NAME, "plausible"),
    }
}

fn pressure(sensors: &dyn Sensors) -> Check {
    const NAME: &str = "pressure";
    let all = sensors.pressure();
    let parts = [("processor", all.cpu, BUSY), ("memory", all.memory, SHORT), ("disk", all.io, BUSY)];
    let known: Vec<(&str, Pressure, f64)> = parts.into_iter().filter_map(|(n, p, most)| Some((n, p?, most))).collect();
    if known.is_empty() {
        return Check::ok(NAME, "not known: this kernel does not count it (PSI)");
    }
    let told = |(name, p, _): &(&str, Pressure, f64)| format!("{name} {:.0} %", p.some60);
    let value =
        format!("of the last minute, tasks waited for {}", known.iter().map(told).collect::<Vec<_>>().join(", "));
    match known.iter().any(|(_, p, most)| p.some60 >= *most) {
        true => Check::warn(NAME, value, "find what keeps the machine busy (`top`), or train at another time"),
        false => Check::ok(NAME, value),
    }
}

fn power(sensors: &dyn Sensors) -> Check {
    const NAME: &str = "power";
    let power = sensors.power();
    let mode = power.mode.map(|mode| {
        let name = mode.name.unwrap_or_else(|| mode.id.to_string());
        format!("power mode {name}, one of {}", mode.all.join(", "))
    });
    let (state, supply) = match power.supply {
        Supply::Mains => (State::Ok, Some("mains".to_string())),
        Supply::Battery { percent: Some(percent) } if percent < LOW => {
            (State::Warn, Some(format!("battery, {percent} %")))
        }
        Supply::Battery { percent } => {
            (State::Ok, Some(percent.map_or("battery".into(), |percent| format!("battery, {percent} %"))))
        }
        Supply::Unknown => (State::Ok, None),
    };
    let value = [supply, mode].into_iter().flatten().collect::<Vec<_>>().join("; ");
    match state {
        State::Ok if value.is_empty() => Check::unknown(NAME),
        State::Ok => Check::ok(NAME, value),
        _ => Check::warn(NAME, value, "plug it in before it trains"),
    }
}
