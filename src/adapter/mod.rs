//! What an adapter is, in memory: low-rank deltas for some sites, perhaps a head, and how they came to be.
//!
//! Plain owned data. The types that derive `Serialize` are also the header of the adapter file and part of the journal:
//! their fields are the format (see `docs/adapter-format.md`) and change only with a new format version.

mod confusions;
pub mod file;
pub mod known;
pub mod layout;
mod lora;
#[cfg(test)]
pub(crate) mod samples;

use std::fmt;
use std::str::FromStr;

use known::KnownInputs;
use serde::{Deserialize, Serialize};

pub use confusions::{Confusion, Confusions};
#[cfg(feature = "train")]
pub(crate) use confusions::{FIRST_SHARE, LATER_SHARE};

pub use lora::{InitLoraWeights, LoraOptions};

use crate::error::{Error, Result};

/// Most dimensions a tensor may have.
pub const MAX_DIMS: usize = 8;

/// Identity of a base model: the BLAKE3 hash of its ONNX file's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Fingerprint of an ONNX file's bytes.
    pub fn of(bytes: &[u8]) -> Fingerprint {
        Fingerprint(*blake3::hash(bytes).as_bytes())
    }
    /// The first 12 hex digits.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({})", self.short())
    }
}

impl FromStr for Fingerprint {
    type Err = Error;
    /// Reads 64 hex digits.
    fn from_str(text: &str) -> Result<Fingerprint> {
        let bad = || Error::bad_data("a model fingerprint has 64 hex digits").at(format!("{text:?}"));
        let hash = blake3::Hash::from_hex(text.to_ascii_lowercase()).map_err(|_| bad())?;
        Ok(Fingerprint(*hash.as_bytes()))
    }
}

/// Sort of layer that a site is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SiteKind {
    /// `y = x·W`; A: [in, r], B: [r, out].
    Linear,
    /// Convolution; A: [r, in/groups, k…], B: [out, r].
    Conv,
    /// Transposed convolution; A: [in, r, k…], B: [out, r].
    ConvTranspose,
}

/// How a sequence of vectors becomes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pooling {
    /// There is only one vector.
    None,
    /// The mean over the positions, weighted by the mask.
    Mean,
    /// The first position.
    First,
}

/// How deep a candidate reaches into the model, shallowest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Depth {
    /// Only the head.
    HeadOnly,
    /// The head and the sites of the last block.
    LastBlock,
    /// All chosen sites.
    AllSites,
}

impl Depth {
    /// The word for it on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Depth::HeadOnly => "head",
            Depth::LastBlock => "last block",
            Depth::AllSites => "all sites",
        }
    }
}

/// Floats in row-major order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DenseTensor {
    /// Length of each dimension.
    pub shape: Vec<usize>,
    /// `product(shape)` values.
    pub data: Vec<f32>,
}

impl DenseTensor {
    /// All zeros.
    pub fn zeros(shape: &[usize]) -> DenseTensor {
        DenseTensor { shape: shape.to_vec(), data: vec![0.0; shape.iter().product()] }
    }
}

/// The low-rank delta of one site: the layer's weight gains `alpha / rank · A·B`.
#[derive(Debug, Clone, PartialEq)]
pub struct SiteDelta {
    /// Name of the ONNX node that uses the weight.
    pub name: String,
    /// Sort of layer.
    pub kind: SiteKind,
    /// Number of columns of A, rows of B (`r`).
    pub rank: u32,
    /// Scale numerator.
    pub alpha: f32,
    /// Linear [in, r]; convolution [r, in/groups, k…].
    pub a: DenseTensor,
    /// Linear [r, out]; convolution [out, r].
    pub b: DenseTensor,
}

impl SiteDelta {
    /// Factor of the product: `alpha / rank`.
    pub fn scale(&self) -> f32 {
        self.alpha / self.rank as f32
    }
}

/// A linear head over pooled features. Column `j` adds `f·weight[:, j] + bias[j]` to the logit of class `columns[j]`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadDelta {
    /// Length of the feature vector `f`.
    pub features: usize,
    /// Classes of the base; 0 for an encoder.
    pub base_classes: usize,
    /// Classes with this head; those from `base_classes` on are new.
    pub classes: usize,
    /// How a sequence of features becomes one vector.
    pub pooling: Pooling,
    /// Class of each column, strictly increasing.
    pub columns: Vec<u32>,
    /// Whether `f` is scaled to length 1 (L2) first; only where the base has no classes.
    pub normalised: bool,
    /// Shape: features × columns.
    pub weight: DenseTensor,
    /// One value per column.
    pub bias: Vec<f32>,
}

