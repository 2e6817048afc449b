//! Whether the board slows itself down, and whether its supply is too weak.

use super::files::Files;

const CHIPS: &str = "sys/class/hwmon";
const FIRMWARE: &str = "sys/devices/platform/soc/soc:firmware";
const DRIVER: &str = "sys/bus/platform/drivers/raspberrypi-firmware";

/// Something that the board noticed: now, and at some time since it was started. None where it does not say.
///
/// A Raspberry Pi's kernel driver for voltage clears the firmware's record whenever it reads it, so that `since_boot`
/// may say false of what was a while ago. It never says true of what was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Noticed {
    pub now: Option<bool>,
    pub since_boot: Option<bool>,
}

/// What slows the board down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Throttling {
    /// The supply gives too little voltage.
    pub under_voltage: Noticed,
    /// The firmware holds the processor's clock down.
    pub frequency_capped: Noticed,
    /// The firmware slows the processor down, for whatever reason.
    pub throttled: Noticed,
    /// The soft temperature limit, which some boards have.
    pub temperature_limit: Noticed,
}

pub(super) fn throttling(files: &Files) -> Throttling {
    let mut throttling = firmware(files).map(of_bits).unwrap_or_default();
    for chip in files.names(CHIPS) {
        match files.word(&format!("{CHIPS}/{chip}/name")).as_deref() {
            // Newer kernels of the Raspberry Pi have this alone.
            Some("rpi_volt") => {
                let alarm = files.number::<u8>(&format!("{CHIPS}/{chip}/in0_lcrit_alarm")).map(|alarm| alarm != 0);
                let now = &mut throttling.under_voltage.now;
                *now = if *now == Some(true) { *now } else { alarm.or(*now) };
            }
            // Jetson: how often too much current made it slow down.
            Some("soctherm_oc") => throttling.throttled.since_boot = over_current(files, &chip),
            _ => {}
        }
    }
    throttling
}

/// The bit field of the Raspberry Pi's firmware (`vcgencmd get_throttled`), hexadecimal, with or without `0x`.
fn firmware(files: &Files) -> Option<u32> {
    let folders = files.names(DRIVER).into_iter().map(|device| format!("{DRIVER}/{device}"));
    let word = [FIRMWARE.to_string()].into_iter().chain(folders);
    let word = word.into_iter().find_map(|folder| files.word(&format!("{folder}/get_throttled")))?;
    u32::from_str_radix(word.trim_start_matches("0x"), 16).ok()
}

fn of_bits(bits: u32) -> Throttling {
    let noticed = |bit: u32| Noticed { now: Some(bits >> bit & 1 == 1), since_boot: Some(bits >> (16 + bit) & 1 == 1) };
    Throttling {
        under_voltage: noticed(0),
        frequency_capped: noticed(1),
        throttled: noticed(2),
        temperature_limit: noticed(3),
    }
}

fn over_current(files: &Files, chip: &str) -> Option<bool> {
    let names = files.names(&format!("{CHIPS}/{chip}"));
    let counts = names.iter().filter(|name| name.starts_with("oc") && name.ends_with("_event_cnt"));
    counts.filter_map(|name| files.number::<u64>(&format!("{CHIPS}/{chip}/{name}"))).map(|n| n > 0).max()
}
