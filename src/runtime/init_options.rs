//! What `init` is told.

use std::path::PathBuf;

use super::asking::ASK_RATE;
use super::config::NewClasses;
use super::sandbox::Vetting;
use crate::adapter::{InitLoraWeights, LoraOptions};
use crate::base::Task;
use crate::disk::KeySource;
use crate::input::Preprocessing;
use crate::process::TrainLimits;
use crate::sites::Pattern;

/// How a home is made: [`InitOptions::new`] has the defaults, and a method a setting.
///
/// ```
/// use acclimate::{InitOptions, TrainLimits};
///
/// let options = InitOptions::new("model.onnx")
///     .labels("labels.txt")
///     .rank(4)
///     .limits(TrainLimits::default().memory_bytes(256 << 20));
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InitOptions {
    pub(crate) model: PathBuf,
    pub(crate) task: Option<Task>,
    pub(crate) labels: Option<PathBuf>,
    pub(crate) tokenizer: Option<PathBuf>,
    pub(crate) rank: usize,
    pub(crate) sites: Pattern,
    pub(crate) image: Option<Preprocessing>,
    pub(crate) model_output: Option<String>,
    pub(crate) model_input: Option<String>,
    pub(crate) tensor: bool,
    pub(crate) new_classes: Option<NewClasses>,
    pub(crate) vetting: Option<Vetting>,
    pub(crate) key: Option<KeySource>,
    pub(crate) limits: TrainLimits,
    pub(crate) lora: LoraOptions,
    pub(crate) ask_rate: f64,
    pub(crate) from: Option<PathBuf>,
}

impl InitOptions {
    /// Defaults for the ONNX file `model`.
    pub fn new(model: impl Into<PathBuf>) -> InitOptions {
        InitOptions {
            model: model.into(),
            task: None,
            labels: None,
            tokenizer: None,
            rank: 8,
            sites: Pattern::default(),
            image: None,
            model_output: None,
            model_input: None,
            tensor: false,
            new_classes: None,
            vetting: None,
            key: None,
            limits: TrainLimits::default(),
            lora: LoraOptions::default(),
            ask_rate: ASK_RATE,
            from: None,
        }
    }

    /// What the model answers; read off its outputs when not given.
    #[must_use]
    pub fn task(mut self, task: Task) -> InitOptions {
        self.task = Some(task);
        self
    }

    /// A text file with one label a line; classes are numbered from 0 when not given.
    #[must_use]
    pub fn labels(mut self, file: impl Into<PathBuf>) -> InitOptions {
        self.labels = Some(file.into());
        self
    }

    /// The `tokenizer.json` (Hugging Face format) of a model of texts.
    #[must_use]
    pub fn tokenizer(mut self, file: impl Into<PathBuf>) -> InitOptions {
        self.tokenizer = Some(file.into());
        self
    }

    /// Rank of the deltas, 1 to 256; 8 by default.
    #[must_use]
    pub fn rank(mut self, rank: usize) -> InitOptions {
        self.rank = rank;
        self
    }

    /// Sites that may adapt: names with `*` for anything, separated by commas; all by default.
    #[must_use]
    pub fn sites(mut self, pattern: &str) -> InitOptions {
        self.sites = Pattern::new(pattern);
        self
    }

    /// How pictures become arrays; guessed from the input's shape when not given.
    #[must_use]
    pub fn image(mut self, preprocessing: Preprocessing) -> InitOptions {
        self.image = Some(preprocessing);
        self
    }

    /// Name of the model's output that answers; the one that looks like it when not given.
    #[must_use]
    pub fn model_output(mut self, name: impl Into<String>) -> InitOptions {
        self.model_output = Some(name.into());
        self
    }

    /// Name of the model's input that is fed with what is given without a name, where there are several.
    #[must_use]
    pub fn model_input(mut self, name: impl Into<String>) -> InitOptions {
        self.model_input = Some(name.into());
        self
    }

    /// Whether arrays that a model of pictures is given go to it as they are; false by default.
    #[must_use]
    pub fn tensor(mut self, as_they_are: bool) -> InitOptions {
        self.tensor = as_they_are;
        self
    }

    /// Whether feedback may name new classes; by default only where no list of classes is known.
    #[must_use]
    pub fn new_classes(mut self, new_classes: NewClasses) -> InitOptions {
        self.new_classes = Some(new_classes);
        self
    }

    /// Encrypts the profiles with the key that is kept there. A key file that is not there is made.
    #[must_use]
    pub fn key(mut self, source: KeySource) -> InitOptions {
        self.key = Some(source);
        self
    }

    /// What training may cost; unlimited by default.
    #[must_use]
    pub fn limits(mut self, limits: TrainLimits) -> InitOptions {
        self.limits = limits;
        self
    }

    /// Scales deltas by `alpha / sqrt(rank)` (rsLoRA), not by `alpha / rank`. This and the next four choose a member
    /// of the LoRA family, as `[lora]` does in `acclimate.toml`; plain LoRA by default. docs/training.md says when
    /// which one pays.
    #[must_use]
    pub fn use_rslora(mut self, on: bool) -> InitOptions {
        self.lora = self.lora.use_rslora(on);
        self
    }

    /// Learning rate of `B`, as a multiple of that of `A` (LoRA+).
    #[must_use]
    pub fn loraplus_lr_ratio(mut self, ratio: f32) -> InitOptions {
        self.lora = self.lora.loraplus_lr_ratio(ratio);
        self
    }

    /// Leaves `A` at a start that follows from the home's seed (LoRA-FA).
    #[must_use]
    pub fn lora_fa(mut self, on: bool) -> InitOptions {
        self.lora = self.lora.lora_fa(on);
        self
    }

    /// Starts the factors from the largest singular triples of the weights (PiSSA).
    #[must_use]
    pub fn pissa(mut self, on: bool) -> InitOptions {
        self.lora = self.lora.init_lora_weights(if on { InitLoraWeights::Pissa } else { InitLoraWeights::Random });
        self
    }

    /// Gives sites with a larger part of the gradient a larger rank.
    #[must_use]
    pub fn rank_by_gradient(mut self, on: bool) -> InitOptions {
        self.lora = self.lora.rank_by_gradient(on);
        self
    }

    /// Greatest share of answers that ask for a label ([`Answer::ask`](crate::Answer::ask)), 0 to 1; 0.1 by default,
    /// and 0 asks for none.
    #[must_use]
    pub fn ask_rate(mut self, share: f64) -> InitOptions {
        self.ask_rate = share;
        self
    }

    /// Replays the feedback of the home in `old` on the new base: see `acclimate init --from` in docs/cli.md. `old` is
    /// only read.
    #[must_use]
    pub fn replaying(mut self, old: impl Into<PathBuf>) -> InitOptions {
        self.from = Some(old.into());
        self
    }

    internal! {
        /// How the model is loaded for the first time, before it is loaded in this process; it is not tried first when
        /// not given.
        #[must_use]
        pub fn vetting(mut self, vetting: Vetting) -> InitOptions {
            self.vetting = Some(vetting);
            self
        }
    }
}
