//! Members of the LoRA family: how the factors of a training start, are scaled, and learn. PEFT's words, where it has
//! them.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How the factors start: PEFT's `init_lora_weights`. In the file it is `true` or `"pissa"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Word", into = "Word")]
#[non_exhaustive]
pub enum InitLoraWeights {
    /// `A` is random and `B` zero.
    #[default]
    Random,
    /// Both are the weight's own largest singular triples, which the frozen weight then lacks (Meng and others 2024,
    /// *PiSSA*).
    Pissa,
}

/// [`InitLoraWeights`] as it stands in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Word {
    Switch(bool),
    Name(String),
}

impl TryFrom<Word> for InitLoraWeights {
    type Error = String;
    fn try_from(word: Word) -> std::result::Result<InitLoraWeights, String> {
        match word {
            Word::Switch(true) => Ok(InitLoraWeights::Random),
            Word::Name(name) if name == "pissa" => Ok(InitLoraWeights::Pissa),
            Word::Switch(false) => Err("init_lora_weights = false: write true or \"pissa\"".into()),
            Word::Name(name) => Err(format!("init_lora_weights = {name:?}: write true or \"pissa\"")),
        }
    }
}

impl From<InitLoraWeights> for Word {
    fn from(init: InitLoraWeights) -> Word {
        match init {
            InitLoraWeights::Random => Word::Switch(true),
            InitLoraWeights::Pissa => Word::Name("pissa".into()),
        }
    }
}

/// Which member of the LoRA family is trained; plain LoRA by default. `docs/training.md` says when which one pays.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[non_exhaustive]
pub struct LoraOptions {
    /// Deltas are scaled by `alpha / sqrt(rank)`, not `alpha / rank` (Kalajdzievski 2023, *rsLoRA*).
    #[serde(skip_serializing_if = "is_off")]
    pub use_rslora: bool,
    /// Learning rate of `B`, as a multiple of that of `A` (Hayou and others 2024, *LoRA+*); 1 when not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loraplus_lr_ratio: Option<f32>,
    /// `A` stays at its start, which follows from the seed and the site's name (Zhang and others 2023, *LoRA-FA*).
    #[serde(skip_serializing_if = "is_off")]
    pub lora_fa: bool,
    /// How the factors start.
    #[serde(skip_serializing_if = "is_usual")]
    pub init_lora_weights: InitLoraWeights,
    /// Sites with a larger part of the gradient get a larger rank, at the same number of trained values.
    #[serde(skip_serializing_if = "is_off")]
    pub rank_by_gradient: bool,
    /// A magnitude for each output (Liu and others 2024, *DoRA*): not available, and refused when asked for.
    #[serde(skip_serializing_if = "is_off")]
    pub use_dora: bool,
}

fn is_off(switch: &bool) -> bool {
    !*switch
}

fn is_usual(init: &InitLoraWeights) -> bool {
    *init == InitLoraWeights::default()
}

impl LoraOptions {
    /// Scales deltas by `alpha / sqrt(rank)`; by `alpha / rank` when off.
    #[must_use]
    pub fn use_rslora(mut self, on: bool) -> LoraOptions {
        self.use_rslora = on;
        self
    }

    /// Learning rate of `B`, as a multiple of that of `A`.
    #[must_use]
    pub fn loraplus_lr_ratio(mut self, ratio: f32) -> LoraOptions {
        self.loraplus_lr_ratio = Some(ratio);
        self
    }

    /// Leaves `A` at its start.
    #[must_use]
    pub fn lora_fa(mut self, on: bool) -> LoraOptions {
        self.lora_fa = on;
        self
    }

    /// How the factors start.
    #[must_use]
    pub fn init_lora_weights(mut self, init: InitLoraWeights) -> LoraOptions {
        self.init_lora_weights = init;
        self
    }

    /// Chooses the rank of each site by its gradient.
    #[must_use]
    pub fn rank_by_gradient(mut self, on: bool) -> LoraOptions {
        self.rank_by_gradient = on;
        self
    }

    /// Plain LoRA.
    pub fn are_usual(&self) -> bool {
        *self == LoraOptions::default()
    }

    /// # Errors
    /// [`ErrorKind::Usage`](crate::ErrorKind::Usage) for options that do not go together or are not available.
    pub(crate) fn check(&self) -> Result<()> {
        let refuse = |what: &str, hint: &str| Err(Error::usage(what).at("[lora]").hint(hint));
        if self.use_dora {
            return refuse(
                "use_dora: adapters have no magnitudes here",
                "leave it out; docs/training.md has measurements",
            );
        }
        if self.loraplus_lr_ratio.is_some_and(|ratio| !(ratio.is_finite() && ratio > 0.0)) {
            return refuse("loraplus_lr_ratio is no positive number", "choose 1 to 16; 1 is plain LoRA");
        }
        if self.lora_fa && self.loraplus_lr_ratio.is_some() {
            return refuse(
                "lora_fa with loraplus_lr_ratio: a factor that stays has no learning rate to compare with",
                "leave one of them out",
            );
        }
        if self.lora_fa && self.is_pissa() {
            return refuse(
                "lora_fa with init_lora_weights = \"pissa\": what stays would no longer follow from the seed",
                "leave one of them out",
            );
        }
        Ok(())
    }

    pub(crate) fn is_pissa(&self) -> bool {
        self.init_lora_weights == InitLoraWeights::Pissa
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_pefts_words_and_written_back() {
        let text = "use_rslora = true\nloraplus_lr_ratio = 4.0\ninit_lora_weights = \"pissa\"\n";
        let read: LoraOptions = toml::from_str(text).unwrap();
        let want = LoraOptions::default().use_rslora(true).loraplus_lr_ratio(4.0);
        assert_eq!(read, want.init_lora_weights(InitLoraWeights::Pissa));
        assert_eq!(toml::to_string(&read).unwrap(), text);
        assert!(toml::from_str::<LoraOptions>("init_lora_weights = true").unwrap().are_usual());
        assert_eq!(toml::to_string(&LoraOptions::default()).unwrap(), "");
        for bad in ["init_lora_weights = \"eva\"", "init_lora_weights = false", "use_rslora = 1", "lora_alpha = 16"] {
            assert!(toml::from_str::<LoraOptions>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let usual = LoraOptions::default;
        let pissa = usual().init_lora_weights(InitLoraWeights::Pissa);
        for (options, message) in [
            (LoraOptions { use_dora: true, ..usual() }, "use_dora"),
            (usual().loraplus_lr_ratio(0.0), "no positive number"),
            (usual().loraplus_lr_ratio(f32::NAN), "no positive number"),
            (usual().loraplus_lr_ratio(2.0).lora_fa(true), "no learning rate"),
            (pissa.clone().lora_fa(true), "follow from the seed"),
        ] {
            assert!(options.check().unwrap_err().to_string().contains(message), "{options:?}");
        }
        for options in [usual(), usual().lora_fa(true).use_rslora(true), pissa.use_rslora(true).rank_by_gradient(true)]
        {
            options.check().unwrap();
        }
    }
}
