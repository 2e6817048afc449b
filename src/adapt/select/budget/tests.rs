//! What fits which limits.

use super::*;
use crate::adapter::InitLoraWeights;
use crate::plan::MICRO_BATCH;
use crate::sites::Pattern;

fn base() -> Base {
    Base::open(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/har_cnn.onnx")).unwrap()
}

/// The bundled language model.
fn tiny_chat(folder: &std::path::Path) -> Base {
    let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny_chat.zip");
    let mut zip = zip::ZipArchive::new(std::fs::File::open(bundle).unwrap()).unwrap();
    let path = folder.join("model.onnx");
    std::io::copy(&mut zip.by_name("model.onnx").unwrap(), &mut std::fs::File::create(&path).unwrap()).unwrap();
    Base::open(path).unwrap()
}

fn limits(memory_bytes: Option<u64>, seconds: Option<f64>) -> TrainLimits {
    TrainLimits { memory_bytes, budget_seconds: seconds }
}

#[test]
fn a_delta_that_is_applied_at_twice_its_rank_counts_twice() {
    let base = base();
    let choice = crate::adapt::select::choose(&base, Task::Classification, &Pattern::default(), 4, 64).unwrap();
    let none = limits(None, None);
    let costs = || Costs::of(&base, Task::Classification, &choice, &none, 1);
    let pissa = LoraOptions { init_lora_weights: InitLoraWeights::Pissa, ..LoraOptions::default() };
    let memory = |costs: Costs<'_>, rank| costs.all(rank, costs.held(0, rank, Keeps::Everything).unwrap());
    let (plain, wide) = (memory(costs(), 2), memory(costs(), 4));
    assert!(plain < wide);
    assert_eq!(memory(costs().of_family(&pissa), 2), wide);
    assert_eq!(memory(costs().of_family(&LoraOptions::default()), 2), plain);
}

#[test]
fn memory_takes_sites_off_the_front_after_micro_batches_were_thinned() {
    let base = base();
    let choice = crate::adapt::select::choose(&base, Task::Classification, &Pattern::default(), 4, 64).unwrap();
    let n = choice.sites.len();
    assert!(n >= 3, "{:?}", choice.sites);
    let with = |limit: &dyn Fn(&Costs) -> u64| {
        let plenty = limits(Some(u64::MAX), None);
        let costs = Costs::new(&base, Task::Classification, &choice, &plenty, 2);
        let limited = limits(Some(limit(&costs)), None);
        // What the process holds moves while other tests run: both look at the same number.
        Costs { limits: &limited, ..costs }.choose(4, None).unwrap()
    };
    let (candidates, all) = with(&|_| u64::MAX);
    assert_eq!((all.sites.len(), all.micro_batch, all.rank), (n, MICRO_BATCH, 4));
    assert_eq!(candidates.all_sites, choice.candidates.all_sites);
    let held = |c: &Costs, from: usize, keeps: Keeps| c.held(from, 4, keeps).unwrap();
    let (_, thin) = with(&|c| c.memory(0, 4, held(c, 0, Keeps::Everything), 4));
    assert_eq!((thin.sites.len(), thin.micro_batch), (n, 4), "{}", thin.reason);
    assert!(!thin.gradient_checkpointing);
    let last = n - 1;
    let (candidates, few) = with(&|c| c.memory(last, 4, held(c, last, Keeps::Checkpoints), THINNEST));
    assert_eq!((few.sites.len(), few.micro_batch), (1, THINNEST), "{}", few.reason);
    assert_eq!(candidates.all_sites, [(choice.sites[last].name.clone(), few.rank)]);
    let (candidates, none) = with(&|_| 1);
    assert!(none.sites.is_empty() && candidates.all_sites.is_empty() && none.reason.contains("only a head"));
}

#[test]
fn activations_are_computed_twice_where_thin_micro_batches_are_not_enough() {
    let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/bert2/model.onnx");
    let base = Base::open(model).unwrap();
    // A rank that cannot be reduced.
    let choice = crate::adapt::select::choose(&base, Task::Encoder, &Pattern::default(), 1, 16).unwrap();
    let n = choice.sites.len();
    let plenty = limits(Some(u64::MAX), None);
    let costs = Costs::new(&base, Task::Encoder, &choice, &plenty, 1);
    let [everything, checkpoints] = [Keeps::Everything, Keeps::Checkpoints].map(|k| costs.held(0, 1, k).unwrap());
    assert!(checkpoints < everything, "{checkpoints}, {everything}");
    let with = |limit: u64| {
        let limited = limits(Some(limit), None);
        Costs { limits: &limited, lora: costs.lora.clone(), ..costs }.choose(1, None).unwrap().1
    };
    let enough = costs.memory(0, 1, everything, THINNEST);
    let all = with(enough);
    assert_eq!((all.sites.len(), all.micro_batch, all.gradient_checkpointing), (n, THINNEST, false));
    let twice = with(enough - 1);
    assert_eq!((twice.sites.len(), twice.gradient_checkpointing), (n, true), "{}", twice.reason);
    assert!(twice.memory_bytes < enough && twice.reason.contains("computed twice"), "{}", twice.reason);
}

#[test]
fn a_language_model_that_is_large_for_the_machine_computes_its_activations_twice_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let base = tiny_chat(folder.path());
    let choice = crate::adapt::select::choose(&base, Task::CausalLm, &Pattern::default(), 4, 64).unwrap();
    let none = limits(None, None);
    let on = |machine: Option<u64>| {
        let costs = Costs::of(&base, Task::CausalLm, &choice, &none, 1);
        Costs { machine, ..costs }.choose(4, None).unwrap().1
    };
    let [large, small, unknown] = [on(Some(1 << 40)), on(Some(choice.peak_bytes)), on(None)];
    assert!(!large.gradient_checkpointing && !unknown.gradient_checkpointing);
    assert!(small.gradient_checkpointing && small.memory_bytes < large.memory_bytes, "{small:?} {large:?}");
    assert_eq!((small.sites.len(), small.micro_batch), (large.sites.len(), large.micro_batch));
    // A limit of time alone changes what `train` does, and so what is estimated.
    let timed = limits(None, Some(1e6));
    let costs = Costs::of(&base, Task::CausalLm, &choice, &timed, 1);
    assert!(!Costs { machine: Some(1 << 20), ..costs }.choose(4, None).unwrap().1.gradient_checkpointing);
}

