//! Twenty optimiser steps against torch + PEFT: same start, data, order and hyper-parameters
//! (`tests/goldens/training`, generator `scripts/make_training_golden.py`).

use std::path::{Path, PathBuf};

use ndarray::Array1;
use serde_json::Value;

use super::run::Fitted;
use super::state::{FitState, Keeper};
use super::*;
use crate::adapter::{DenseTensor, Pooling};
use crate::base::{Base, Task};
use crate::error::ErrorKind;
use crate::input::{ArrayData, Example, NamedArray, arrays};
use crate::plan::Variant;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/training").join(name)
}

pub(super) fn tensors(path: &Path) -> Vec<(String, DenseTensor)> {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let one = |(name, t): (String, safetensors::tensor::TensorView)| {
        let data = t.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (name, DenseTensor { shape: t.shape().to_vec(), data })
    };
    file.tensors().into_iter().map(one).collect()
}

fn integers(all: &[NamedArray], name: &str) -> Vec<i64> {
    match &all.iter().find(|a| a.name == name).unwrap().data {
        ArrayData::I64(v) => v.clone(),
        other => panic!("{name}: {other:?}"),
    }
}

/// The start of a recorded training.
pub(super) struct Fixture {
    pub engine: Engine,
    pub training_examples: Vec<TrainingExample>,
    pub order: Vec<i64>,
    pub deltas: Vec<SiteDelta>,
    pub head: Head,
    pub recipe: Recipe,
}

pub(super) fn fixture(name: &str, pooling: Pooling) -> Fixture {
    let folder = folder(name);
    let meta: Value = serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let base = Base::open(root.join(meta["model"].as_str().unwrap())).unwrap();
    let data = arrays::read(&folder.join("data.npz")).unwrap();
    let (labels, order) = (integers(&data, "labels"), integers(&data, "order"));
    let inputs: Vec<&NamedArray> = data.iter().filter(|a| a.name != "labels" && a.name != "order").collect();
    let row = |a: &NamedArray, i: usize| {
        let n: usize = a.shape[1..].iter().product();
        let data = match &a.data {
            ArrayData::F32(v) => ArrayData::F32(v[i * n..(i + 1) * n].to_vec()),
            ArrayData::I64(v) => ArrayData::I64(v[i * n..(i + 1) * n].to_vec()),
            other => panic!("{other:?}"),
        };
        NamedArray { name: a.name.clone(), shape: a.shape[1..].to_vec(), data }
    };
    let training_examples: Vec<TrainingExample> = (0..labels.len())
        .map(|i| TrainingExample {
            example: Example { arrays: inputs.iter().map(|a| row(a, i)).collect() },
            target: Target::Class(labels[i] as usize),
            weight: 1.0,
            at_ms: 0,
            earlier: false,
            keep: vec![],
        })
        .collect();
    let start = tensors(&folder.join("initial.safetensors"));
    let find = |name: &str| start.iter().find(|(n, _)| n == name).map(|(_, t)| t.clone());
    let mut deltas = vec![];
    for s in meta["sites"].as_array().unwrap() {
        let name = s["name"].as_str().unwrap();
        let kind = if s["kind"] == "conv" { crate::adapter::SiteKind::Conv } else { crate::adapter::SiteKind::Linear };
        let (a, b) = (find(&format!("{name}.lora_A")).unwrap(), find(&format!("{name}.lora_B")).unwrap());
        deltas.push(SiteDelta { name: name.into(), kind, rank: 8, alpha: 16.0, a, b });
    }
    let head = match (find("head.weight"), find("head.bias")) {
        (Some(w), Some(b)) => Head {
            features: w.shape[0],
            base_classes: 0,
            classes: w.shape[1],
            columns: (0..w.shape[1] as u32).collect(),
            normalised: false,
            weight: Array2::from_shape_vec((w.shape[0], w.shape[1]), w.data).unwrap(),
            bias: b.data.into(),
        },
        // The model's own six logits, and nothing beside them.
        _ => Head {
            features: 64,
            base_classes: 6,
            classes: 6,
            columns: vec![],
            normalised: false,
            weight: Array2::zeros((64, 0)),
            bias: Array1::zeros(0),
        },
    };
    let task = if pooling == Pooling::None { Task::Classification } else { Task::Encoder };
    let engine = Engine::new(Arc::new(base), task, pooling);
    let recipe = Recipe {
        lr: Some(1e-3),
        head_lr: Some(1.0),
        weight_decay: 0.01,
        clip: 1.0,
        batch: 8,
        scale: 2.0,
        ..Recipe::default()
    };
    Fixture { engine, training_examples, order, deltas, head, recipe }
}

