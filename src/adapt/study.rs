//! Members of the LoRA family side by side, on data that `scripts/lora_family_study.py` lays out and reads again. A
//! study, not a test.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::fit::{Fit, Go, Target, TrainingExample};
use super::{Adaptation, CandidateSites, Dataset, Settings, select};
use crate::adapter::{LoraOptions, Pooling};
use crate::base::{Base, Task};
use crate::input::{ArrayData, Example, NamedArray, arrays};
use crate::plan::{Engine, Factors, Variant, survey};
use crate::sites::Pattern;
use crate::stats::rows::argmax;

#[derive(Deserialize)]
struct Study {
    name: String,
    model: PathBuf,
    /// The model's own classes are set aside.
    #[serde(default)]
    set_aside: bool,
    /// Pairs of files with the model's inputs and `labels`.
    data: Vec<(PathBuf, PathBuf)>,
    classes: usize,
    length: usize,
    steps: u64,
    seeds: u64,
    members: Vec<Member>,
}

#[derive(Deserialize)]
struct Member {
    name: String,
    rank: usize,
    #[serde(default)]
    lora: LoraOptions,
}

fn examples(file: &Path) -> Vec<TrainingExample> {
    let all = arrays::read(file).unwrap();
    let row = |a: &NamedArray, i: usize| {
        let n: usize = a.shape[1..].iter().product();
        let data = match &a.data {
            ArrayData::F32(v) => ArrayData::F32(v[i * n..(i + 1) * n].to_vec()),
            ArrayData::I64(v) => ArrayData::I64(v[i * n..(i + 1) * n].to_vec()),
            other => panic!("{other:?}"),
        };
        NamedArray { name: a.name.clone(), shape: a.shape[1..].to_vec(), data }
    };
    let labels = all.iter().find(|a| a.name == "labels").unwrap().data.to_f32();
    let example = |i: usize| TrainingExample {
        example: Example { arrays: all.iter().filter(|a| a.name != "labels").map(|a| row(a, i)).collect() },
        target: Target::Class(labels[i] as usize),
        weight: 1.0,
        at_ms: i as u64,
        earlier: false,
        keep: vec![],
    };
    (0..labels.len()).map(example).collect()
}

/// Seconds of this process on a processor.
fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after = text.rsplit(')').next().unwrap();
    let ticks: f64 = after.split_whitespace().skip(11).take(2).map(|t| t.parse::<f64>().unwrap()).sum();
    ticks / 100.0
}

#[test]
#[ignore = "a study: scripts/lora_family_study.py runs it"]
fn lora_family() {
    let file = std::env::var("ACCLIMATE_STUDY").expect("ACCLIMATE_STUDY names the study's file");
    let study: Study = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let base = Arc::new(Base::open(&study.model).unwrap());
    let task = base.guess_task().unwrap();
    let seen = survey(&base, task, &base.bucket(1, study.length)).unwrap();
    let pooling = if seen.sequence { Pooling::Mean } else { Pooling::None };
    let engine = Engine::new(base.clone(), task, pooling);
    let (engine, base_classes) = if study.set_aside { (engine.without_classes(), 0) } else { (engine, seen.classes) };
    let base_classes = if task == Task::Encoder { 0 } else { base_classes };
    for (at, (train, test)) in study.data.iter().enumerate() {
        let (training_examples, test) = (examples(train), examples(test));
        let served_right = vec![true; training_examples.len()];
        let (standing, revised, none) = (vec![], false, None);
        let (classes, features) = (study.classes, seen.features);
        let dataset =
            Dataset { training_examples, served_right, standing, revised, base_classes, classes, none, features };
        for member in &study.members {
            let choice = select::choose(&base, task, &Pattern::default(), member.rank, study.length).unwrap();
            for seed in 0..study.seeds {
                let mut settings = Settings { seed, threads: 1, steps: Some(study.steps), ..Settings::default() };
                settings.recipe.lora = member.lora.clone();
                let started = cpu_seconds();
                let (right, values) = one(&engine, &dataset, &choice, &settings, &test);
                let line = json!({ "task": study.name, "data": at, "member": member.name, "seed": seed, "values": values,
                    "accuracy": right, "cpu": cpu_seconds() - started });
                println!("{line}");
            }
        }
    }
}

/// Share of the test examples that a fit answers right, and how many values were trained beside the head.
fn one(
    engine: &Engine,
    dataset: &Dataset,
    choice: &select::Choice,
    settings: &Settings,
    test: &[TrainingExample],
) -> (f64, usize) {
    let lora = &settings.recipe.lora;
    let uniform = &choice.candidates;
    let with = |candidates: &CandidateSites| select::applied(candidates, lora);
    let adaptation = |candidates: &CandidateSites, work: &mut dyn FnMut(&Adaptation)| {
        work(&Adaptation {
            engine,
            dataset,
            candidates,
            settings,
            incumbent: None,
            stop: &|| false,
            keeper: None,
            progress: &|_| {},
        });
    };
    let mut ranked = with(uniform);
    if lora.rank_by_gradient {
        adaptation(&with(uniform), &mut |a| {
            let measured = a.measure(&a.candidates.all_sites).unwrap().unwrap();
            ranked = with(&choice.by_gradient(uniform, &measured.gradients));
        });
    }
    let mut found = (0.0, 0);
    adaptation(&ranked, &mut |a| {
        let sites = &a.candidates.all_sites;
        let recipe = a.recipe(dataset.training_examples.len());
        let head = a.blank_head(&a.look().unwrap()).unwrap();
        let heads = head.weight.len() + head.bias.len();
        let fit = Fit::new(engine, dataset.training_examples.iter().collect(), sites, head, &recipe, 1).unwrap();
        let values = fit.trained() - heads;
        let fitted = fit.run(&|| false, None, |_, _| Ok(Go::On)).unwrap();
        let factors = Factors::of(&fitted.deltas).unwrap();
        let questions: Vec<&Example> = test.iter().map(|t| &t.example).collect();
        let rows = engine.many(&Variant::Adapted(sites, &factors), &questions, 1, 8).unwrap();
        let logits = fitted.head.forward(rows.features.view(), rows.logits.as_ref().map(|z| z.view())).unwrap();
        let right =
            logits.rows().into_iter().zip(test).filter(|(row, t)| argmax(*row) == Some(t.target.class())).count();
        found = (right as f64 / test.len() as f64, values);
    });
    found
}
