//! `bench --compare`: what changed between two results, beyond what repeating them would change.

use std::path::Path;
use std::process::ExitCode;

use acclimate::Result;
use acclimate::stats::ratio::{Change, Ratio, Side, median, ratio};
use serde_json::{Value, json};

use super::results::{Key, Line, Results};
use super::words::{value, what};
use crate::cli::output::{Output, table};

/// Exit code where something got slower than `--fail-slower` allows.
const SLOWER: u8 = 1;
/// Difference of the plain product's speed at which it is said that the machine was not equally free.
const UNEQUAL: f64 = 0.05;

/// `10%`, or `0.1`.
pub fn share(text: &str) -> std::result::Result<f64, String> {
    let (number, scale) = match text.strip_suffix('%') {
        Some(percent) => (percent.trim_end(), 0.01),
        None => (text, 1.0),
    };
    match number.parse::<f64>() {
        Ok(n) if n >= 1.0 && scale == 1.0 => Err(format!("{n} is {} %: give a share such as 10% or 0.1", n * 100.0)),
        Ok(n) if n.is_finite() && n >= 0.0 => Ok(n * scale),
        _ => Err("give a share such as 10% or 0.1".into()),
    }
}

/// What became of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Faster,
    Slower,
    /// Memory.
    Less,
    More,
    NoChange,
    /// A single value on a side tells nothing about the noise.
    Unknown,
    OnlyInA,
    OnlyInB,
}

impl Verdict {
    fn words(self) -> &'static str {
        match self {
            Verdict::Faster => "faster",
            Verdict::Slower => "slower",
            Verdict::Less => "less memory",
            Verdict::More => "more memory",
            Verdict::NoChange => "no change beyond noise",
            Verdict::Unknown => "cannot tell: one value",
            Verdict::OnlyInA => "only in A",
            Verdict::OnlyInB => "only in B",
        }
    }

    fn is_change(self) -> bool {
        self != Verdict::NoChange
    }
}

/// A line of either file.
#[derive(Debug)]
pub struct Compared {
    pub key: Key,
    pub unit: String,
    pub a: Option<f64>,
    pub b: Option<f64>,
    /// Of B to A, of times or of memory: of a rate the ratio of times is the inverse.
    pub ratio: Option<Ratio>,
    pub verdict: Verdict,
}

/// Median noise of a round over the lines with this unit.
fn typical(results: &Results, unit: &str) -> Option<f64> {
    let rounds = results.figures.iter().filter(|l| l.unit == unit && l.runs.len() > 1);
    let noise: Vec<f64> = rounds.filter_map(|l| side(l)?.variance()).collect();
    median(&noise)
}

/// As times or bytes: less is better.
fn side(line: &Line) -> Option<Side> {
    let cost = |v: &f64| if line.is_rate() { 1.0 / v } else { *v };
    let rounds: Vec<Vec<f64>> = line.runs.iter().map(|r| r.iter().filter(|v| **v > 0.0).map(cost).collect()).collect();
    Side::of(&rounds)
}

pub fn compared(a: &Results, b: &Results) -> Vec<Compared> {
    let both = |one: &Line| {
        let other = b.line(&one.key).filter(|other| other.unit == one.unit);
        let sides = other.and_then(|other| side(one).zip(side(other)));
        let ratio = sides.map(|(x, y)| ratio(&x, &y, (typical(a, &one.unit), typical(b, &one.unit))));
        let memory = one.unit == "bytes";
        let verdict = match (other, ratio.map(|r| r.change())) {
            (None, _) => Verdict::OnlyInA,
            (_, Some(Change::Larger)) => {
                if memory {
                    Verdict::More
                } else {
                    Verdict::Slower
                }
            }
            (_, Some(Change::Smaller)) => {
                if memory {
                    Verdict::Less
                } else {
                    Verdict::Faster
                }
            }
            (_, Some(Change::Within)) => Verdict::NoChange,
            // Both are 0 throughout where there is no ratio.
            (Some(other), None) if other.median == one.median => Verdict::NoChange,
            (_, Some(Change::Unknown) | None) => Verdict::Unknown,
        };
        let (key, unit) = (one.key.clone(), one.unit.clone());
        Compared { key, unit, a: Some(one.median), b: other.map(|o| o.median), ratio, verdict }
    };
    let only_b = b.figures.iter().filter(|l| a.line(&l.key).is_none_or(|one| one.unit != l.unit)).map(|l| Compared {
        key: l.key.clone(),
        unit: l.unit.clone(),
        a: None,
        b: Some(l.median),
        ratio: None,
        verdict: Verdict::OnlyInB,
    });
    a.figures.iter().map(both).chain(only_b).collect()
}

