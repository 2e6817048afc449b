//! What `bench --suite` writes and `--compare` reads. The fields are described in docs/benchmarks.md.

use std::path::Path;

use acclimate::stats::ratio::{median, quantile};
use acclimate::tools::bench::Kind;
use acclimate::tools::machine::{Heat, Machine};
use acclimate::{Error, Result};
use serde::{Deserialize, Serialize};

/// What the file says that it is.
pub const KIND: &str = "acclimate-bench";
pub const FORMAT: u32 = 1;

/// All that was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Results {
    pub kind: String,
    pub format: u32,
    /// When it ended, RFC 3339.
    pub at: String,
    pub quick: bool,
    /// How often each part was started anew.
    pub rounds: usize,
    pub seconds: f64,
    pub program: Program,
    pub machine: Machine,
    pub before: Heat,
    pub after: Heat,
    pub models: Vec<Model>,
    pub figures: Vec<Line>,
    pub targets: Vec<Target>,
}

/// The program that measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Program {
    pub version: String,
    /// As it was named when the program was built, by the variable ACCLIMATE_COMMIT.
    pub commit: Option<String>,
    pub target: String,
    /// The C library, with its version where it tells.
    pub libc: String,
    pub file_bytes: u64,
}

/// Where a model is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Part of the program.
    Bundled,
    /// Made by `scripts/fetch-models.sh`.
    Fetched,
    /// Another file of the folder.
    Own,
}

/// How far a model came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Measured,
    /// Some parts failed; the reason says which.
    Partly,
    Failed,
    Skipped,
}

/// A model.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Model {
    pub name: String,
    pub source: Source,
    pub state: State,
    /// Why it was not measured, or not all of it.
    pub reason: Option<String>,
    /// What to do about that.
    pub next: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub shapes: Option<Kind>,
    pub fingerprint: Option<String>,
    pub file_bytes: u64,
    pub weight_bytes: u64,
}

impl Model {
    pub fn new(name: &str, source: Source, file_bytes: u64) -> Model {
        Model {
            name: name.into(),
            source,
            state: State::Measured,
            reason: None,
            next: None,
            shapes: None,
            fingerprint: None,
            file_bytes,
            weight_bytes: 0,
        }
    }
}

/// What a line is a measurement of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    pub model: String,
    pub batch: usize,
    /// 0 where the model has no sequences.
    pub sequence: usize,
    pub threads: usize,
    pub measure: String,
}

impl Key {
    /// `8×64`, or `8` where there are no sequences.
    pub fn shape(&self) -> String {
        match self.sequence {
            0 => self.batch.to_string(),
            sequence => format!("{}×{sequence}", self.batch),
        }
    }
}

/// One measurement with all of its values.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Line {
    #[serde(flatten)]
    pub key: Key,
    pub unit: String,
    pub n: usize,
    pub min: f64,
    pub median: f64,
    pub p95: f64,
    /// The values of each round.
    pub runs: Vec<Vec<f64>>,
}

impl Line {
    pub fn new(key: Key, unit: &str) -> Line {
        Line { key, unit: unit.into(), n: 0, min: 0.0, median: 0.0, p95: 0.0, runs: vec![] }
    }

    /// Adds the values of one more round.
    pub fn add(&mut self, round: Vec<f64>) {
        self.runs.push(round.into_iter().map(rounded).collect());
        let all = self.runs.concat();
        self.n = all.len();
        self.min = all.iter().copied().fold(f64::INFINITY, f64::min);
        self.median = median(&all).unwrap_or_default();
        self.p95 = quantile(&all, 0.95).unwrap_or_default();
    }

    /// Whether more is better, as of a rate.
    pub fn is_rate(&self) -> bool {
        self.unit.ends_with("/s")
    }
}

/// Five digits, which are more than a clock is good for.
fn rounded(value: f64) -> f64 {
    if !value.is_finite() || value == 0.0 {
        return 0.0;
    }
    let scale = 10f64.powi(4 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

/// A figure beside what it should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    pub name: String,
    /// Where the target comes from.
    pub source: String,
    #[serde(flatten)]
    pub key: Key,
    pub value: f64,
    pub unit: String,
    pub at_most: Option<f64>,
    pub at_least: Option<f64>,
    pub met: bool,
}

impl Results {
    pub fn line(&self, key: &Key) -> Option<&Line> {
        self.figures.iter().find(|l| l.key == *key)
    }

    /// The line of another measure beside `key`.
    pub fn beside(&self, key: &Key, measure: &str) -> Option<&Line> {
        self.line(&Key { measure: measure.into(), ..key.clone() })
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, is none that `bench --suite` wrote, or of another format.
    pub fn read(path: &Path) -> Result<Results> {
        let text = std::fs::read(path).map_err(|e| Error::io("cannot read the results", path, e))?;
        let odd = |why: String| {
            Error::bad_data("this is no result of `acclimate bench --suite`")
                .at(path.display())
                .because(why)
                .hint("give the results.json that `acclimate bench --suite --out DIR` wrote")
        };
        #[derive(Deserialize)]
        struct Head {
            kind: String,
            format: u32,
        }
        let head: Head = serde_json::from_slice(&text).map_err(|e| odd(e.to_string()))?;
        if head.kind != KIND {
            return Err(odd(format!("it says that it is {:?}", head.kind)));
        }
        if head.format != FORMAT {
            let why = format!("its format is {}, and this program reads {FORMAT}", head.format);
            return Err(odd(why).hint("measure again with this program, or compare with the one that wrote it"));
        }
        let results: Results = serde_json::from_slice(&text).map_err(|e| odd(e.to_string()))?;
        for line in &results.figures {
            let sound = |v: &f64| v.is_finite() && *v >= 0.0;
            if !line.runs.iter().flatten().all(sound) || line.runs.concat().is_empty() {
                let Key { model, measure, .. } = &line.key;
                return Err(odd(format!("the runs of {measure} of {model} are no measurements")));
            }
        }
        Ok(results)
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string(self).map_err(|e| Error::internal("cannot write the results").because(e))?;
        // A line a figure: lists of numbers stay on it, and differences of two files can be read.
        let text = text.replace("},{", "},\n{").replace("[{", "[\n{") + "\n";
        std::fs::write(path, text).map_err(|e| Error::io("cannot write the results", path, e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_digits_are_kept() {
        let values = [123_456.78, 0.001_234_567, 9.999_96, 1.0, f64::NAN];
        assert_eq!(values.map(rounded), [123_460.0, 0.001_234_6, 10.0, 1.0, 0.0]);
    }

    #[test]
    fn a_line_sums_its_rounds_up() {
        let key = Key { model: "m".into(), batch: 8, sequence: 64, threads: 1, measure: "predict".into() };
        let mut line = Line::new(key, "ms");
        line.add((1..=20).map(f64::from).collect());
        line.add((21..=40).map(f64::from).collect());
        assert_eq!((line.n, line.min, line.median, line.p95, line.runs.len()), (40, 1.0, 21.0, 38.0, 2));
        assert_eq!(line.key.shape(), "8×64");
    }
}
