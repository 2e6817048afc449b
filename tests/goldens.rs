//! Gradients against PyTorch: `tests/goldens` holds small models with adapters, inputs, cotangents and the gradients that
//! torch found in double precision (generators: `scripts/make_goldens.py` and, for the zoo, `scripts/golden_zoo.py`).
#![cfg(feature = "train")]

mod golden;

use std::collections::BTreeSet;
use std::path::Path;

use acclimate::adapter::{DenseTensor, SiteDelta, SiteKind};
use acclimate::base::Base;
use acclimate::input::arrays;
use acclimate::tools::gradcheck::{Passes, gradients};
use acclimate::tools::inspect::{Options, inspect};
use golden::{floats, relative, root, rows, unpack};
use ndarray::ArrayD;
use serde_json::Value;

const TOLERANCE: f64 = 1e-4;
const ANSWERS: f64 = 1e-5;
/// How far the fused backward pass may be from the composed one.
const FUSED: f64 = 1e-5;

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

/// Checks the golden in `folder`: both backward forms against torch at every variant, answers to `answers` and gradients to `tolerance`, and
/// that no site was missed.
fn check(name: &str, folder: &Path, answers: f64, tolerance: f64) {
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
            let kind = match s["kind"].as_str() {
                Some("conv") => SiteKind::Conv,
                Some("conv_transpose") => SiteKind::ConvTranspose,
                _ => SiteKind::Linear,
            };
            let (a, b) = (find(&factors, &format!("{site}.lora_A")), find(&factors, &format!("{site}.lora_B")));
            let rank = if kind == SiteKind::Conv { a.shape[0] } else { a.shape[1] };
            SiteDelta { name: site.to_string(), kind, rank: rank as u32, alpha: scale * rank as f32, a, b }
        })
        .collect();
    for variant in meta["variants"].as_object().unwrap().keys() {
        let load = |what: &str| arrays::read(&folder.join(format!("{what}.{variant}.npz"))).unwrap();
        let cotangents: Vec<ArrayD<f32>> = load("cotangent").iter().map(floats).collect();
        let wanted = tensors(&folder.join(format!("gradients.{variant}.safetensors")));
        let mut composed: Option<Vec<(Vec<f32>, Vec<f32>)>> = None;
        for passes in [Passes::Composed, Passes::Fused, Passes::Checkpointed] {
            let got =
                gradients(&base, rows(&load("inputs")), deltas.clone(), Some(cotangents.clone()), 0, passes).unwrap();
            for (out, want) in got.outputs.iter().zip(load("outputs")) {
                let error = relative(
                    &out.iter().copied().collect::<Vec<_>>(),
                    &floats(&want).iter().copied().collect::<Vec<_>>(),
                );
                assert!(error < answers, "{name} {variant}: the adapted output is off by {error:.1e}");
            }
            let mut worst = (0.0, String::new());
            for (d, (ga, gb)) in got.deltas.iter().zip(&got.gradients) {
                for (part, g) in [("A", ga), ("B", gb)] {
                    let error = relative(g, &find(&wanted, &format!("{}.lora_{part}", d.name)).data);
                    // An error that is not a number is the worst.
                    if error > worst.0 || error.is_nan() {
                        worst = (error, format!("{} {part}", d.name));
                    }
                }
            }
            println!("{name} {variant} {passes:?}: {} sites, worst {:.1e} at {}", got.deltas.len(), worst.0, worst.1);
            assert!(worst.0 <= tolerance, "{name} {variant} {passes:?}: {:.1e} at {}", worst.0, worst.1);
            match &composed {
                None => composed = Some(got.gradients),
                Some(composed) => {
                    let parts = got.gradients.iter().zip(composed).flat_map(|(f, c)| [(&f.0, &c.0), (&f.1, &c.1)]);
                    let apart = parts.map(|(f, c)| relative(f, c)).fold(0.0, f64::max);
                    println!("{name} {variant}: {passes:?} and composed {apart:.1e} apart");
                    assert!(apart <= FUSED, "{name} {variant}: {passes:?} and composed are {apart:.1e} apart");
                }
            }
        }
    }
}

macro_rules! goldens {
    ($($name:ident),*) => { $(#[test] fn $name() {
        let name = stringify!($name);
        check(name, &root().join("tests/goldens").join(name), ANSWERS, TOLERANCE);
    })* };
}

goldens!(har_cnn, bert2, bert2_dynamo, effnet_tiny, conv_zoo, llama_tiny, llama_tiny_dynamo);

/// The architecture zoo: one line a golden of `tests/goldens/zoo`, each packed into one file.
macro_rules! zoo {
    ($kind:literal, $answers:expr, $tolerance:expr; $($name:ident),*) => {
        $(#[test] fn $name() {
            let name = stringify!($name);
            let folder = super::unpack($kind, name);
            super::check(name, folder.path(), $answers, $tolerance);
        })*
    };
}

mod zoo {
    use super::{ANSWERS, TOLERANCE};
    zoo! { "zoo", ANSWERS, TOLERANCE;
        bert, bert_dynamo, bert_wide, distilbert, distilbert_dynamo, albert, roberta, deberta_v2, deberta_v2_dynamo, electra, mpnet,
        t5_encoder, gpt2, gpt2_dynamo, llama, qwen2, qwen2_dynamo, gemma, gemma2_dynamo, mistral, phi, phi_dynamo,
        modernbert_dynamo, clip_text, clip_text_dynamo,
        vit, vit_dynamo, deit, swin, convnext, convnext_dynamo, clip_vision,
        resnet, resnet_bottleneck_dynamo, mobilenet_v1, mobilenet_v2, mobilenet_v3, mobilenet_v3_dynamo, efficientnet,
        efficientnet_dynamo, shufflenet_v2, squeezenet, densenet, regnet, mnasnet, ghostnet,
        unet_transpose, unet_bilinear, unet_corners_dynamo, unet_nearest_dynamo, unet_shuffle,
        tcn, tcn_dynamo, ds_cnn, wav2vec2, wav2vec2_stable, whisper_encoder, pointnet, volume, activations,
        activations_dynamo, tf_cnn, tf_keywords, tf_attention, tf_upsample, paddle_cnn, paddle_attention
    }
    // 1.2e-4 on one processor and 2.3e-4 on another, by the order in which their kernels sum: 90 sites deep, in single
    // precision.
    zoo! { "zoo", ANSWERS, 4.0 * TOLERANCE; mobilevit_dynamo }
}

mod recurrent {
    use super::ANSWERS;
    zoo! { "zoo", ANSWERS, 1e-3; kernels, crnn, crnn_bilstm, crnn_lstm_dynamo, lstm, gru, rnn }
}

/// Weights, and some inputs, of 16 bits; the reference is torch in double precision with the same rounded weights. What remains is that exporters
/// round the graph's numbers, too: the scale of attention, the epsilon of a norm.
mod half {
    zoo! { "half", 1e-4, 1e-3; bert_wide_f16, ds_cnn_f16_whole, squeezenet_half, vit_half, crnn_f16, kernels_f16 }
}

mod brain_float {
    zoo! { "half", 2e-3, 1e-2; bert_wide_bf16_dynamo, qwen2_bf16_dynamo }
}
