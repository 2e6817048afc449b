//! How often a training promotes something when nothing can be learned: the level of the gate, by simulation through everything
//! that chooses (penalties, evaluation checkpoints, candidates) and decides.
//!
//! The labels are drawn without a look at the inputs, each class as often as any other, so that no model is better than another
//! and each promotion is a mistake. `ACCLIMATE_NULL_RUNS=10000` makes the long run, with what is counted printed.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Adaptation, CandidateSites, Dataset, Settings};
use crate::adapt::fit::{Target, TrainingExample};
use crate::adapter::{Depth, Pooling};
use crate::base::{Base, Task};
use crate::input::{ArrayData, Example, NamedArray};
use crate::plan::{Engine, SiteKey};
use crate::stats::binomial::at_least;

const LEVEL: f64 = 0.05;
const CLASSES: usize = 3;
const RUNS: usize = 500;

fn runs() -> usize {
    std::env::var("ACCLIMATE_NULL_RUNS").map_or(RUNS, |n| n.parse().expect("a number of runs"))
}

/// `n` inputs, each with a label that has nothing to do with it.
fn noise(n: usize, seed: u64) -> Dataset {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut training_example = |at: usize| {
        let values = (0..8).map(|_| (0..3).map(|_| rng.random_range(-1.0f32..1.0)).sum()).collect();
        let array = NamedArray::new("x", vec![8], ArrayData::F32(values)).unwrap();
        let target = Target::Class(rng.random_range(0..CLASSES));
        let example = Example { arrays: vec![array] };
        TrainingExample { example, target, weight: 1.0, at_ms: at as u64, earlier: false, keep: vec![] }
    };
    let training_examples: Vec<TrainingExample> = (0..n).map(&mut training_example).collect();
    let served_right = vec![false; n];
    Dataset { training_examples, served_right, standing: vec![], base_classes: CLASSES, classes: CLASSES, features: 16 }
}

/// Of [`runs`] trainings on noise, with as many examples as `sizes` in turn, how many promote a candidate.
fn promotions(deepest: Depth, sizes: &[usize]) -> usize {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/level/mlp.onnx");
    let engine = Engine::new(Arc::new(Base::open(file).unwrap()), Task::Classification, Pooling::None);
    let sites = |names: &[&str]| -> SiteKey { names.iter().map(|name| (name.to_string(), 2)).collect() };
    let candidates = CandidateSites { last_block: sites(&["fc2"]), all_sites: sites(&["fc1", "fc2"]) };
    let (next, promoted) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let work = || {
        loop {
            let run = next.fetch_add(1, Ordering::Relaxed);
            if run >= runs() {
                return;
            }
            let dataset = noise(sizes[run % sizes.len()], run as u64);
            let settings = Settings { seed: run as u64, threads: 1, deepest, steps: Some(30), ..Settings::default() };
            let adaptation = Adaptation {
                engine: &engine,
                dataset: &dataset,
                candidates: &candidates,
                settings: &settings,
                incumbent: None,
                stop: &|| false,
                keeper: None,
                progress: &|_| {},
            };
            let outcome = adaptation.run().unwrap();
            promoted.fetch_add(usize::from(outcome.winner.is_some()), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    promoted.into_inner()
}

/// Fails where so many promotions would come up once in a thousand times, were the level what it should be.
fn check(deepest: Depth, sizes: &[usize]) {
    let (promoted, runs) = (promotions(deepest, sizes), runs());
    let rate = promoted as f64 / runs as f64;
    println!("{promoted} of {runs} trainings on noise promoted something: {:.2} %", 100.0 * rate);
    let chance = at_least(runs as u64, promoted as u64, LEVEL);
    assert!(chance > 1e-3, "{promoted} promotions in {runs} trainings on noise: {:.2} %", 100.0 * rate);
}

#[test]
fn the_level_holds_over_nine_penalties() {
    check(Depth::HeadOnly, &[200, 400]);
}

#[test]
fn the_level_holds_over_three_checkpoints_of_two_candidates() {
    check(Depth::AllSites, &[24, 40, 64]);
}
