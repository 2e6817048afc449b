//! Members of the LoRA family against PEFT's own forward, gradients and optimisers (`tests/goldens/lora_family`,
//! generator `scripts/golden_lora_family.py`), and what each promises.

use std::path::Path;

use super::family::{Side, less_its_start};
use super::start::{begin, frozen_a};
use super::tests::{Fixture, Memory, fixture, run_to, tensors};
use super::*;
use crate::adapter::file::{AdapterFile, write_adapter};
use crate::adapter::{Adapter, DenseTensor, InitLoraWeights, Pooling, samples};
use crate::disk::RealDisk;
use crate::plan::{Keeps, Merged, Trains, Variant};

fn golden(member: &str, file: &str) -> Vec<(String, DenseTensor)> {
    tensors(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/lora_family").join(member).join(file))
}

fn find(all: &[(String, DenseTensor)], name: &str) -> DenseTensor {
    all.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name}")).1.clone()
}

fn members() -> [LoraOptions; 4] {
    let usual = LoraOptions::default;
    [
        usual().use_rslora(true),
        usual().loraplus_lr_ratio(4.0),
        usual().lora_fa(true),
        usual().init_lora_weights(InitLoraWeights::Pissa),
    ]
}

/// The training of a member as PEFT recorded it: the factors that it trained, as they started.
fn recorded(member: &str, model: &str, pooling: Pooling, lora: LoraOptions) -> Fixture {
    let mut f = fixture(model, pooling);
    let start = golden(member, "initial.safetensors");
    for d in &mut f.deltas {
        d.alpha = lora.scale(2.0, 8) * 8.0;
        (d.a, d.b) = (find(&start, &format!("{}.lora_A", d.name)), find(&start, &format!("{}.lora_B", d.name)));
        if lora.is_pissa() {
            *d = less_its_start(d.clone());
        }
    }
    if pooling == Pooling::Mean {
        let shape = f.head.weight.dim();
        f.head.weight = Array2::from_shape_vec(shape, find(&start, "head.weight").data).unwrap();
        f.head.bias = find(&start, "head.bias").data.into();
    }
    f.recipe.lora = lora;
    f
}

fn key(f: &Fixture) -> SiteKey {
    f.deltas.iter().map(|d| (d.name.clone(), d.rank as usize)).collect()
}

/// The distance as a part of the size.
fn off(got: &[f32], want: &[f32]) -> f32 {
    let size = |v: &mut dyn Iterator<Item = f32>| v.map(|x| x * x).sum::<f32>().sqrt();
    assert_eq!(got.len(), want.len());
    size(&mut got.iter().zip(want).map(|(g, w)| g - w)) / size(&mut want.iter().copied()).max(1e-9)
}

/// Takes the twenty recorded steps and compares losses, and at their end the trained factors.
fn follow(member: &str, fit: &mut Fit, order: &[i64], compare: bool) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/lora_family").join(member);
    let losses = crate::input::arrays::read(&folder.join("losses.npz")).unwrap()[0].data.to_f32();
    assert_eq!(losses.len(), 20);
    for (step, (batch, want)) in order.chunks(8).zip(&losses).enumerate() {
        let items: Vec<usize> = batch.iter().map(|&i| i as usize).collect();
        let got = fit.step(&items, &[1.0; 8], 1e-3 * ((step + 1) as f32 / 5.0).min(1.0)).unwrap();
        assert!((got - want).abs() <= 2e-3 * want.abs() + 2e-5, "{member} step {step}: loss {got}, PEFT {want}");
    }
    let last = golden(member, "final.safetensors");
    for part in fit.parts.iter().filter(|_| compare) {
        let name = part.name(&fit.deltas);
        let off = off(&part.values(&fit.deltas), &find(&last, &name).data);
        assert!(off < 2e-2, "{member} {name}: off by {off:.1e} of its size after 20 steps");
    }
}