/// How an adapter came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lineage {
    /// Generation that served when training began; 0 is the base model.
    pub parent: u64,
    /// Seed of everything random in the training.
    pub seed: u64,
    /// Optimiser steps.
    pub steps: u64,
    /// Feedback items of the journal when it was trained, whether or not each of them could teach: those after them
    /// are new to it.
    pub examples: u64,
    /// How deep it reaches.
    pub depth: Depth,
    /// Unix time in milliseconds.
    pub created_ms: u64,
    /// Peak learning rate.
    pub learning_rate: f32,
    /// Rank of its sites.
    pub rank: u32,
}

/// What the gate decided, and on which figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Verdict {
    /// Whether the candidate became a generation.
    pub promoted: bool,
    /// Accuracy of the base model on the validation items, 0 to 1.
    pub base_accuracy: f64,
    /// Accuracy of the generation that served before.
    pub before: f64,
    /// Accuracy of the candidate.
    pub after: f64,
    /// Validation items.
    pub n: u64,
    /// Of the paired test that the candidate is better.
    pub p_value: f64,
    /// Chance that the test would see a real improvement of the size looked for.
    pub power: f64,
    /// Share of uncorrected inputs on which the candidate agrees with the base.
    pub retention: f64,
    /// Inputs that `retention` was measured on.
    pub retention_n: u64,
    /// How deep the candidate reaches.
    pub depth: Depth,
    /// The decision in words.
    pub reason: String,
}

/// One adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// The only base it fits.
    pub base: Fingerprint,
    /// Task, such as "classification".
    pub task: String,
    /// Label of each class; may be empty.
    pub labels: Vec<String>,
    /// Deltas, sorted by name.
    pub sites: Vec<SiteDelta>,
    /// Head, if the task has a trainable one.
    pub head: Option<HeadDelta>,
    /// How it came to be.
    pub lineage: Lineage,
    /// What the gate said.
    pub verdict: Verdict,
    /// How its scores become answers.
    pub calibrated: Calibrated,
    /// What the inputs are like that its classes are known by, if there were enough of them.
    pub known: Option<KnownInputs>,
    /// Which answers of the base model it may change; any where there is none.
    pub confusions: Option<Confusions>,
}

/// How an adapter's scores become answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibrated {
    /// What logits are divided by before the softmax: fitted on answers that did not teach the one that gave them.
    pub temperature: f32,
}

impl Default for Calibrated {
    fn default() -> Calibrated {
        Calibrated { temperature: 1.0 }
    }
}

impl Calibrated {
    /// # Errors
    /// `BadData` for a temperature that is no positive number.
    pub(crate) fn check(&self) -> Result<()> {
        if self.temperature.is_finite() && self.temperature > 0.0 {
            return Ok(());
        }
        Err(Error::bad_data(format!("a temperature of {} makes no probabilities", self.temperature)))
    }
}

impl Adapter {
    /// Number of trained values.
    pub fn parameters(&self) -> usize {
        let sites: usize = self.sites.iter().map(|s| s.a.data.len() + s.b.data.len()).sum();
        sites + self.head.as_ref().map_or(0, |h| h.weight.data.len() + h.bias.len())
    }

    /// Checks that shapes agree with ranks and with the data, that every value is finite, and that names and columns
    /// are sorted and unique.
    ///
    /// # Errors
    /// `BadData` that names the site.
    pub fn validate(&self) -> Result<()> {
        check_order(self.sites.iter().map(|s| s.name.as_str()))?;
        for s in &self.sites {
            check_site(&s.name, s.kind, s.rank, s.alpha, &s.a.shape, &s.b.shape)?;
            check_data(&s.name, &s.a.shape, &s.a.data)?;
            check_data(&s.name, &s.b.shape, &s.b.data)?;
        }
        if let Some(h) = &self.head {
            check_head(
                &HeadShape {
                    features: h.features,
                    base_classes: h.base_classes,
                    classes: h.classes,
                    columns: &h.columns,
                    normalised: h.normalised,
                    weight: &h.weight.shape,
                    bias: &[h.bias.len()],
                },
                self.labels.len(),
            )?;
            check_data("head", &h.weight.shape, &h.weight.data)?;
            check_data("head", &[h.bias.len()], &h.bias)?;
        }
        self.known.as_ref().map_or(Ok(()), KnownInputs::check)?;
        self.calibrated.check()?;
        check_confusions(self.confusions.as_ref(), self.head.as_ref().map(|h| h.classes))
    }
}

/// `product(shape)`, unless it overflows or there are too many dimensions.
pub(crate) fn elements(shape: &[usize]) -> Option<usize> {
    let few = shape.len() <= MAX_DIMS;
    shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|_| few)
}

pub(crate) fn check_order<'a>(names: impl Iterator<Item = &'a str>) -> Result<()> {
    let mut last: Option<&str> = None;
    for name in names {
        if last.is_some_and(|last| last >= name) {
            return Err(Error::bad_data("the sites of an adapter are sorted by name and named once").at(name));
        }
        last = Some(name);
    }
    Ok(())
}

