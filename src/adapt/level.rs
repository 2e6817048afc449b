//! How often a training promotes something when nothing can be learned: the level of the gate, by simulation through everything
//! that chooses (penalties, evaluation checkpoints, candidates) and decides.
//!
//! The labels are drawn without a look at the inputs, each class as often as any other, so that no model is better than another
//! and each promotion is a mistake. `ACCLIMATE_NULL_RUNS=10000` makes the long run, with what is counted printed;
//! `ACCLIMATE_NULL_SEED` is its first seed.

use std::path::Path;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Adaptation, CandidateSites, Dataset, Settings};
use crate::adapt::fit::{Target, TrainingExample};
use crate::adapter::{Depth, Pooling};
use crate::base::{Base, Task};
use crate::input::{ArrayData, Example, NamedArray};
use crate::plan::{Engine, SiteKey};
use crate::stats::binomial::{at_least, upper_bound};
use crate::sync::in_parallel;

const LEVEL: f64 = 0.05;
const CLASSES: usize = 3;
const RUNS: usize = 500;

fn runs() -> usize {
    std::env::var("ACCLIMATE_NULL_RUNS").map_or(RUNS, |n| n.parse().expect("a number of runs"))
}

fn first_seed() -> u64 {
    std::env::var("ACCLIMATE_NULL_SEED").map_or(0, |n| n.parse().expect("a seed"))
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
    Dataset {
        training_examples,
        served_right,
        standing: vec![],
        revised: false,
        base_classes: CLASSES,
        classes: CLASSES,
        none: None,
        features: 16,
    }
}

/// How many of the trainings on noise promoted something, by number of examples.
struct Count {
    examples: usize,
    runs: usize,
    promoted: usize,
}

/// [`runs`] trainings on noise, with as many examples as `sizes` in turn.
fn count(deepest: Depth, sizes: &[usize]) -> Vec<Count> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/level/mlp.onnx");
    let engine = Engine::new(Arc::new(Base::open(file).unwrap()), Task::Classification, Pooling::None);
    let sites = |names: &[&str]| -> SiteKey { names.iter().map(|name| (name.to_string(), 2)).collect() };
    let candidates = CandidateSites { last_block: sites(&["fc2"]), all_sites: sites(&["fc1", "fc2"]) };
    let promotes = |run: usize| {
        let seed = first_seed() + run as u64;
        let dataset = noise(sizes[run % sizes.len()], seed);
        let settings = Settings { seed, threads: 1, deepest, steps: Some(30), ..Settings::default() };
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
        Ok(adaptation.run()?.winner.is_some())
    };
    let all: Vec<usize> = (0..runs()).collect();
    let promoted = in_parallel(crate::process::available_cores(), &all, |&run| promotes(run)).unwrap();
    let of_size = |(at, &examples): (usize, &usize)| {
        let mine = || promoted.iter().skip(at).step_by(sizes.len());
        Count { examples, runs: mine().count(), promoted: mine().filter(|p| **p).count() }
    };
    sizes.iter().enumerate().map(of_size).collect()
}

/// Fails where so many promotions would come up once in a thousand times, were the level what it should be.
fn check(deepest: Depth, sizes: &[usize]) {
    for Count { examples, runs, promoted } in count(deepest, sizes) {
        let (k, n) = (promoted as u64, runs as u64);
        let (rate, bound) = (100.0 * promoted as f64 / runs as f64, 100.0 * upper_bound(k, n, 0.95));
        let found = format!("{examples} examples: {promoted} of {runs} promote, {rate:.2} %, at most {bound:.2} %");
        println!("{found}");
        assert!(at_least(n, k, LEVEL) > 1e-3, "{found}");
    }
}

#[test]
fn the_level_holds_over_nine_penalties() {
    check(Depth::HeadOnly, &[64, 200, 400]);
}

#[test]
fn the_level_holds_over_three_checkpoints_of_two_candidates() {
    check(Depth::AllSites, &[24, 64, 200]);
}
