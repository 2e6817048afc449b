//! What is tried, and for how long: decisions that must not depend on threads, and candidates that cannot win.

use std::path::Path;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Adaptation, CandidateSites, Dataset, Outcome, Settings};
use crate::adapt::fit::state::Keeper;
use crate::adapt::fit::tests::Memory;
use crate::adapt::fit::{Recipe, Target, TrainingExample};
use crate::adapter::Pooling;
use crate::base::{Base, Task};
use crate::gate::split::{Folds, SplitOptions};
use crate::input::{ArrayData, Example, NamedArray};
use crate::plan::{Engine, SiteKey};

const CLASSES: usize = 3;

/// `n` inputs of an encoder's new classes: the class is the largest of three values, products of others where `hard`.
fn dataset(n: usize, hard: bool, seed: u64) -> Dataset {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut training_example = |at: usize| {
        let mut values: Vec<f32> = (0..8).map(|_| rng.random_range(-2.0f32..2.0)).collect();
        let score = |c: usize| if hard { values[c] * values[c + 3] } else { values[c] };
        let class = (0..CLASSES).max_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap();
        if !hard {
            values[class] += 4.0;
        }
        let array = NamedArray::new("x", vec![8], ArrayData::F32(values)).unwrap();
        let (example, target) = (Example { arrays: vec![array] }, Target::Class(class));
        TrainingExample { example, target, weight: 1.0, at_ms: at as u64, earlier: false, keep: vec![] }
    };
    let training_examples: Vec<TrainingExample> = (0..n).map(&mut training_example).collect();
    Dataset {
        training_examples,
        served_right: vec![false; n],
        standing: vec![],
        revised: false,
        base_classes: 0,
        classes: CLASSES,
        none: None,
        features: 16,
    }
}

fn train(dataset: &Dataset, threads: usize) -> Outcome {
    with_adaptation(dataset, threads, |adaptation| adaptation.run().unwrap())
}

#[track_caller]
fn assert_same(one: &Outcome, other: &Outcome) {
    assert_eq!(one.tried, other.tried);
    assert_eq!(one.verdict, other.verdict);
    let end = |o: &Outcome| o.winner.as_ref().map(|w| (w.deltas.clone(), w.head.clone()));
    assert_eq!(end(one), end(other));
}

fn with_adaptation<T>(dataset: &Dataset, threads: usize, then: impl FnOnce(&Adaptation<'_>) -> T) -> T {
    with_settings(dataset, &Settings { threads, ..Settings::default() }, then)
}

fn with_settings<T>(dataset: &Dataset, settings: &Settings, then: impl FnOnce(&Adaptation<'_>) -> T) -> T {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/level/mlp.onnx");
    let engine =
        Engine::new(Arc::new(Base::open(file).unwrap()), Task::Classification, Pooling::None).without_classes();
    let sites = |names: &[&str]| -> SiteKey { names.iter().map(|name| (name.to_string(), 2)).collect() };
    let candidates = CandidateSites { last_block: sites(&["fc2"]), all_sites: sites(&["fc1", "fc2"]) };
    then(&Adaptation {
        engine: &engine,
        dataset,
        candidates: &candidates,
        settings,
        incumbent: None,
        stop: &|| false,
        keeper: None,
        progress: &|_| {},
    })
}

#[test]
fn a_class_that_came_in_one_block_says_nothing_of_a_candidate() {
    let mut dataset = dataset(48, false, 1);
    let times: Vec<u64> = dataset.training_examples.iter().map(|e| e.at_ms).collect();
    let folds = Folds::new(&times, &SplitOptions::default()).unwrap();
    let burst = |i: usize| folds.block_of()[i] == 5;
    for (i, example) in dataset.training_examples.iter_mut().enumerate() {
        example.target = Target::Class(if burst(i) { 2 } else { i % 2 });
    }
    let could = |dataset: &Dataset| with_adaptation(dataset, 1, |adaptation| adaptation.could_answer(&folds));
    let expected: Vec<bool> = (0..48).map(|i| !burst(i)).collect();
    assert!(expected.contains(&false));
    assert_eq!(could(&dataset), expected);
    // A class of the base model needs no example, and what is no class cannot be missing.
    dataset.base_classes = 3;
    assert!(could(&dataset).iter().all(|could| *could));
    dataset.base_classes = 0;
    (0..48).filter(|&i| burst(i)).for_each(|i| dataset.training_examples[i].target = Target::Not(0));
    assert!(could(&dataset).iter().all(|could| *could));
}

#[test]
fn threads_change_nothing() {
    let mut given_up = 0;
    for seed in 0..6 {
        let dataset = dataset(40, true, seed);
        let (one, others) = (train(&dataset, 1), [2, 3, 4].map(|threads| train(&dataset, threads)));
        given_up += one.tried.iter().filter(|line| line.contains("given up")).count();
        others.iter().for_each(|other| assert_same(&one, other));
    }
    assert!(given_up > 0, "no candidate was given up on the way");
}

/// Fits may then stand further than the evaluation checkpoint at which they are asked, and may have ended since.
#[test]
fn a_training_that_finds_its_fits_done_decides_the_same() {
    let epochs = 60;
    let recipe = Recipe { lr: Some(0.02), epochs, ..Recipe::default() };
    let settings = Settings { threads: 1, recipe, ..Settings::default() };
    let mut ended_early = 0;
    for seed in 0..6 {
        let dataset = dataset(40, true, seed);
        let run = |keeper: Option<&dyn Keeper>| {
            with_settings(&dataset, &settings, |adaptation| {
                let Adaptation { engine, dataset, candidates, settings, stop, progress, .. } = *adaptation;
                let incumbent = None;
                Adaptation { engine, dataset, candidates, settings, incumbent, stop, keeper, progress }.run().unwrap()
            })
        };
        let (whole, memory) = (run(None), Memory::default());
        for again in 0..2 {
            let found = run(Some(&memory));
            assert_same(&whole, &found);
            assert_eq!(whole.steps, found.steps, "seed {seed}, run {again}");
        }
        ended_early += memory.ended_before(epochs);
    }
    assert!(ended_early > 0, "no fit ended early");
}

#[test]
fn a_head_acts_on_normalised_features_where_the_folds_prefer_it() {
    let normalised = |stretch: bool| {
        let chosen = (0..8).filter(|&seed| {
            let mut dataset = dataset(40, false, seed);
            for (i, example) in dataset.training_examples.iter_mut().enumerate().filter(|_| stretch) {
                if let ArrayData::F32(values) = &mut example.example.arrays[0].data {
                    values.iter_mut().for_each(|v| *v *= [0.2, 5.0, 40.0][i % 3]);
                }
            }
            train(&dataset, 1).winner.is_some_and(|w| w.head.normalised)
        });
        chosen.count()
    };
    let (stretched, alike) = (normalised(true), normalised(false));
    assert!(stretched >= 7 && alike <= 4, "{stretched} and {alike} of 8");
}

#[test]
fn what_cannot_be_shown_to_be_better_is_not_trained() {
    let easy = train(&dataset(40, false, 1), 2);
    assert_eq!(easy.steps, 0, "{:?}", easy.tried);
    assert!(easy.verdict.promoted && easy.tried.len() == 3, "{:?}", easy.tried);
    let not_tried = |line: &String| line.contains("not tried: the head has") && line.contains("fewer than 3");
    assert!(easy.tried[1..].iter().all(not_tried), "{:?}", easy.tried);
    assert!(train(&dataset(40, true, 1), 2).steps > 0);
}
