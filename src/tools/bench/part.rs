//! Measurements for a process of their own each, so that peaks of memory are theirs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::memory::most_anonymous;
use super::subject::{Subject, open};
use super::text::Reading;
use super::timing::{Repeats, time};
use super::{GEMM_FLOP, Named, Options, beside, gemm_ms, swap, text_options, time_text, train_steps};
use crate::base::{MAX_MODEL_BYTES, Piece, Task, align, in_one_file};
use crate::disk::{Disk, RealDisk};
use crate::error::{Error, Result};
use crate::plan::{Deltas, Factors, KvCache, Variant};
use crate::process::status_bytes;

/// What one process measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Times of everything, and the memory of training.
    Times,
    /// The memory of a process that only predicts.
    Memory,
    /// Predictions while nothing else is done, and beside a training.
    Beside,
}

/// What shapes a model takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A causal language model.
    LanguageModel,
    /// Sequences of tokens.
    Sequences,
    /// Pictures, or other arrays of one size.
    Arrays,
}

/// What there is to know before anything is measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Look {
    /// Shapes that it takes.
    pub kind: Kind,
    /// Hash of the file.
    pub fingerprint: String,
    /// Memory of its weights, bytes.
    pub weight_bytes: u64,
}

/// Values of one measurement in the order in which they were taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub measure: String,
    /// Unit of the values.
    pub unit: String,
    /// The values.
    pub runs: Vec<f64>,
}

/// What a [`Part`] gave.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Parted {
    /// Length of the sequences, which a model may limit; 0 where it has none.
    pub sequence: usize,
    /// What was measured.
    pub figures: Vec<Figure>,
}

fn figure(measure: &str, unit: &str, runs: Vec<f64>) -> Figure {
    Figure { measure: measure.into(), unit: unit.into(), runs }
}

/// Looks at the model at `path`; with `laid_out` also writes it there as a home has it.
pub fn look(path: &Path, laid_out: Option<&Path>, options: &Options) -> Result<Look> {
    let (base, task) = open(path, options)?;
    if let Some(to) = laid_out {
        lay_out(path, base.has_external_data(), to)?;
    }
    let kind = match task {
        Task::CausalLm => Kind::LanguageModel,
        _ if base.has_sequence() => Kind::Sequences,
        _ => Kind::Arrays,
    };
    Ok(Look { kind, fingerprint: base.fingerprint().to_string(), weight_bytes: base.weight_bytes() })
}

/// Writes the model at `path` as one file whose large weights can be used in place.
pub fn lay_out(path: &Path, external: bool, to: &Path) -> Result<()> {
    let found = RealDisk.map(path, MAX_MODEL_BYTES).map_err(|e| Error::io("cannot read the model", path, e))?;
    let merged;
    let bytes = if external {
        merged = in_one_file(path, &found)?;
        &merged[..]
    } else {
        &found[..]
    };
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create_new(to)?);
        for piece in align(bytes).unwrap_or_else(|| vec![Piece::Copy(0..bytes.len())]) {
            match piece {
                Piece::New(new) => file.write_all(&new)?,
                Piece::Copy(place) => file.write_all(bytes.get(place).unwrap_or_default())?,
            }
        }
        file.flush()
    };
    write().map_err(|e| Error::io("cannot write a copy of the model", to, e).hint("is there room on the disk?"))
}

/// Measures one part of the model at `path`.
pub fn part(path: &Path, options: &Options, part: Part) -> Result<Parted> {
    let (base, _) = open(path, options)?;
    // A table of positions may be shorter than what is asked for.
    let sequence = base.longest(1, options.sequence).unwrap_or(options.sequence);
    drop(base);
    let subject = Subject::open(path, &Options { sequence, ..options.clone() })?;
    let options = Options { sequence, ..options.clone() };
    let figures = match part {
        Part::Times if subject.is_language_model => text_times(&subject, &options),
        Part::Times => times(&subject, &options),
        Part::Memory => memory(&subject, &options),
        Part::Beside => beside::figures(&subject, &options),
    }?;
    let sequence = if subject.base.has_sequence() { sequence } else { 0 };
    Ok(Parted { sequence, figures: figures.into_iter().map(|(m, u, runs)| figure(m, u, runs)).collect() })
}

