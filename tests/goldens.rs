//! Gradients against PyTorch: `tests/goldens` holds small models with adapters, inputs, cotangents and the gradients that
//! torch found in double precision (generators: `scripts/make_goldens.py` and, for the zoo, `scripts/golden_zoo.py`).
#![cfg(feature = "train")]

use std::collections::BTreeSet;
use std::path::Path;

use acclimate::adapter::{DenseTensor, SiteDelta, SiteKind};
use acclimate::base::Base;
use acclimate::gradcheck::gradients;
use acclimate::input::{ArrayData, Example, NamedArray, arrays};
use acclimate::inspect::{Options, inspect};
use ndarray::ArrayD;
use serde_json::Value;

const TOLERANCE: f64 = 1e-4;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Splits arrays with a batch dimension into one example a row.
fn rows(arrays: &[NamedArray]) -> Vec<Example> {
    let batch = arrays[0].shape[0];
    let row = |a: &NamedArray, i: usize| {
        let n: usize = a.shape[1..].iter().product();
        let data = match &a.data {
            ArrayData::F32(v) => ArrayData::F32(v[i * n..(i + 1) * n].to_vec()),
            ArrayData::I64(v) => ArrayData::I64(v[i * n..(i + 1) * n].to_vec()),
            other => panic!("unexpected {other:?}"),
        };
        NamedArray { name: a.name.clone(), shape: a.shape[1..].to_vec(), data }
    };
    (0..batch).map(|i| Example { arrays: arrays.iter().map(|a| row(a, i)).collect() }).collect()
}

fn floats(a: &NamedArray) -> ArrayD<f32> {
    let ArrayData::F32(v) = &a.data else { panic!("not floats") };
    ArrayD::from_shape_vec(a.shape.clone(), v.clone()).unwrap()
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

fn find(all: &[(String, DenseTensor)], name: &str) -> DenseTensor {
    all.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name} is missing")).1.clone()
}

fn relative(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(a, b)| *a as f64 - *b as f64));
    difference / norm(&mut want.iter().map(|b| *b as f64)).max(1e-30)
}

/// Checks the golden in `folder`: both backward forms against torch at every variant, and that no site was missed.
fn check(name: &str, folder: &Path, tolerance: f64) {
    let meta: Value = serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap();
    let own = folder.join("model.onnx");
    let model = if own.exists() { own } else { root().join(meta["model"].as_str().unwrap()) };
    let base = Base::open(&model).unwrap();
    let report = inspect(&model, &Options::default()).unwrap();
    let found: BTreeSet<&str> = report.sites.iter().map(|s| s.site.name.as_str()).collect();
    let listed: BTreeSet<&str> =
        meta["sites"].as_array().unwrap().iter().map(|s| s["name"].as_str().unwrap()).collect();
    assert_eq!(found, listed, "{name}: the sites found, and those of the golden; passed over: {:?}", report.skipped);
    let factors = tensors(&folder.join("adapter.safetensors"));
    let scale = meta["scale"].as_f64().unwrap() as f32;
    let deltas: Vec<SiteDelta> = meta["sites"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| {
            let site = s["name"].as_str().unwrap();
            let kind = if s["kind"] == "conv" { SiteKind::Conv } else { SiteKind::Linear };
            let (a, b) = (find(&factors, &format!("{site}.lora_A")), find(&factors, &format!("{site}.lora_B")));
            let rank = if kind == SiteKind::Conv { a.shape[0] } else { a.shape[1] };
            SiteDelta { name: site.to_string(), kind, rank: rank as u32, alpha: scale * rank as f32, a, b }
        })
        .collect();
    for variant in meta["variants"].as_object().unwrap().keys() {
        let load = |what: &str| arrays::read(&folder.join(format!("{what}.{variant}.npz"))).unwrap();
        let cotangents: Vec<ArrayD<f32>> = load("cotangent").iter().map(floats).collect();
        let wanted = tensors(&folder.join(format!("gradients.{variant}.safetensors")));
        for fused in [true, false] {
            let got =
                gradients(&base, rows(&load("inputs")), deltas.clone(), Some(cotangents.clone()), 0, fused).unwrap();
            for (out, want) in got.outputs.iter().zip(load("outputs")) {
                let error = relative(
                    &out.iter().copied().collect::<Vec<_>>(),
                    &floats(&want).iter().copied().collect::<Vec<_>>(),
                );
                assert!(error < 1e-5, "{name} {variant}: the adapted output is off by {error:.1e}");
            }
            let mut worst = (0.0, String::new());
            for (d, (ga, gb)) in got.deltas.iter().zip(&got.gradients) {
                for (part, g) in [("A", ga), ("B", gb)] {
                    let error = relative(g, &find(&wanted, &format!("{}.lora_{part}", d.name)).data);
                    // Not `>`: an error that is not a number is the worst.
                    if !(error <= worst.0) {
                        worst = (error, format!("{} {part}", d.name));
                    }
                }
            }
            println!(
                "{name} {variant} fused {fused}: {} sites, worst {:.1e} at {}",
                got.deltas.len(),
                worst.0,
                worst.1
            );
            assert!(worst.0 <= tolerance, "{name} {variant} fused {fused}: {:.1e} at {}", worst.0, worst.1);
        }
    }
}

macro_rules! goldens {
    ($($name:ident),*) => { $(#[test] fn $name() {
        let name = stringify!($name);
        check(name, &root().join("tests/goldens").join(name), TOLERANCE);
    })* };
}

goldens!(har_cnn, bert2, bert2_dynamo, effnet_tiny, conv_zoo, llama_tiny, llama_tiny_dynamo);

/// The architecture zoo: one line a golden of `tests/goldens/zoo`, each packed into one file.
macro_rules! zoo {
    ($tolerance:expr; $($name:ident),*) => {
        $(#[test] fn $name() {
            let name = stringify!($name);
            let folder = tempfile::tempdir().unwrap();
            let file = std::fs::File::open(root().join(format!("tests/goldens/zoo/{name}.zip"))).unwrap();
            zip::ZipArchive::new(file).unwrap().extract(&folder).unwrap();
            super::check(name, folder.path(), $tolerance);
        })*
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];
    };
}

mod zoo {
    use super::{TOLERANCE, root};
    zoo! { TOLERANCE;
        bert, bert_dynamo, distilbert, distilbert_dynamo, albert, roberta, electra, t5_encoder, gpt2, gpt2_dynamo, llama,
        qwen2, qwen2_dynamo, gemma
    }
}
