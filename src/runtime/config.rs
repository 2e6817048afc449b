//! `acclimate.toml`: what a home knows about its model.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::asking::{self, ASK_RATE};
use crate::adapter::LoraOptions;
use crate::base::DeviceChoice;
use crate::cipher::Key;
use crate::disk::{Disk, FileAccess, KeySource, StagedFile, read_file};
use crate::error::{Error, ErrorKind, Result};
use crate::input::Preprocessing;
use crate::process::{TrainLimits, available_cores};

/// Name of the file in a home.
pub(crate) const FILE: &str = "acclimate.toml";
const LONGEST_FILE: u64 = 1 << 20;
/// Bytes a day from which on a training in the background waits, where the home says nothing.
const WRITE_BUDGET: u64 = 25 << 20;

/// What happens when feedback names a class that nobody has named before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum NewClasses {
    /// It becomes a class.
    Allow,
    /// It is refused unless the caller says that it is new: a slip of the pen makes no class.
    Ask,
}

/// Whether sequences of different lengths share a compiled plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextPadding {
    /// They do not: a plan is compiled for every length that is met.
    #[default]
    Exact,
    /// They are padded with the tokenizer's padding token, which the model's mask hides.
    Masked,
}

/// What a training does with inputs whose answers nobody corrected. In the file it is `true`, `"base"` or `false`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Switch", into = "Switch")]
pub enum Distillation {
    /// Keeps the base model's answers, and those that the active generation has learned to give instead; measures how
    /// many of the base model's it changes.
    #[default]
    On,
    /// Keeps the base model's answers alone, and measures how many it changes.
    Base,
    /// Does not read them.
    Off,
}

impl Distillation {
    fn is_usual(&self) -> bool {
        *self == Distillation::On
    }
}

/// [`Distillation`] as it stands in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Switch {
    On(bool),
    Only(String),
}

impl TryFrom<Switch> for Distillation {
    type Error = String;
    fn try_from(switch: Switch) -> std::result::Result<Distillation, String> {
        match switch {
            Switch::On(true) => Ok(Distillation::On),
            Switch::On(false) => Ok(Distillation::Off),
            Switch::Only(word) if word == "base" => Ok(Distillation::Base),
            Switch::Only(word) => Err(format!("distillation = {word:?}: write true, \"base\" or false")),
        }
    }
}

impl From<Distillation> for Switch {
    fn from(distillation: Distillation) -> Switch {
        match distillation {
            Distillation::On => Switch::On(true),
            Distillation::Base => Switch::Only("base".into()),
            Distillation::Off => Switch::On(false),
        }
    }
}

/// The settings of a home.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of this file's layout.
    pub format: u32,
    /// The base model, relative to the home.
    pub model: PathBuf,
    /// BLAKE3 of the base model's bytes, in hex.
    pub fingerprint: String,
    /// `classification` or `encoder`.
    pub task: String,
    /// One label a line, relative to the home; without it classes are numbered from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// `tokenizer.json`, relative to the home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<PathBuf>,
    /// Longest text in tokens; the rest is cut.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
    /// Rank of the low-rank deltas.
    pub rank: usize,
    /// Sites that may adapt: names with `*`, separated by commas, or `all`.
    pub sites: String,
    /// Whether feedback may name new classes.
    pub new_classes: NewClasses,
    /// Greatest share of uncorrected answers that an adapter may change.
    #[serde(default = "default_disagreement")]
    pub disagreement_limit: f64,
    /// Greatest share of answers that ask for a label; 0 asks for none.
    #[serde(default = "default_ask_rate")]
    pub ask_rate: f64,
    /// Greatest share of inputs of known classes that may be answered as none of these; 0 answers none so.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub none_rate: f64,
    /// What a training does with inputs whose answers nobody corrected.
    #[serde(default, skip_serializing_if = "Distillation::is_usual")]
    pub distillation: Distillation,
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// Threads that answer, and that train where nothing else is said; as many as there are cores when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<std::num::NonZeroU16>,
    /// What computes: `cpu`, `cuda` or `auto`; the processor when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceChoice>,
    /// Whether texts of different lengths may be padded to one; found by trying when the home is made.
    #[serde(default)]
    pub padding: TextPadding,
    /// How pictures become arrays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Preprocessing>,
    /// Name of the model's output that answers; the first when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_output: Option<String>,
    /// Name of the model's input that is fed with what is given without a name; the only one when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_input: Option<String>,
    /// With which key the profiles are encrypted; they are not when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Bytes a day of all profiles together from which on trainings in the background wait until the next day; 0 for no
    /// limit, 25 MiB when not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_budget: Option<u64>,
    /// What training may cost.
    #[serde(default, skip_serializing_if = "TrainLimits::are_unlimited")]
    pub limits: TrainLimits,
    /// How files are held that are in use.
    #[serde(default, skip_serializing_if = "StorageOptions::is_usual")]
    pub storage: StorageOptions,
    /// Which member of the LoRA family is trained.
    #[serde(default, skip_serializing_if = "LoraOptions::are_usual")]
    pub lora: LoraOptions,
}

/// How files are held that are in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageOptions {
    /// The adapter that answers: `mmap` or `read`.
    #[serde(default)]
    pub adapters: FileAccess,
    /// Large weights of the base model: `mmap` or `read`.
    #[serde(default)]
    pub base: FileAccess,
}

