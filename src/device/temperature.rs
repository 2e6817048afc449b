//! How hot it is: thermal zones, or the chips of `hwmon` where no zone is the processor's.

use super::files::Files;

const ZONES: &str = "sys/class/thermal";
const CHIPS: &str = "sys/class/hwmon";
/// Degrees that a sensor can mean; others are no reading.
const BELIEVED: std::ops::RangeInclusive<f64> = -55.0..=200.0;

/// One temperature that the system knows, in degrees Celsius.
#[derive(Debug, Clone, PartialEq)]
pub struct Zone {
    /// As the system calls it: `cpu-thermal`, `tj-thermal`, `x86_pkg_temp`, `coretemp Package id 0`.
    pub name: String,
    pub celsius: f64,
    /// Where the system begins to slow down.
    pub passive: Option<f64>,
    /// Where the system switches itself off.
    pub critical: Option<f64>,
    pub is_processor: bool,
}

/// The hottest place of the processor.
pub fn processor(zones: &[Zone]) -> Option<&Zone> {
    zones.iter().filter(|zone| zone.is_processor).max_by(|a, b| a.celsius.total_cmp(&b.celsius))
}

pub(super) fn zones(files: &Files) -> Vec<Zone> {
    let mut zones: Vec<Zone> = files.names(ZONES).iter().filter_map(|name| zone(files, name)).collect();
    if processor(&zones).is_none() {
        zones.extend(files.names(CHIPS).iter().flat_map(|chip| sensors(files, chip)));
    }
    zones
}

fn zone(files: &Files, folder: &str) -> Option<Zone> {
    folder.starts_with("thermal_zone").then_some(())?;
    let name = files.word(&format!("{ZONES}/{folder}/type"))?;
    let celsius = degrees(files, &format!("{ZONES}/{folder}/temp"))?;
    let trips = files.names(&format!("{ZONES}/{folder}"));
    let trips = trips.iter().filter_map(|f| f.strip_prefix("trip_point_")?.strip_suffix("_type"));
    let (mut passive, mut critical) = (None, None);
    for trip in trips {
        let at = |what: &str| format!("{ZONES}/{folder}/trip_point_{trip}_{what}");
        // The kernel gives a trip point that is switched off a temperature of 0 or below.
        let Some(here) = degrees(files, &at("temp")).filter(|t| *t > 0.0) else { continue };
        match files.word(&at("type")).as_deref() {
            Some("passive") => passive = lower(passive, here),
            Some("critical") => critical = lower(critical, here),
            _ => {}
        }
    }
    Some(Zone { is_processor: is_processor(&name), name, celsius, passive, critical })
}

fn sensors(files: &Files, chip: &str) -> Vec<Zone> {
    let Some(name) = files.word(&format!("{CHIPS}/{chip}/name")).filter(|name| is_processor(name)) else {
        return vec![];
    };
    let inputs = files.names(&format!("{CHIPS}/{chip}"));
    let inputs = inputs.iter().filter_map(|f| f.strip_suffix("_input").filter(|f| f.starts_with("temp")));
    let sensor = |input: &str| {
        let at = |what: &str| format!("{CHIPS}/{chip}/{input}_{what}");
        let label = files.word(&at("label")).map(|label| format!(" {label}")).unwrap_or_default();
        Some(Zone {
            name: format!("{name}{label}"),
            celsius: degrees(files, &at("input"))?,
            passive: degrees(files, &at("max")).filter(|t| *t > 0.0),
            critical: degrees(files, &at("crit")).filter(|t| *t > 0.0),
            is_processor: true,
        })
    };
    inputs.filter_map(sensor).collect()
}

/// Thousandths of a degree, which both interfaces count in.
fn degrees(files: &Files, path: &str) -> Option<f64> {
    Some(files.number::<i64>(path)? as f64 / 1000.0).filter(|t| BELIEVED.contains(t))
}

fn lower(known: Option<f64>, here: f64) -> Option<f64> {
    Some(known.map_or(here, |known: f64| known.min(here)))
}

/// Whether a zone or a chip of this name is (in) the processor, as boards and drivers call them.
fn is_processor(name: &str) -> bool {
    const PARTS: [&str; 11] =
        ["cpu", "soc", "tj", "x86_pkg", "coretemp", "k10temp", "zenpower", "package", "bigcore", "littlecore", "bcm2"];
    // Jetson's over-current monitor is no thermometer; what holds these words beside `cpu` is not in the chip.
    const OTHERS: [&str; 4] = ["fan", "board", "_oc", "skin"];
    let name = name.to_lowercase();
    PARTS.iter().any(|part| name.contains(part)) && !OTHERS.iter().any(|other| name.contains(other))
}
