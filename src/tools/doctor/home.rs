//! A home: whether it takes writes and opens, and what its predictions cost.

use std::path::Path;
use std::time::Instant;

use super::{Check, Figures, bytes, duration, memory, storage};
use crate::device::Sensors;
use crate::disk::RealDisk;
use crate::error::{Error, Result};
use crate::plan::{Decoder, KvCache, Variant};
use crate::process::status_bytes;
use crate::runtime::Home;

/// Length of sequences at which predictions are timed.
const LENGTH: usize = 32;
/// Predictions that are timed, after one that compiles.
const TIMED: usize = 3;

/// The home, where it opens, and how many of its answers teach.
pub(super) type Opened = Option<(Home, usize)>;

pub(super) fn checks(sensors: &dyn Sensors, path: &Path, profile: &str) -> (Vec<Check>, Figures, Opened) {
    // Before the home takes some of it.
    let mut figures = Figures { free_memory_bytes: memory::free(sensors), ..Figures::default() };
    let home = match Home::open(path) {
        Ok(home) => home,
        Err(e) => return (vec![Check::refused("home", &e)], figures, None),
    };
    let mut checks = vec![storage::writing(&RealDisk, path)];
    let answers = known_answers(&home, profile);
    checks.push(match &answers {
        Ok(answers) => Check::ok("home", about(&home, *answers)),
        Err(e) => Check::refused("home", e),
    });
    checks.push(match predictions(&home, &mut figures) {
        Ok(check) => check,
        Err(e) => Check::refused("predictions", &e),
    });
    (checks, figures, Some((home, answers.unwrap_or(0))))
}

/// Answers with feedback that teach; 0 of a profile that is not there. Nothing is made or changed.
fn known_answers(home: &Home, profile: &str) -> Result<usize> {
    match home.profiles()?.iter().any(|known| known == profile) {
        true => home.session_for_repair(profile)?.answers_known(),
        false => Ok(0),
    }
}

fn about(home: &Home, answers: usize) -> String {
    let classes = match home.labels().len() {
        0 => String::new(),
        n => format!(", {n} classes"),
    };
    format!("opens: {}{classes}, {answers} answers with feedback", home.config().task)
}

/// Times predictions of random inputs with the base model.
fn predictions(home: &Home, figures: &mut Figures) -> Result<Check> {
    let base = &home.0.engine.base;
    let what = if home.generates() { "a token of an answer" } else { "a prediction" };
    let seconds = match home.generates() {
        true => {
            let decoder = Decoder::new(base.clone(), 2 * LENGTH, home.config().threads())?;
            let mut cache = KvCache::new();
            decoder.read(&Variant::Base, &mut cache, &[0; LENGTH])?;
            fastest(|| decoder.read(&Variant::Base, &mut cache, &[0]).map(drop))?
        }
        false => {
            // A model may have fewer positions.
            let mut length = LENGTH;
            loop {
                match on_example(home, length) {
                    Err(_) if base.has_sequence() && length > 1 => length /= 2,
                    timed => break timed?,
                }
            }
        }
    };
    let memory = status_bytes("/proc/self/status", "VmRSS:");
    figures.predict_seconds = Some(seconds);
    figures.predict_memory_bytes = Some(memory).filter(|bytes| *bytes > 0);
    let took = figures.predict_memory_bytes.map(|n| format!(", {} of memory", bytes(n))).unwrap_or_default();
    Ok(Check::ok("predictions", format!("{what} takes {}{took}", duration(seconds))))
}

/// A prediction of a random input of this length, if it has one.
fn on_example(home: &Home, length: usize) -> Result<f64> {
    let engine = &home.0.engine;
    let examples = engine.base.random_examples(&engine.base.bucket(1, length), 0)?;
    let example = examples.first().ok_or_else(|| Error::internal("no random example"))?;
    fastest(|| engine.one(&Variant::Base, example).map(drop))
}

/// The shortest of some runs, after one that compiles.
fn fastest(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut least = f64::INFINITY;
    for _ in 0..TIMED {
        let started = Instant::now();
        run()?;
        least = least.min(started.elapsed().as_secs_f64());
    }
    Ok(least)
}
