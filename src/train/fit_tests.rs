//! Twenty optimiser steps against torch + PEFT: same start, data, order and hyper-parameters
//! (`tests/goldens/training`, generator `scripts/make_training_golden.py`).

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::*;
use crate::adapter::Pooling;
use crate::base::{Base, Task};
use crate::input::{ArrayData, NamedArray, arrays};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/training").join(name)
}

fn tensors(path: &Path) -> Vec<(String, DenseTensor)> {
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
struct Fixture {
    engine: Engine,
    lessons: Vec<Lesson>,
    order: Vec<i64>,
    deltas: Vec<SiteDelta>,
    head: Head,
    recipe: Recipe,
}

fn fixture(name: &str, pooling: Pooling) -> Fixture {
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
    let lessons: Vec<Lesson> = (0..labels.len())
        .map(|i| Lesson {
            example: Example { arrays: inputs.iter().map(|a| row(a, i)).collect() },
            goal: Goal::Class(labels[i] as usize),
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
            weight: Array2::from_shape_vec((w.shape[0], w.shape[1]), w.data).unwrap(),
            bias: b.data.into(),
        },
        // The model's own six logits, and nothing beside them.
        _ => Head {
            features: 64,
            base_classes: 6,
            classes: 6,
            columns: vec![],
            weight: Array2::zeros((64, 0)),
            bias: Array1::zeros(0),
        },
    };
    let task = if pooling == Pooling::None { Task::Classification } else { Task::Encoder };
    let engine = Engine::new(std::sync::Arc::new(base), task, pooling);
    let recipe =
        Recipe { lr: 1e-3, head_lr: 1.0, weight_decay: 0.01, clip: 1.0, batch: 8, scale: 2.0, ..Recipe::default() };
    Fixture { engine, lessons, order, deltas, head, recipe }
}

#[allow(clippy::type_complexity)]
fn losses_of(name: &str, pooling: Pooling) -> (Vec<f32>, Vec<f32>, Vec<SiteDelta>, Vec<(String, DenseTensor)>) {
    let Fixture { engine, lessons, order, deltas, head, recipe } = fixture(name, pooling);
    let folder = folder(name);
    let key: SiteKey = deltas.iter().map(|d| (d.name.clone(), 8)).collect();
    let fit = Fit::new(&engine, lessons.iter().collect(), &key, head, &recipe, 2).unwrap();
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
    let fit = Fit::new(&f.engine, f.lessons.iter().collect(), &key, f.head.clone(), &recipe, 2).unwrap();
    assert!(fit.is_split().unwrap());
    let mut fit = fit.with_deltas(deltas).unwrap();
    let n = f.lessons.len();
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