pub(crate) fn check_site(name: &str, kind: SiteKind, rank: u32, alpha: f32, a: &[usize], b: &[usize]) -> Result<()> {
    let fits = match (kind, a, b) {
        (SiteKind::Linear, [_, ra], [rb, _]) => ra == rb && *ra == rank as usize,
        (SiteKind::Conv, [ra, _, _, ..], [_, rb]) | (SiteKind::ConvTranspose, [_, ra, _, ..], [_, rb]) => {
            ra == rb && *ra == rank as usize
        }
        _ => false,
    };
    if !fits || rank == 0 || a.contains(&0) || b.contains(&0) {
        let what = format!("the shapes {a:?} and {b:?} are not those of a {kind:?} site of rank {rank}");
        return Err(Error::bad_data(what).at(name));
    }
    if !alpha.is_finite() {
        return Err(Error::bad_data("the scale of a site is not a finite number").at(name));
    }
    Ok(())
}

pub(crate) struct HeadShape<'a> {
    pub features: usize,
    pub base_classes: usize,
    pub classes: usize,
    pub columns: &'a [u32],
    pub normalised: bool,
    pub weight: &'a [usize],
    pub bias: &'a [usize],
}

pub(crate) fn check_head(h: &HeadShape<'_>, labels: usize) -> Result<()> {
    let bad = |what: String| Err(Error::bad_data(what).at("head"));
    let n = h.columns.len();
    if h.weight != [h.features, n] || h.bias != [n] {
        return bad(format!(
            "the shapes {:?} and {:?} are not those of a head of {} features and {n} columns",
            h.weight, h.bias, h.features
        ));
    }
    if !h.columns.is_sorted_by(|a, b| a < b) || h.columns.last().is_some_and(|last| *last as usize >= h.classes) {
        return bad(format!("its columns are not increasing classes below {}", h.classes));
    }
    let new = h.columns.iter().filter(|c| **c as usize >= h.base_classes).count();
    if h.classes.checked_sub(h.base_classes) != Some(new) {
        return bad(format!("{} classes on a base of {} need a column for each new class", h.classes, h.base_classes));
    }
    if h.normalised && h.base_classes > 0 {
        return bad("its features are normalised, beside a classifier of the base model".into());
    }
    if labels != 0 && labels != h.classes {
        return bad(format!("{labels} labels for {} classes", h.classes));
    }
    Ok(())
}

/// Confusions are pairs of the classes that a head counts.
pub(crate) fn check_confusions(confusions: Option<&Confusions>, classes: Option<usize>) -> Result<()> {
    confusions.map_or(Ok(()), |c| c.check(classes.unwrap_or(0)))
}

pub(crate) fn check_data(name: &str, shape: &[usize], data: &[f32]) -> Result<()> {
    if elements(shape) != Some(data.len()) {
        return Err(Error::bad_data(format!("{} values for the shape {shape:?}", data.len())).at(name));
    }
    if let Some(place) = data.iter().position(|v| !v.is_finite()) {
        return Err(Error::bad_data(format!("value {place} of an adapter tensor is not a finite number")).at(name));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_print_and_parse() {
        let f = Fingerprint::of(b"abc");
        assert_eq!(f.to_string().parse::<Fingerprint>().unwrap(), f);
        assert_eq!(f.short().len(), 12);
        assert!("12".parse::<Fingerprint>().is_err());
    }

    #[test]
    fn a_sound_adapter_is_valid_and_counted() {
        let a = samples::adapter(0);
        a.validate().unwrap();
        assert_eq!(a.parameters(), 30 + 14 + 52 + 12 + 26 + 2);
    }

    #[test]
    fn unsound_adapters_are_named() {
        type Spoil = fn(&mut Adapter);
        let spoil: [(Spoil, &str); 13] = [
            (|a| a.sites.reverse(), "sorted by name"),
            (|a| a.sites[1].name = a.sites[0].name.clone(), "sorted by name"),
            (|a| a.sites[0].rank = 3, "not those of a Conv"),
            (|a| a.sites[1].kind = SiteKind::Conv, "not those of a Conv"),
            (|a| a.sites[1].alpha = f32::NAN, "finite"),
            (|a| a.sites[1].a.data[3] = f32::INFINITY, "finite"),
            (|a| a.sites[1].b.data.truncate(3), "values for the shape"),
            (|a| a.head.as_mut().unwrap().columns = vec![3, 1], "increasing"),
            (|a| a.head.as_mut().unwrap().columns = vec![1, 4], "increasing"),
            (|a| a.head.as_mut().unwrap().columns = vec![0, 1], "each new class"),
            (|a| a.labels.truncate(3), "3 labels"),
            (|a| a.calibrated.temperature = 0.0, "temperature of 0"),
            (|a| a.calibrated.temperature = f32::NAN, "temperature of NaN"),
        ];
        for (spoil, message) in spoil {
            let mut a = samples::adapter(0);
            spoil(&mut a);
            let e = a.validate().unwrap_err();
            assert!(e.to_string().contains(message), "{e}");
        }
    }
}