#[allow(clippy::type_complexity)]
fn losses_of(name: &str, pooling: Pooling) -> (Vec<f32>, Vec<f32>, Vec<SiteDelta>, Vec<(String, DenseTensor)>) {
    let Fixture { engine, training_examples, order, deltas, head, recipe } = fixture(name, pooling);
    let folder = folder(name);
    let key: SiteKey = deltas.iter().map(|d| (d.name.clone(), 8)).collect();
    let fit = Fit::new(&engine, training_examples.iter().collect(), &key, head, &recipe, 2).unwrap();
    let mut fit = fit.with_deltas(deltas).unwrap();
    let mut got = vec![];
    for (step, batch) in order.chunks(8).enumerate() {
        let items: Vec<usize> = batch.iter().map(|&i| i as usize).collect();
        let lr = 1e-3 * ((step + 1) as f32 / 5.0).min(1.0);
        got.push(fit.step(&items, &[1.0; 8], lr).unwrap());
    }
    let wanted = arrays::read(&folder.join("losses.npz")).unwrap();
    let want = wanted.iter().find(|a| a.name == "loss").unwrap().data.to_f32();
    (got, want, fit.deltas, tensors(&folder.join("final.safetensors")))
}

fn check(name: &str, pooling: Pooling) {
    let (got, want, deltas, last) = losses_of(name, pooling);
    assert_eq!(got.len(), 20);
    for (step, (g, w)) in got.iter().zip(&want).enumerate() {
        assert!((g - w).abs() <= 1e-3 * w.abs(), "{name} step {step}: loss {g}, torch {w}");
    }
    for d in &deltas {
        let want = &last.iter().find(|(n, _)| *n == format!("{}.lora_B", d.name)).unwrap().1;
        let size = want.data.iter().map(|v| v * v).sum::<f32>().sqrt();
        let off = d.b.data.iter().zip(&want.data).map(|(a, b)| (a - b) * (a - b)).sum::<f32>().sqrt();
        assert!(off <= 2e-2 * size, "{name} {}: B is off by {:.1e} of its size after 20 steps", d.name, off / size);
    }
}

#[test]
fn bert_with_a_head_follows_torch_and_peft() {
    check("bert2", Pooling::Mean);
}

#[test]
fn activity_cnn_follows_torch_and_peft() {
    check("har_cnn", Pooling::None);
}

/// Losses of three epochs of the last `sites` sites in micro-batches of 3, each epoch in another order.
fn epochs(f: &Fixture, sites: usize, kept_bytes: usize) -> Vec<f32> {
    let deltas = f.deltas[f.deltas.len() - sites..].to_vec();
    let key: SiteKey = deltas.iter().map(|d| (d.name.clone(), 8)).collect();
    let recipe = Recipe { kept_bytes, micro_batch: 3, ..f.recipe.clone() };
    let fit = Fit::new(&f.engine, f.training_examples.iter().collect(), &key, f.head.clone(), &recipe, 2).unwrap();
    assert!(fit.is_split().unwrap());
    let mut fit = fit.with_deltas(deltas).unwrap();
    let n = f.training_examples.len();
    (0..9)
        .map(|step| (0..8).map(|i| (step * 5 + i * 3) % n).collect::<Vec<_>>())
        .map(|items| fit.step(&items, &[1.0; 8], 1e-3).unwrap())
        .collect()
}

#[test]
fn what_is_kept_changes_no_loss() {
    for (name, pooling, sites) in [("bert2", Pooling::Mean, 3), ("har_cnn", Pooling::None, 2)] {
        let f = fixture(name, pooling);
        let plain = epochs(&f, sites, 0);
        // Enough for all rows, and for a few only.
        for kept in [64 << 20, 20 << 10] {
            assert_eq!(epochs(&f, sites, kept), plain, "{name}, {kept} bytes");
        }
    }
}

/// Keeps everything in memory, the last state of each fit.
#[derive(Default)]
pub(crate) struct Memory(Mutex<std::collections::HashMap<FitName, FitState>>);

impl Memory {
    /// How many fits ended before so many epochs were over.
    pub(crate) fn ended_before(&self, epochs: u64) -> usize {
        self.0.lock().unwrap().values().filter(|s| s.finished && s.place.0 < epochs).count()
    }

    /// The state of the only fit.
    pub(super) fn last(&self) -> FitState {
        self.0.lock().unwrap().values().next().unwrap().clone()
    }
}

