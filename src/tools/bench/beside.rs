//! How long a prediction takes while a training runs in the same process, as it does in a home.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::subject::Subject;
use super::text::{Reading, steps};
use super::{Named, Options, Training, text_options, training_examples};
use crate::error::{Error, Result};
use crate::plan::{Deltas, Factors, KvCache, Variant};

/// Fewest predictions of which a p95 is the second longest.
const PREDICTIONS: usize = 40;
/// Between two predictions: somebody asks, now and then.
const PAUSE: Duration = Duration::from_millis(5);
/// Time after which there are no more than [`FEW`] predictions, where none is given.
const SECONDS: f64 = 5.0;
const FEW: usize = 10;

/// Ends the training, however the predictions end.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Predictions of one example, or of one token: alone, and while another thread trains with all cores but one, as
/// `train` does by default. Nothing where no site can be trained.
pub(super) fn figures(subject: &Subject, options: &Options) -> Result<Vec<Named>> {
    let trains = match subject.is_language_model {
        true => subject.text_sites(options)?.unwrap_or_default(),
        false => subject.sites.clone(),
    };
    if trains.is_empty() {
        return Ok(vec![]);
    }
    let seconds = options.seconds.unwrap_or(SECONDS);
    let training = Options { threads: subject.threads.saturating_sub(1).max(1), ..options.clone() };
    // Of its own, since a home's plans of predictions are not those of its training.
    let (alone, beside) = match subject.is_language_model {
        true => {
            let Reading { decoder, engine, tokens } = Reading::of(&subject.base, options.sequence, subject.threads)?;
            let mut cache = KvCache::new();
            decoder.read(&Variant::Base, &mut cache, &tokens)?;
            let length = tokens.len();
            let mut one = || {
                cache.truncate(length);
                decoder.read(&Variant::Base, &mut cache, &tokens[..1]).map(drop)
            };
            let train = |begun: &AtomicBool, stop: &AtomicBool| {
                let how = text_options(&training);
                steps(&engine, &trains, tokens.clone(), &how, |step| until(begun, stop, step))
            };
            both(&mut one, seconds, train)?
        }
        false => {
            let prediction = subject.prediction(&Deltas::Inputs(&[]))?;
            let none = Factors::default();
            let mut one = || subject.predict(&prediction, &none);
            let train = |begun: &AtomicBool, stop: &AtomicBool| {
                let examples = training_examples(&subject.learner());
                let recipe = Training::recipe(&subject.learner(), &training, false);
                let mut fit = Training::on(&subject.learner(), &examples, &recipe, training.threads)?;
                until(begun, stop, || fit.step())
            };
            both(&mut one, seconds, train)?
        }
    };
    Ok(vec![("predict_alone", "ms", alone), ("predict_while_training", "ms", beside)])
}

/// Steps until `stop`; `begun` is set when the first is done, and what has to be compiled is.
fn until(begun: &AtomicBool, stop: &AtomicBool, mut step: impl FnMut() -> Result<()>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        step()?;
        begun.store(true, Ordering::Relaxed);
    }
    Ok(())
}

/// Times of `one` alone, and while `train` runs on a thread of its own.
fn both(
    one: &mut dyn FnMut() -> Result<()>,
    seconds: f64,
    train: impl Fn(&AtomicBool, &AtomicBool) -> Result<()> + Sync,
) -> Result<(Vec<f64>, Vec<f64>)> {
    one()?;
    let alone = spaced(one, seconds)?;
    let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    let beside = std::thread::scope(|scope| {
        let trainer = scope.spawn(|| train(&begun, &stop));
        let end = Stop(&stop);
        while !begun.load(Ordering::Relaxed) && !trainer.is_finished() {
            std::thread::sleep(PAUSE);
        }
        let beside = spaced(one, seconds);
        drop(end);
        trainer.join().map_err(|_| Error::internal("the training gave up"))??;
        beside
    })?;
    Ok((alone, beside))
}

fn spaced(one: &mut dyn FnMut() -> Result<()>, seconds: f64) -> Result<Vec<f64>> {
    let begun = Instant::now();
    let mut runs = vec![];
    while runs.len() < PREDICTIONS && (runs.len() < FEW || begun.elapsed().as_secs_f64() < seconds) {
        std::thread::sleep(PAUSE);
        let start = Instant::now();
        one()?;
        runs.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn predictions_beside_a_training_are_made_while_it_runs() {
        let busy = AtomicBool::new(false);
        let mut seen = vec![];
        let train = |begun: &AtomicBool, stop: &AtomicBool| {
            busy.store(true, Ordering::Relaxed);
            let done = until(begun, stop, || Ok(()));
            busy.store(false, Ordering::Relaxed);
            done
        };
        let mut one = || {
            seen.push(busy.load(Ordering::Relaxed));
            Ok(())
        };
        let (alone, beside) = both(&mut one, 0.0, train).unwrap();
        assert_eq!((alone.len(), beside.len()), (FEW, FEW));
        assert!(seen[..=FEW].iter().all(|busy| !busy) && seen[FEW + 1..].iter().all(|busy| *busy), "{seen:?}");
        let failing = |_: &AtomicBool, _: &AtomicBool| Err(Error::bad_data("no memory for it"));
        assert_eq!(both(&mut || Ok(()), 0.0, failing).unwrap_err().what(), "no memory for it");
    }
}
