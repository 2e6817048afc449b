//! What computes the plans of a model: the processor, or an NVIDIA GPU.

#[cfg(feature = "cuda")]
mod cuda;
#[cfg(not(feature = "cuda"))]
mod without_cuda;

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

#[cfg(feature = "cuda")]
use cuda as driver;
#[cfg(not(feature = "cuda"))]
use without_cuda as driver;

use crate::error::{Error, Result};
use crate::sync::lock;

/// Plans that are remembered; later ones are not, as homes compile them for ever.
const REMEMBERED: usize = 256;

/// What is asked to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU; where there is none, nothing runs.
    Cuda,
    /// An NVIDIA GPU where there is one that works, else the processor.
    Auto,
}

impl DeviceChoice {
    /// Every name, as `--device` and the settings have them.
    pub const NAMES: [&'static str; 3] = ["cpu", "cuda", "auto"];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            DeviceChoice::Cpu => "cpu",
            DeviceChoice::Cuda => "cuda",
            DeviceChoice::Auto => "auto",
        }
    }

    /// Looks for what is asked for.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) where a GPU is asked for and cannot be used.
    pub fn place(self) -> Result<Placement> {
        let (device, why_not) = match self {
            DeviceChoice::Cpu => (Device::Cpu, None),
            DeviceChoice::Cuda => match driver::find() {
                Ok(_) => (Device::Cuda, None),
                Err(missing) => return Err(missing.refused()),
            },
            DeviceChoice::Auto => match driver::find() {
                Ok(_) => (Device::Cuda, None),
                Err(missing) => (Device::Cpu, Some(missing.why)),
            },
        };
        Ok(Placement { asked: self, device, why_not, plans: Mutex::default() })
    }
}

impl std::str::FromStr for DeviceChoice {
    type Err = Error;
    fn from_str(name: &str) -> Result<DeviceChoice> {
        let known = [DeviceChoice::Cpu, DeviceChoice::Cuda, DeviceChoice::Auto];
        let found = known.into_iter().find(|choice| choice.name() == name);
        found.ok_or_else(|| Error::usage(format!("no device {name:?}")).hint("choose cpu, cuda or auto"))
    }
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// The processor.
    #[default]
    Cpu,
    /// The first NVIDIA GPU.
    Cuda,
}

impl Device {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Device::Cpu => "cpu",
            Device::Cuda => "cuda",
        }
    }
}

/// A GPU that works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its name, as the driver has it.
    pub name: String,
    /// Its memory, bytes; of a board like the Jetson that of the processor, too.
    pub memory_bytes: u64,
    /// What it can do, as NVIDIA numbers it: 8.7 of Orin.
    pub compute_capability: (i32, i32),
}

/// Why no GPU is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoGpu {
    /// What was looked for, and not found.
    pub why: String,
    /// What to do.
    pub next: &'static str,
    /// Whether there is a driver, so that something is wrong rather than missing.
    pub has_driver: bool,
}

impl NoGpu {
    fn refused(self) -> Error {
        let processor = "or use the processor: `--device cpu`, or `device` in the home's acclimate.toml";
        Error::usage("no GPU can be used").because(self.why).hint(format!("{}; {processor}", self.next))
    }
}

/// Looks for a GPU, and starts it: its kernels are compiled the first time.
///
/// # Errors
/// Where there is none, or this build does not use it.
pub fn find_gpu() -> std::result::Result<Gpu, NoGpu> {
    driver::find()
}

/// What was asked to compute, what does, and where each compiled plan ended up.
#[derive(Debug, Default)]
pub struct Placement {
    asked: DeviceChoice,
    device: Device,
    why_not: Option<String>,
    plans: Mutex<Vec<PlacedPlan>>,
}

/// Where a plan's operators run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedPlan {
    /// `forward`, `training forward`, `backward` or another plan.
    pub plan: &'static str,
    /// Operators that run on the GPU.
    pub on_gpu: usize,
    /// Of others the names, with how many there are.
    pub on_cpu: BTreeMap<String, usize>,
    /// Copies between the memories.
    pub copies: usize,
    /// Why the whole plan runs on the processor, if it does.
    pub refused: Option<String>,
}

impl Placement {
    /// What was asked for.
    pub fn asked(&self) -> DeviceChoice {
        self.asked
    }
    /// What computes.
    pub fn device(&self) -> Device {
        self.device
    }
    /// Threads that are to run plans side by side, where `asked` may: on a GPU one, since each starts libraries of its
    /// own, and the GPU is shared anyway.
    pub fn threads(&self, asked: usize) -> usize {
        if self.device == Device::Cuda { 1 } else { asked.max(1) }
    }
    /// Why the processor computes where a GPU would have been welcome.
    pub fn why_not(&self) -> Option<&str> {
        self.why_not.as_deref()
    }
    /// The plans that were to run on the GPU, in the order in which they were compiled.
    pub fn plans(&self) -> Vec<PlacedPlan> {
        lock(&self.plans).clone()
    }
    pub(crate) fn remember(&self, plan: PlacedPlan) {
        let mut plans = lock(&self.plans);
        if plans.len() < REMEMBERED {
            plans.push(plan);
        }
    }
    /// One whose plans are prepared for the GPU, whether there is one or not.
    #[cfg(all(test, feature = "cuda"))]
    pub(crate) fn on_a_gpu() -> Placement {
        Placement { asked: DeviceChoice::Cuda, device: Device::Cuda, ..Placement::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_one_name_everywhere() {
        for name in DeviceChoice::NAMES {
            let choice: DeviceChoice = name.parse().unwrap();
            assert_eq!(choice.name(), name);
            assert_eq!(serde_json::to_string(&choice).unwrap(), format!("{name:?}"));
        }
        let refused = "gpu".parse::<DeviceChoice>().unwrap_err();
        assert_eq!(refused.next_step(), Some("choose cpu, cuda or auto"));
    }

    #[test]
    fn the_processor_is_always_there() {
        assert_eq!(DeviceChoice::Cpu.place().unwrap().device(), Device::Cpu);
    }

    /// On every machine one of both holds: there is a GPU and both take it, or both say why not.
    #[test]
    fn what_stands_in_the_way_of_a_gpu_is_said() {
        let auto = DeviceChoice::Auto.place().unwrap();
        match DeviceChoice::Cuda.place() {
            Ok(placed) => {
                assert_eq!((placed.device(), auto.device(), auto.why_not()), (Device::Cuda, Device::Cuda, None))
            }
            Err(refused) => {
                assert_eq!((auto.device(), refused.kind()), (Device::Cpu, crate::ErrorKind::Usage));
                let why = auto.why_not().unwrap();
                assert!(refused.to_string().contains(why), "{refused}");
                let looked_for = if cfg!(feature = "cuda") { "libcuda.so.1" } else { "without the feature `cuda`" };
                assert!(why.contains(looked_for), "{why}");
                assert!(refused.next_step().is_some());
            }
        }
    }
}