#[test]
fn time_and_gradients_choose_when_they_are_measured() {
    let base = base();
    let choice = crate::adapt::select::choose(&base, Task::Classification, &Pattern::default(), 4, 64).unwrap();
    let n = choice.sites.len();
    let mut gradients: Vec<(String, f64)> = choice.sites.iter().map(|s| (s.name.clone(), 1.0)).collect();
    gradients[1].1 = 1e-6;
    let measured = Measured { gradients, seconds_per_example: 0.1, training_examples: 100.0, seconds: 0.5 };
    let choose = |seconds: f64| {
        let limits = limits(None, Some(seconds));
        Costs::new(&base, Task::Classification, &choice, &limits, 1).choose(4, Some(&measured)).unwrap().1
    };
    let total = choose(1e6).seconds.unwrap();
    assert!(total > 10.5 && total < 20.5, "ten seconds, and the last block once more: {total}");
    let all = choose(1.01 * total / AIMED_AT);
    assert_eq!(all.sites.len(), n - 1);
    assert!(!all.sites.iter().any(|s| s.name == choice.sites[1].name), "{}", all.reason);
    assert!((all.sites.iter().filter_map(|s| s.share).sum::<f64>() - 1.0).abs() < 1e-3);
    assert!((all.seconds.unwrap() - total).abs() < 1e-6);
    let fewer = choose(0.99 * total / AIMED_AT);
    assert!(!fewer.sites.iter().any(|s| s.name == choice.sites[0].name) && fewer.seconds.unwrap() <= 0.99 * total);
    assert!(choose(1e-9).sites.is_empty());
    let nothing = limits(None, Some(-1.0));
    assert!(Costs::new(&base, Task::Classification, &choice, &nothing, 1).choose(4, None).is_err());
}
