//! What the system tells about the device: temperature, throttling, pressure, power, memory, limits, disk, clock.
//!
//! Everything is read anew at each call, from small files of the kernel. What the system does not say is `None`, an
//! empty list or `Unknown`, and so is what makes no sense. Nothing here panics or waits for more than the kernel takes
//! to answer.

mod board;
mod cgroup;
mod cpu;
mod disk;
mod files;
mod frequency;
mod memory;
mod power;
mod pressure;
mod temperature;
#[cfg(test)]
mod tests;
mod throttling;

use std::fmt::Debug;
use std::path::{Path, PathBuf};

pub use board::{Board, Clock};
pub use cgroup::Group;
pub use cpu::{Architecture, Cpu};
pub use disk::{Disk, Medium, Space};
pub use frequency::Frequency;
pub use memory::Memory;
pub use power::{Power, PowerMode, Supply};
pub use pressure::{Pressure, Pressures};
pub use temperature::{Zone, processor};
pub use throttling::{Noticed, Throttling};

use files::Files;

/// What a device can be asked.
pub trait Sensors: Send + Sync + Debug {
    /// Temperatures; [`processor`] picks the one that counts.
    fn temperatures(&self) -> Vec<Zone>;
    /// Under-voltage and throttling.
    fn throttling(&self) -> Throttling;
    /// The clock of each core.
    fn frequencies(&self) -> Vec<Frequency>;
    /// Waiting for processor, memory and storage.
    fn pressure(&self) -> Pressures;
    /// Limits of this process's control group.
    fn group(&self) -> Group;
    /// Memory and swap of the machine.
    fn memory(&self) -> Memory;
    /// Mains or battery, and a Jetson's power mode.
    fn power(&self) -> Power;
    /// Model and kernel.
    fn board(&self) -> Board;
    /// Tasks that run or wait, over 1, 5 and 15 minutes.
    fn load(&self) -> Option<[f64; 3]>;
    /// Cores and instructions.
    fn cpu(&self) -> Cpu;
    /// Whether the clock is set.
    fn clock(&self) -> Clock;
    /// The disk that holds a path, or will hold it.
    fn disk(&self, path: &Path) -> Option<Disk>;
    /// What is free on it. An error is one of the disk: it was pulled out, say.
    fn space(&self, path: &Path) -> std::io::Result<Option<Space>>;
}

/// The files of Linux under a root. On other systems nothing is known.
#[derive(Debug, Clone)]
pub struct Linux {
    files: Files,
}

impl Linux {
    /// The running system.
    pub fn here() -> Linux {
        Linux::under("/")
    }

    /// A recorded board: a folder with its files as they lie below `/`.
    pub fn under(root: impl Into<PathBuf>) -> Linux {
        Linux { files: Files::below(root) }
    }
}

impl Sensors for Linux {
    fn temperatures(&self) -> Vec<Zone> {
        temperature::zones(&self.files)
    }
    fn throttling(&self) -> Throttling {
        throttling::throttling(&self.files)
    }
    fn frequencies(&self) -> Vec<Frequency> {
        frequency::frequencies(&self.files)
    }
    fn pressure(&self) -> Pressures {
        pressure::pressures(&self.files)
    }
    fn group(&self) -> Group {
        cgroup::group(&self.files)
    }
    fn memory(&self) -> Memory {
        memory::memory(&self.files)
    }
    fn power(&self) -> Power {
        power::power(&self.files)
    }
    fn board(&self) -> Board {
        board::board(&self.files)
    }
    fn load(&self) -> Option<[f64; 3]> {
        board::load(&self.files)
    }
    fn cpu(&self) -> Cpu {
        cpu::cpu(&self.files)
    }
    fn clock(&self) -> Clock {
        board::clock(&self.files)
    }
    fn disk(&self, path: &Path) -> Option<Disk> {
        disk::disk(&self.files, path)
    }
    fn space(&self, path: &Path) -> std::io::Result<Option<Space>> {
        disk::space(&self.files, path)
    }
}