impl Keeper for Memory {
    fn left(&self, name: &FitName) -> Option<FitState> {
        let bytes = self.0.lock().unwrap().get(name)?.to_bytes().unwrap();
        assert!(FitState::from_bytes(&bytes[1..]).is_none());
        FitState::from_bytes(&bytes)
    }
    fn stepped(&self, name: &FitName, state: &dyn Fn() -> FitState) {
        self.0.lock().unwrap().insert(*name, state());
    }
    fn finished(&self, name: &FitName, end: FitState) {
        self.0.lock().unwrap().insert(*name, end);
    }
    fn stopped(&self, name: &FitName, state: FitState) {
        self.0.lock().unwrap().insert(*name, state);
    }
}

/// Three epochs of the last `sites` sites, the first half of the last layer's values as an answer to each of the first
/// two; stopped before step `end`.
pub(super) fn run_to(
    f: &Fixture,
    sites: usize,
    keeper: Option<&dyn Keeper>,
    threads: usize,
    end: usize,
) -> Result<Fitted> {
    let deltas = f.deltas[f.deltas.len() - sites..].to_vec();
    let key: SiteKey = deltas.iter().map(|d| (d.name.clone(), f.recipe.lora.applied_rank(8))).collect();
    let recipe = Recipe { epochs: 3, micro_batch: 3, ..f.recipe.clone() };
    let fit =
        Fit::new(&f.engine, f.training_examples.iter().collect(), &key, f.head.clone(), &recipe, threads).unwrap();
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let stop = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == end;
    fit.run(&stop, keeper, |epoch, answers| {
        if epoch.number < 2 {
            answers.push(Array2::from_shape_vec((1, 4), epoch.deltas.last().unwrap().b.data[..4].to_vec()).unwrap());
        }
        Ok(Go::On)
    })
}

#[test]
fn a_fit_that_is_stopped_anywhere_ends_in_the_same_bits() {
    for (name, pooling, sites) in [("bert2", Pooling::Mean, 3), ("har_cnn", Pooling::None, 2)] {
        let f = fixture(name, pooling);
        let whole = run_to(&f, sites, None, 2, usize::MAX).unwrap();
        assert!(whole.steps >= 6 && whole.answers.len() == 2 && whole.answers[0] != whole.answers[1]);
        let same = |fitted: &Fitted, place: &str| {
            assert_eq!(fitted.deltas, whole.deltas, "{name} {place}");
            assert_eq!(fitted.head, whole.head, "{name} {place}");
            assert_eq!((fitted.steps, &fitted.answers), (whole.steps, &whole.answers), "{name} {place}");
        };
        for end in 0..whole.steps as usize {
            let memory = Memory::default();
            let e = run_to(&f, sites, Some(&memory), 1, end).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Interrupted);
            // Once more after a step, and then to the end.
            if end % 2 == 0 {
                let again = run_to(&f, sites, Some(&memory), 2, 1);
                assert!(again.is_err() || end + 1 >= whole.steps as usize);
            }
            same(&run_to(&f, sites, Some(&memory), 2, usize::MAX).unwrap(), &format!("stopped before step {end}"));
            // What is over is passed by, without a step.
            same(&run_to(&f, sites, Some(&memory), 2, 0).unwrap(), "finished");
        }
        let names = |recipe: &Recipe, training_examples: &[TrainingExample]| {
            let key: SiteKey = f.deltas[f.deltas.len() - sites..].iter().map(|d| (d.name.clone(), 8)).collect();
            Fit::new(&f.engine, training_examples.iter().collect(), &key, f.head.clone(), recipe, 1).unwrap().name()
        };
        let (first, fewer) = (names(&f.recipe, &f.training_examples), names(&f.recipe, &f.training_examples[1..]));
        let other = Recipe { seed: 9, ..f.recipe.clone() };
        let less = Recipe { kept_bytes: 1 << 10, ..f.recipe.clone() };
        assert!(
            first == names(&f.recipe, &f.training_examples)
                && first == names(&less, &f.training_examples)
                && first != fewer
                && first != names(&other, &f.training_examples)
        );
    }
}