fn check(member: &str, model: &str, pooling: Pooling, lora: LoraOptions) {
    let mut f = recorded(member, model, pooling, lora.clone());
    if lora.lora_fa {
        f.recipe.weight_decay = 0.0;
    }
    let (key, deltas) = (key(&f), f.deltas.clone());
    let fit = Fit::new(&f.engine, f.training_examples.iter().collect(), &key, f.head.clone(), &f.recipe, 2).unwrap();
    let mut fit = fit.with_deltas(deltas.clone()).unwrap();
    let first: Vec<usize> = f.order[..8].iter().map(|&i| i as usize).collect();
    let (grads, _) = fit.gradients(&first, &[1.0; 8]).unwrap();
    let want = golden(member, "gradients.safetensors");
    for (part, got) in fit.parts.iter().zip(&grads.0) {
        let name = part.name(&fit.deltas);
        let off = off(got, &find(&want, &name).data);
        assert!(off < 1e-3, "{member} {name}: the gradient is off by {off:.1e} of its size");
    }
    follow(member, &mut fit, &f.order, true);
    if lora.lora_fa {
        assert!(fit.parts.iter().all(|p| p.side == Side::B));
        assert!(fit.deltas.iter().zip(&deltas).all(|(now, before)| now.a == before.a && now.b != before.b));
    }
}

#[test]
fn rslora_follows_peft() {
    check("rslora", "har_cnn", Pooling::None, LoraOptions::default().use_rslora(true));
}

#[test]
fn loraplus_follows_peft() {
    check("loraplus", "har_cnn", Pooling::None, LoraOptions::default().loraplus_lr_ratio(4.0));
}

#[test]
fn lora_fa_follows_peft() {
    check("lorafa", "bert2", Pooling::Mean, LoraOptions::default().lora_fa(true));
}

#[test]
fn pissa_follows_peft() {
    check("pissa", "bert2", Pooling::Mean, LoraOptions::default().init_lora_weights(InitLoraWeights::Pissa));
}

/// Singular vectors have a sign of their own, so it is the products that are compared, and the training.
#[test]
fn a_pissa_start_is_pefts() {
    let lora = LoraOptions::default().init_lora_weights(InitLoraWeights::Pissa);
    let f = recorded("pissa", "bert2", Pooling::Mean, lora);
    let key = key(&f);
    let examples = || f.training_examples.iter().collect();
    let mut fit = Fit::new(&f.engine, examples(), &key, f.head.clone(), &f.recipe, 2).unwrap();
    for (ours, peft) in fit.deltas.iter().zip(&f.deltas) {
        let product = |d: &SiteDelta| -> Vec<f32> {
            let (inputs, outputs, r) = (d.a.shape[0], d.b.shape[1], d.rank as usize);
            let at = |i: usize, o: usize, ranks: std::ops::Range<usize>| -> f32 {
                ranks.map(|k| d.a.data[i * r + k] * d.b.data[k * outputs + o]).sum::<f32>() * d.scale()
            };
            let all = || (0..inputs * outputs).map(|x| (x / outputs, x % outputs));
            assert!(all().all(|(i, o)| at(i, o, 0..r).abs() < 1e-5), "{}: it starts as nothing", d.name);
            all().map(|(i, o)| at(i, o, 0..r / 2)).collect()
        };
        let off = off(&product(ours), &product(peft));
        assert!(off < 1e-3, "{}: the start is off by {off:.1e} of its size", ours.name);
    }
    follow("pissa", &mut fit, &f.order, false);
}

#[test]
fn convolutions_have_a_pissa_start_that_is_nothing_at_first() {
    let mut f = fixture("har_cnn", Pooling::None);
    f.recipe.lora = LoraOptions::default().init_lora_weights(InitLoraWeights::Pissa).use_rslora(true);
    let key: SiteKey = f.deltas.iter().map(|d| (d.name.clone(), 8)).collect();
    let plan = f.engine.train_plan(&key, (Trains::Both, Keeps::Everything), &f.engine.bucket(1, 0)).unwrap();
    let deltas = begin(&f.engine.base, &plan.sites, &f.recipe).unwrap();
    for d in &deltas {
        assert_eq!(d.rank, 8);
        assert!((d.scale() - 2.0 * 4f32.sqrt()).abs() < 1e-6, "four ranks are trained");
        assert!(d.b.data.iter().any(|v| *v != 0.0));
    }
    let examples: Vec<_> = f.training_examples.iter().take(4).map(|e| &e.example).collect();
    let rows = |variant: &Variant| f.engine.many(variant, &examples, 1, 4).unwrap();
    let factors = Factors::of(&deltas).unwrap();
    let (base, started) = (rows(&Variant::Base), rows(&Variant::Adapted(&key, &factors)));
    let pairs = base.logits.as_ref().unwrap().iter().zip(started.logits.as_ref().unwrap());
    assert!(pairs.clone().all(|(a, b)| (a - b).abs() < 1e-3), "{:?}", pairs.collect::<Vec<_>>());
}