fn peak() -> f64 {
    status_bytes("/proc/self/status", "VmHWM:") as f64
}

/// Speeds of a training and of a product, and of a swap.
fn machine(subject: &Subject, figures: &mut Vec<Named>) -> Result<()> {
    let gemm = gemm_ms()?;
    figures.push(("gemm", "GFLOP/s", gemm.runs.iter().map(|ms| GEMM_FLOP / ms / 1e6).collect()));
    figures.push(("swap", "us", swap(&subject.base, subject.deltas.clone())?.runs));
    Ok(())
}

fn times(subject: &Subject, options: &Options) -> Result<Vec<Named>> {
    let mut figures = vec![];
    // First, so that its peak of memory is its own.
    let (steps, held) = most_anonymous(|| train_steps(&subject.learner(), options))?;
    let steps = steps?;
    subject.engine.drop_train_plans();
    if let Some(step) = steps.first {
        let flop = subject.flop();
        figures.push(("train_effective", "GFLOP/s", step.runs.iter().map(|ms| flop / ms / 1e6).collect()));
        figures.push(("train_step", "ms", step.runs));
        figures.push(("train_anonymous", "bytes", vec![held.most as f64]));
        figures.push(("train_peak_rss", "bytes", vec![peak()]));
    }
    if let Some(step) = steps.later {
        figures.push(("later_step", "ms", step.runs));
    }
    let repeats = options.repeats();
    let none = Factors::default();
    figures.push(("predict", "ms", subject.predictions(&Deltas::Inputs(&[]), &none, repeats)?.runs));
    let adapted = subject.predictions(&Deltas::Inputs(&subject.sites), &subject.factors()?, repeats)?;
    figures.push(("adapted_predict", "ms", adapted.runs));
    figures.push(("merged_predict", "ms", subject.predictions(&Deltas::Merged(&subject.deltas), &none, repeats)?.runs));
    machine(subject, &mut figures)?;
    Ok(figures)
}

fn text_times(subject: &Subject, options: &Options) -> Result<Vec<Named>> {
    let sites = subject.text_sites(options)?.unwrap_or_default();
    let text = time_text(&subject.base, &sites, text_options(options))?;
    let mut figures = vec![];
    if let Some(step) = text.train_step_ms {
        figures.push(("train_step", "ms", step.runs));
        figures.push(("train_anonymous", "bytes", vec![text.train_most_bytes as f64]));
        figures.push(("train_peak_rss", "bytes", vec![peak()]));
    }
    figures.push(("prefill", "ms", text.prefill_ms.runs));
    figures.push(("token", "ms", text.token_ms.runs));
    machine(subject, &mut figures)?;
    Ok(figures)
}

/// A few predictions, and what they took.
fn memory(subject: &Subject, options: &Options) -> Result<Vec<Named>> {
    let few = Repeats { runs: 3, ..options.repeats() };
    let (ran, held) = most_anonymous(|| match subject.is_language_model {
        true => {
            let Reading { decoder, tokens, .. } = Reading::of(&subject.base, options.sequence, subject.threads)?;
            let mut cache = KvCache::new();
            decoder.read(&Variant::Base, &mut cache, &tokens)?;
            time(few, || decoder.read(&Variant::Base, &mut cache, &tokens[..1]).map(drop))
        }
        false => subject.predictions(&Deltas::Inputs(&[]), &Factors::default(), few),
    })?;
    ran?;
    Ok(vec![("predict_anonymous", "bytes", vec![held.most as f64]), ("predict_peak_rss", "bytes", vec![peak()])])
}
