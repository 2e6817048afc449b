//! Where the power comes from, and how much of it a Jetson may take.

use super::files::Files;

const SUPPLIES: &str = "sys/class/power_supply";

/// What feeds the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Supply {
    Mains,
    /// Discharging, with what is left in percent.
    Battery {
        percent: Option<u8>,
    },
    /// Most boards without a battery do not say.
    #[default]
    Unknown,
}

/// A power mode of a Jetson (`nvpmodel`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PowerMode {
    pub id: u32,
    pub name: Option<String>,
    /// Names of all modes that the board has.
    pub all: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Power {
    pub supply: Supply,
    pub mode: Option<PowerMode>,
}

pub(super) fn power(files: &Files) -> Power {
    Power { supply: supply(files), mode: mode(files) }
}

fn supply(files: &Files) -> Supply {
    let (mut has_mains, mut battery) = (false, None);
    for name in files.names(SUPPLIES) {
        let read = |what: &str| files.word(&format!("{SUPPLIES}/{name}/{what}"));
        // The battery of a mouse is not the machine's.
        if read("scope").as_deref() == Some("Device") {
            continue;
        }
        match read("type").as_deref() {
            Some("Battery") => match read("status").as_deref() {
                Some("Discharging") => {
                    battery = Some(read("capacity").and_then(|c| c.parse().ok()).filter(|c| *c <= 100));
                }
                Some("Charging" | "Full" | "Not charging") => has_mains = true,
                _ => {}
            },
            Some(_) => has_mains |= read("online").is_some_and(|online| online != "0"),
            None => {}
        }
    }
    match battery {
        Some(percent) if !has_mains => Supply::Battery { percent },
        None if !has_mains => Supply::Unknown,
        _ => Supply::Mains,
    }
}

/// `pmode:0002` of the state, and `< POWER_MODEL ID=2 NAME=MAXN >` of the configuration.
fn mode(files: &Files) -> Option<PowerMode> {
    let state = files.text("var/lib/nvpmodel/status")?;
    let id = state.lines().find_map(|l| l.trim().strip_prefix("pmode:")?.trim().parse::<u32>().ok())?;
    let configuration = files.text("etc/nvpmodel.conf").unwrap_or_default();
    let modes: Vec<(u32, String)> = configuration.lines().filter_map(power_model).take(64).collect();
    let name = modes.iter().find(|(other, _)| *other == id).map(|(_, name)| name.clone());
    Some(PowerMode { id, name, all: modes.into_iter().map(|(_, name)| name).collect() })
}

fn power_model(line: &str) -> Option<(u32, String)> {
    let mut fields = line.trim().strip_prefix('<')?.split_whitespace();
    (fields.next()? == "POWER_MODEL").then_some(())?;
    let id = fields.next()?.strip_prefix("ID=")?.parse().ok()?;
    Some((id, super::files::word(fields.next()?.strip_prefix("NAME=")?)?))
}