#[test]
fn a_fit_in_stages_ends_in_the_same_bits_with_a_cache_that_others_filled() {
    for (name, pooling, sites) in [("bert2", Pooling::Mean, 3), ("har_cnn", Pooling::None, 2)] {
        let f = fixture(name, pooling);
        let whole = run_to(&f, sites, None, 2, usize::MAX).unwrap();
        let deltas = f.deltas[f.deltas.len() - sites..].to_vec();
        let key: SiteKey = deltas.iter().map(|d| (d.name.clone(), 8)).collect();
        let recipe = Recipe { epochs: 3, micro_batch: 3, ..f.recipe.clone() };
        let kept = Arc::new(Kept::new(64 << 20));
        // The second of the two finds everything kept, under numbers that are not its own.
        for backwards in [true, false] {
            let mut examples: Vec<&TrainingExample> = f.training_examples.iter().collect();
            let mut numbers: Vec<usize> = (0..examples.len()).collect();
            if backwards {
                examples.reverse();
                numbers.reverse();
            }
            let fit = Fit::new(&f.engine, examples, &key, f.head.clone(), &recipe, 1).unwrap();
            let mut fit = fit.sharing(&kept, numbers);
            let mut seen = vec![];
            for (to, threads) in [(1, 2), (1, 1), (2, 1), (3, 2)] {
                fit.use_threads(threads);
                fit.run_to(to, &|| false, None, |epoch, _| {
                    seen.push(epoch.number);
                    Ok(Go::On)
                })
                .unwrap();
                assert_eq!((fit.epochs(), fit.was_finished_at(to)), (to, to == 3));
            }
            assert_eq!(seen, [0, 1, 2]);
            let fitted = fit.into_fitted();
            assert_eq!(fitted.steps, whole.steps);
            if !backwards {
                assert_eq!((&fitted.deltas, &fitted.head), (&whole.deltas, &whole.head), "{name}");
            }
        }
    }
}

/// Of answers, too: of one example, on the cores that its engine has, and of many.
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for (name, pooling, sites) in [("bert2", Pooling::Mean, 3), ("har_cnn", Pooling::None, 2)] {
        let mut f = fixture(name, pooling);
        let one = run_to(&f, sites, None, 1, usize::MAX).unwrap();
        let key: SiteKey = f.deltas.iter().map(|d| (d.name.clone(), 8)).collect();
        let examples: Vec<&Example> = f.training_examples.iter().map(|t| &t.example).collect();
        let factors = Factors::of(&f.deltas).unwrap();
        let variants = [Variant::Base, Variant::Adapted(&key, &factors)];
        let answers = variants.map(|variant| {
            (f.engine.many(&variant, &examples, 1, 4).unwrap(), f.engine.one(&variant, examples[0]).unwrap())
        });
        for threads in 2..=8 {
            let several = run_to(&f, sites, None, threads, usize::MAX).unwrap();
            assert_eq!((&one.deltas, &one.head), (&several.deltas, &several.head), "{name} on {threads} threads");
            f.engine = f.engine.on_cores(threads);
            for (variant, (of_many, of_one)) in variants.iter().zip(&answers) {
                let many = f.engine.many(variant, &examples, threads, 4).unwrap();
                let single = f.engine.one(variant, examples[0]).unwrap();
                assert_eq!((&many.features, &many.logits), (&of_many.features, &of_many.logits), "{name}, {threads}");
                assert_eq!((&single.features, &single.logits), (&of_one.features, &of_one.logits), "{name}, {threads}");
            }
        }
    }
}

#[test]
fn a_fit_ends_when_nothing_is_left_to_learn() {
    let f = fixture("har_cnn", Pooling::None);
    let key: SiteKey = f.deltas.iter().map(|d| (d.name.clone(), 8)).collect();
    let ends = |smoothing: f32, lr: f32| {
        let recipe = Recipe { epochs: 60, lr: Some(lr), smoothing: Some(smoothing), ..f.recipe.clone() };
        let fit = Fit::new(&f.engine, f.training_examples.iter().collect(), &key, f.head.clone(), &recipe, 2).unwrap();
        let mut last = vec![];
        fit.run(&|| false, None, |epoch, _| {
            last.push(epoch.is_last);
            Ok(Go::On)
        })
        .unwrap();
        assert_eq!(last.iter().filter(|l| **l).count(), 1);
        assert_eq!(last.last(), Some(&true));
        last.len()
    };
    assert!(ends(0.0, 1e-2) < 60);
    assert_eq!(ends(0.0, 1e-6), 60, "nothing was learned");
    assert_eq!(ends(0.1, 1e-2), 60, "smoothed labels are never reached");
}

#[test]
fn a_state_of_another_fit_is_refused_and_changes_nothing() {
    let f = fixture("har_cnn", Pooling::None);
    let memory = Memory::default();
    run_to(&f, 2, Some(&memory), 1, 2).unwrap_err();
    let state = memory.0.lock().unwrap().values().next().unwrap().clone();
    let key: SiteKey = f.deltas.iter().map(|d| (d.name.clone(), 8)).collect();
    let mut fit =
        Fit::new(&f.engine, f.training_examples.iter().collect(), &key, f.head.clone(), &f.recipe, 1).unwrap();
    let before = fit.deltas.clone();
    assert_eq!(fit.take_up(&state).unwrap_err().kind(), ErrorKind::BadData);
    assert_eq!((fit.deltas, fit.optimiser.steps(), fit.progress.place), (before, 0, (0, 0)));
}
