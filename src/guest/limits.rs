//! Limits over what the device tells: one that is crossed pauses the work, and it goes on at a lower mark.

use crate::device::{Noticed, Sensors, Supply, processor};

/// How much cooler the processor must become, and how much fuller the battery, before work goes on.
const COOLER: f64 = 5.0;
const FULLER: f64 = 5.0;
/// Charge of a full battery, percent.
const FULL: f64 = 100.0;
/// Share of a limit of pressure at which work goes on.
const CALMER: f64 = 0.5;

/// Where work in the background pauses. What the device does not tell limits nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// The processor's temperature in degrees Celsius.
    pub celsius: f64,
    /// Percent of the last 10 seconds in which some task waited for memory.
    pub memory_pressure: f64,
    /// The same for a core.
    pub cpu_pressure: f64,
    /// What a battery that discharges must have left, percent.
    pub battery: f64,
    /// Whether a battery is no place to work from at all.
    pub on_mains: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { celsius: 75.0, memory_pressure: 10.0, cpu_pressure: 80.0, battery: 30.0, on_mains: false }
    }
}

/// Why work pauses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Temperature,
    UnderVoltage,
    Throttled,
    MemoryPressure,
    CpuPressure,
    Battery,
    NotOnMains,
}

impl Reason {
    /// As events call it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Temperature => "temperature",
            Reason::UnderVoltage => "under-voltage",
            Reason::Throttled => "throttled",
            Reason::MemoryPressure => "memory-pressure",
            Reason::CpuPressure => "cpu-pressure",
            Reason::Battery => "battery",
            Reason::NotOnMains => "not-on-mains",
        }
    }
}

/// All reasons of a pause, each once, in the order in which they were found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reasons([Option<Reason>; 7]);

impl Reasons {
    /// Notes one that may be known already.
    pub fn note(&mut self, reason: Reason) {
        let free = self.0.iter_mut().find(|place| place.is_none_or(|known| known == reason));
        if let Some(place) = free {
            *place = Some(reason);
        }
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = Reason> {
        self.0.into_iter().flatten()
    }
}

/// A limit that is crossed. Value and limit are numbers only where the device tells one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Crossed {
    pub reason: Reason,
    pub value: Option<f64>,
    pub limit: Option<f64>,
}

impl Limits {
    /// The limits that are crossed; with `paused`, those whose lower mark is.
    pub fn crossed(&self, sensors: &dyn Sensors, paused: bool) -> Vec<Crossed> {
        let above = |reason, value: Option<f64>, limit: f64, mark: f64| {
            let mark = if paused { mark } else { limit };
            value.filter(|value| *value > mark).map(|value| Crossed { reason, value: Some(value), limit: Some(mark) })
        };
        let noticed = |reason, noticed: Noticed| {
            (noticed.now == Some(true)).then_some(Crossed { reason, value: None, limit: None })
        };
        let celsius = processor(&sensors.temperatures()).map(|zone| zone.celsius);
        let throttling = sensors.throttling();
        let slowed = [throttling.throttled, throttling.frequency_capped, throttling.temperature_limit];
        let pressure = sensors.pressure();
        let of = |reason, found: Option<crate::device::Pressure>, limit: f64| {
            above(reason, found.map(|p| p.some10), limit, limit * CALMER)
        };
        let all = [
            above(Reason::Temperature, celsius, self.celsius, self.celsius - COOLER),
            noticed(Reason::UnderVoltage, throttling.under_voltage),
            slowed.iter().find_map(|what| noticed(Reason::Throttled, *what)),
            of(Reason::MemoryPressure, pressure.memory, self.memory_pressure),
            of(Reason::CpuPressure, pressure.cpu, self.cpu_pressure),
            self.without_mains(sensors.power().supply, paused),
        ];
        all.into_iter().flatten().collect()
    }

    fn without_mains(&self, supply: Supply, paused: bool) -> Option<Crossed> {
        let Supply::Battery { percent } = supply else { return None };
        let (value, mark) = (percent.map(f64::from), (self.battery + if paused { FULLER } else { 0.0 }).min(FULL));
        if self.on_mains {
            return Some(Crossed { reason: Reason::NotOnMains, value, limit: None });
        }
        let low = value.filter(|percent| *percent < mark);
        low.map(|value| Crossed { reason: Reason::Battery, value: Some(value), limit: Some(mark) })
    }
}