/// Why a comparison may be of something else than the program.
pub fn warnings(a: &Results, b: &Results) -> Vec<String> {
    let mut found: Vec<String> =
        a.machine.differences(&b.machine).into_iter().map(|d| format!("the machines differ: {d}")).collect();
    let gemm = |r: &Results| {
        median(&r.figures.iter().filter(|l| l.key.measure == "gemm").map(|l| l.median).collect::<Vec<_>>())
    };
    if let (Some(x), Some(y)) = (gemm(a), gemm(b))
        && (y / x).ln().abs() > UNEQUAL
    {
        found.push(format!(
            "a plain product runs at {} in A and {} in B: the machine was not equally free, or fast",
            value(x, "GFLOP/s"),
            value(y, "GFLOP/s")
        ));
    }
    if a.program.target != b.program.target {
        found.push(format!("the programs are for {} and {}", a.program.target, b.program.target));
    }
    for model in &a.models {
        let other = b.models.iter().find(|m| m.name == model.name);
        let hashes = other.and_then(|o| model.fingerprint.as_ref().zip(o.fingerprint.as_ref()));
        if hashes.is_some_and(|(x, y)| x != y) {
            found.push(format!("{} is not the same file in A and B", model.name));
        }
    }
    if a.rounds.min(b.rounds) < 2 {
        found.push("of one round it is not known how much one start of the program differs from the next".into());
    }
    found
}

pub fn run(a: &Path, b: &Path, fail_slower: Option<f64>, output: &Output) -> Result<ExitCode> {
    let (a, b) = (Results::read(a)?, Results::read(b)?);
    let (lines, warnings) = (compared(&a, &b), warnings(&a, &b));
    if !output.json {
        warnings.iter().for_each(|w| output.warn(w));
    }
    let failed = too_slow(&lines, fail_slower);
    output.data(&as_json(&lines, &warnings, fail_slower, &failed), || for_people(&lines))?;
    if let Some(most) = fail_slower.filter(|_| !failed.is_empty()) {
        let (failed, lines, most) = (failed.len(), lines.len(), 100.0 * most);
        output.note(format_args!("{failed} of {lines} got worse by {most:.0} % or more, or are gone"));
        return Ok(ExitCode::from(SLOWER));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lines that got slower, or take more memory, by a share of at least `most`; and those that are gone although their
/// model was measured.
pub fn too_slow(lines: &[Compared], most: Option<f64>) -> Vec<&Compared> {
    let Some(most) = most else { return vec![] };
    let is_there = |model: &str| lines.iter().any(|l| l.key.model == model && l.b.is_some());
    let is_worse = |l: &&Compared| match l.verdict {
        Verdict::Slower | Verdict::More => l.ratio.is_some_and(|r| r.value >= 1.0 + most),
        Verdict::OnlyInA => is_there(&l.key.model),
        _ => false,
    };
    lines.iter().filter(is_worse).collect()
}

fn count(lines: &[Compared], verdict: Verdict) -> usize {
    lines.iter().filter(|l| l.verdict == verdict).count()
}

fn as_json(lines: &[Compared], warnings: &[String], fail_slower: Option<f64>, failed: &[&Compared]) -> Value {
    let line = |l: &Compared| {
        let Key { model, batch, sequence, threads, measure } = &l.key;
        json!({
            "model": model, "batch": batch, "sequence": sequence, "threads": threads, "measure": measure,
            "unit": l.unit, "a": l.a, "b": l.b,
            "ratio": l.ratio.map(|r| r.value),
            "interval": l.ratio.and_then(|r| r.interval).map(|(low, high)| [low, high]),
            "verdict": l.verdict.words(),
        })
    };
    json!({
        "lines": lines.iter().map(line).collect::<Vec<_>>(),
        "faster": count(lines, Verdict::Faster),
        "slower": count(lines, Verdict::Slower),
        "less_memory": count(lines, Verdict::Less),
        "more_memory": count(lines, Verdict::More),
        "no_change": count(lines, Verdict::NoChange),
        "warnings": warnings,
        "fail_slower": fail_slower,
        "failed": failed.len(),
    })
}

fn for_people(lines: &[Compared]) -> String {
    let mut changed: Vec<&Compared> = lines.iter().filter(|l| l.verdict.is_change()).collect();
    let far = |l: &Compared| l.ratio.map_or(0.0, |r| r.value.ln().abs());
    changed.sort_by(|x, y| far(y).total_cmp(&far(x)));
    let shown = |v: Option<f64>, unit: &str| v.map_or_else(|| "–".into(), |v| value(v, unit));
    let rows = changed.iter().map(|l| {
        let ratio = l.ratio.map_or_else(String::new, |r| format!("{:.3}", r.value));
        let interval = l.ratio.and_then(|r| r.interval);
        let interval = interval.map_or_else(String::new, |(low, high)| format!("{low:.3} to {high:.3}"));
        [what(&l.key), l.verdict.words().into(), shown(l.a, &l.unit), shown(l.b, &l.unit), ratio, interval]
    });
    let head = ["", "", "A", "B", "time or memory, B over A", "99 % interval"];
    let table = if changed.is_empty() { String::new() } else { table(head, rows, 2) + "\n\n" };
    format!(
        "{table}{} of {} lines: no change beyond noise. Of lines that are the same, one to four in a hundred are \
         beyond it by chance.",
        count(lines, Verdict::NoChange),
        lines.len()
    )
}