#[test]
fn a_frozen_a_follows_from_seed_site_and_rank_alone() {
    let mut f = fixture("har_cnn", Pooling::None);
    f.recipe.lora = LoraOptions::default().lora_fa(true);
    f.recipe.seed = 5;
    let all: SiteKey = f.deltas.iter().map(|d| (d.name.clone(), 8)).collect();
    let a_of = |key: &SiteKey| {
        let plan = f.engine.train_plan(key, (Trains::B, Keeps::Everything), &f.engine.bucket(1, 0)).unwrap();
        let deltas = begin(&f.engine.base, &plan.sites, &f.recipe).unwrap();
        let rebuilt = plan.sites.iter().map(|(site, rank)| frozen_a(site, *rank, 5));
        assert!(deltas.iter().zip(rebuilt).all(|(d, a)| d.a.data == a));
        deltas
    };
    let (whole, part) = (a_of(&all), a_of(&all[2..].to_vec()));
    assert_eq!(whole[2..], part[..]);
    assert_ne!(whole[0].a, whole[1].a);
}

/// Runs of the last three sites of the small BERT.
fn of_member(lora: LoraOptions) -> Fixture {
    let mut f = fixture("bert2", Pooling::Mean);
    f.recipe.lora = lora;
    f
}

#[test]
fn every_member_goes_on_to_the_bit_and_a_frozen_factor_takes_no_room() {
    let state = |lora: LoraOptions| {
        let f = of_member(lora);
        let whole = run_to(&f, 3, None, 2, usize::MAX).unwrap();
        let memory = Memory::default();
        run_to(&f, 3, Some(&memory), 1, 4).unwrap_err();
        let bytes = memory.last().to_bytes().unwrap().len();
        let again = run_to(&f, 3, Some(&memory), 2, usize::MAX).unwrap();
        assert_eq!((again.deltas, again.head), (whole.deltas, whole.head), "{:?}", f.recipe.lora);
        bytes
    };
    let [.., fa, _] = members().map(&state);
    let plain = state(LoraOptions::default());
    assert!(fa as f64 <= 0.75 * plain as f64, "{fa} of {plain} bytes, the head's among them");
}

/// Answers with the deltas beside the weights, read from an adapter file, and merged into them.
#[test]
fn every_member_serves_from_its_file_and_merged() {
    for lora in members() {
        let f = of_member(lora);
        let fitted = run_to(&f, 3, None, 2, usize::MAX).unwrap();
        let adapter = Adapter { sites: sorted(fitted.deltas.clone()), ..samples::adapter(0) };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("one.adapter");
        write_adapter(&RealDisk, &file, &adapter).unwrap();
        let read = AdapterFile::open(&file, None).unwrap().to_adapter();
        assert_eq!(read.sites, adapter.sites, "{:?}", f.recipe.lora);
        let examples: Vec<_> = f.training_examples.iter().take(4).map(|e| &e.example).collect();
        let rows = |variant: &Variant| f.engine.many(variant, &examples, 1, 4).unwrap().features;
        let key: SiteKey = read.sites.iter().map(|d| (d.name.clone(), d.rank as usize)).collect();
        let factors = Factors::of(&read.sites).unwrap();
        let beside = rows(&Variant::Adapted(&key, &factors));
        let merged = rows(&Variant::Merged(&Merged::new(&f.engine.base, read.sites.clone())));
        let base = rows(&Variant::Base);
        let apart = |x: &Array2<f32>| (&beside - x).iter().fold(0f32, |most, v| most.max(v.abs()));
        assert!(apart(&base) > 1e-3, "{:?} learned something", f.recipe.lora);
        assert!(apart(&merged) < 1e-4, "{:?}: {}", f.recipe.lora, apart(&merged));
    }
}

fn sorted(mut deltas: Vec<SiteDelta>) -> Vec<SiteDelta> {
    deltas.sort_by(|a, b| a.name.cmp(&b.name));
    deltas
}