impl StorageOptions {
    fn is_usual(&self) -> bool {
        *self == StorageOptions::default()
    }
}

/// With which key the profiles of a home are encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encryption {
    /// [`Key::mark`] of the key, by which another one is told.
    pub mark: String,
    /// Where the key is.
    pub key: KeySource,
}

impl Encryption {
    /// The key.
    ///
    /// # Errors
    /// `NoKey` if it is not there or another one is, `BadData` if what is there is no key, `Io`.
    fn load(&self, disk: &dyn Disk) -> Result<Key> {
        let key = self.key.load(disk)?;
        self.check(&key)?;
        Ok(key)
    }

    fn check(&self, key: &Key) -> Result<()> {
        if key.mark() == self.mark {
            return Ok(());
        }
        let what = format!("the wrong key: its mark is {}, the home was made with {}", key.mark(), self.mark);
        Err(Error::new(ErrorKind::NoKey, what).hint("give the key that the home was made with; nothing was changed"))
    }
}

fn is_zero(rate: &f64) -> bool {
    *rate == 0.0
}

fn default_max_length() -> usize {
    128
}

fn default_disagreement() -> f64 {
    0.10
}

fn default_ask_rate() -> f64 {
    ASK_RATE
}

impl Config {
    pub(crate) fn read(disk: &dyn Disk, home: &Path) -> Result<Config> {
        let path = home.join(FILE);
        if !disk.exists(&path).map_err(|e| Error::io("cannot look for the home", &path, e))? {
            return Err(Error::usage("this is not a home")
                .at(home.display())
                .hint("make one with `acclimate init HOME --model MODEL.onnx`"));
        }
        let bytes = read_file(disk, &path, LONGEST_FILE)?;
        let text = String::from_utf8(bytes).map_err(|e| Error::bad_data("not UTF-8").at(path.display()).because(e))?;
        let config: Config = toml::from_str(&text).map_err(|e| {
            Error::bad_data("cannot read the home's settings").at(path.display()).because(e.message().to_string())
        })?;
        if config.format != 1 {
            return Err(Error::bad_data(format!("a home of format {}; this version knows format 1", config.format))
                .at(path.display())
                .hint("use the version of acclimate that made it, or a newer one"));
        }
        asking::check(config.ask_rate)
            .map_err(|e| Error::bad_data(e.what()).at(path.display()).hint("choose 0 to 1"))?;
        if !(0.0..=0.5).contains(&config.none_rate) {
            return Err(Error::bad_data(format!("a none_rate of {}", config.none_rate))
                .at(path.display())
                .hint("choose 0 to 0.5; 0 answers nothing as none of these"));
        }
        config.lora.check().map_err(|e| e.within(path.display()))?;
        for file in [Some(&config.model), config.labels.as_ref(), config.tokenizer.as_ref()].into_iter().flatten() {
            let plain = file.components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if !plain || file.as_os_str().is_empty() {
                return Err(Error::bad_data(format!("{file:?} is not a file inside the home")).at(path.display()));
            }
        }
        Ok(config)
    }

    /// Bytes a day from which on a training in the background waits; none where nothing limits it.
    pub fn write_budget(&self) -> Option<u64> {
        Some(self.write_budget.unwrap_or(WRITE_BUDGET)).filter(|bytes| *bytes > 0)
    }

    /// Threads that answer: those that the home asks for, else as many as the process may use cores.
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(available_cores, |threads| usize::from(threads.get()))
    }

    /// Threads that train: those that the home asks for, else one less than cores, which is left to predictions.
    pub fn train_threads(&self) -> usize {
        self.threads.map_or_else(|| available_cores() - 1, |threads| usize::from(threads.get())).max(1)
    }

    /// What is to compute: what the home asks for, else the processor.
    pub fn device(&self) -> DeviceChoice {
        self.device.unwrap_or_default()
    }

    /// The key of the home, or `given` if it is the right one; `None` where nothing is encrypted.
    pub(crate) fn key(&self, disk: &dyn Disk, home: &Path, given: Option<Key>) -> Result<Option<Key>> {
        let Some(encryption) = &self.encryption else { return Ok(None) };
        let key = match given {
            Some(key) => encryption.check(&key).map(|()| key),
            None => encryption.load(disk),
        };
        key.map(Some).map_err(|e| e.within(home.display()))
    }

    pub(crate) fn write(&self, disk: &dyn Disk, home: &Path) -> Result<()> {
        let text = toml::to_string_pretty(self).map_err(|e| Error::internal("cannot write the settings").because(e))?;
        StagedFile::write(disk, home, text.as_bytes())?.publish(&home.join(FILE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distillation_is_a_switch_of_three() {
        let one =
            |value: &str| toml::from_str::<std::collections::BTreeMap<String, Distillation>>(&format!("x = {value}"));
        for (text, value) in
            [("true", Distillation::On), ("\"base\"", Distillation::Base), ("false", Distillation::Off)]
        {
            let read = one(text).unwrap();
            assert_eq!(read["x"], value);
            assert_eq!(toml::to_string(&read).unwrap().trim(), format!("x = {text}"));
        }
        for bad in ["\"all\"", "1", "[]"] {
            assert!(one(bad).is_err(), "{bad}");
        }
    }
}
