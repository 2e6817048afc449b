//! Quantised bases: what ONNX Runtime answers is answered, every float site is a site, and its straight-through gradient
//! points where that of the float model does (generator: `scripts/golden_quantised.py`).
#![cfg(feature = "train")]

mod golden;

use acclimate::adapter::{DenseTensor, SiteDelta};
use acclimate::base::Base;
use acclimate::input::arrays;
use acclimate::tools::gradcheck::{Passes, gradients};
use acclimate::tools::inspect::{Options, inspect};
use golden::{floats, relative, rows, unpack};

/// A delta of nothing: B is zero, so that the base answers and only B's gradient is not zero.
fn nothing(site: &acclimate::sites::Site) -> SiteDelta {
    let dense = |shape: Vec<usize>, fill: &dyn Fn(usize) -> f32| DenseTensor {
        data: (0..shape.iter().product()).map(fill).collect(),
        shape,
    };
    SiteDelta {
        name: site.name.clone(),
        kind: site.kind,
        rank: 1,
        alpha: 1.0,
        a: dense(site.a_shape(1), &|i| ((i * 7 % 11) as f32 - 5.0) / 10.0),
        b: dense(site.b_shape(1), &|_| 0.0),
    }
}

/// `tolerance` is that of the answers; `alike` is the least cosine between the gradients of a site in both models, which differ by what
/// the quantisation loses.
fn check(name: &str, tolerance: f64, alike: f64, sites: &dyn Fn(&str) -> String) {
    let folder = unpack("quantised", name);
    let meta: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("meta.json")).unwrap()).unwrap();
    let model = folder.path().join("model.onnx");
    let report = inspect(&model, &Options::default()).unwrap();
    assert!(report.unreachable.is_empty(), "{name}: {:?}", report.unreachable);
    let original = unpack("zoo", meta["float"].as_str().unwrap());
    let float_model = original.path().join("model.onnx");
    let listed = inspect(&float_model, &Options::default()).unwrap();
    let inputs = arrays::read(&folder.path().join("inputs.b3.npz")).unwrap();
    let answer = arrays::read(&folder.path().join("outputs.b3.npz")).unwrap();
    let run = |path: &std::path::Path, report: &acclimate::tools::inspect::Report| {
        let deltas = report.sites.iter().map(|s| nothing(&s.site)).collect();
        gradients(&Base::open(path).unwrap(), rows(&inputs), deltas, None, 7, Passes::Fused).unwrap()
    };
    let (quantised, float) = (run(&model, &report), run(&float_model, &listed));
    let got: Vec<f32> = quantised.outputs[0].iter().copied().collect();
    let error = relative(&got, floats(&answer[0]).as_slice().unwrap());
    println!("{name}: {} sites, answers off by {error:.1e}", report.sites.len());
    assert!(error < tolerance, "{name}: the answers are off by {error:.1e}");
    for (delta, (_, gradient)) in float.deltas.iter().zip(&float.gradients) {
        let twin = sites(&delta.name);
        let at = quantised.deltas.iter().position(|d| d.name == twin);
        let at = at.unwrap_or_else(|| panic!("{name}: {twin} is no site; passed over: {:?}", report.skipped));
        let other = &quantised.gradients[at].1;
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| *a as f64 * *b as f64).sum::<f64>();
        let cosine = dot(gradient, other) / (dot(gradient, gradient) * dot(other, other)).sqrt();
        assert!(cosine > alike, "{name}: the gradient of {twin} points elsewhere: cosine {cosine:.3}");
    }
}

macro_rules! quantised {
    ($($name:ident, $tolerance:expr, $alike:expr, $sites:expr;)*) => {
        $(#[test] fn $name() { check(stringify!($name), $tolerance, $alike, &$sites); })*
    };
}

// The runtime sums in floats what ONNX Runtime sums in integers: a value on the edge between two steps may fall on either side.
quantised! {
    ds_cnn_qdq, 2e-2, 0.9, |site| site.to_string();
    ds_cnn_qoperator, 2e-2, 0.9, |site| format!("{site}_quant");
    squeezenet_qdq, 2e-2, 0.9, |site| site.to_string();
    vit_qdq, 2e-2, 0.9, |site| site.to_string();
    bert_dynamic, 2e-2, 0.9, |site| format!("{site}_quant");
    bert_int8, 1e-5, 0.9, |site| site.to_string();
    bert_int4, 1e-5, 0.7, |site| site.to_string();
    // Wide enough for weights that stay narrow in memory.
    bert_wide_dynamic, 2e-2, 0.9, |site| format!("{site}_quant");
    bert_wide_int8, 1e-5, 0.9, |site| site.to_string();
    bert_wide_int4, 1e-5, 0.7, |site| site.to_string();
    bert_wide_scaled, 1e-5, 0.9, |site| site.to_string();
    mobilenet_v2_qoperator, 2e-2, 0.6, |site| format!("{site}_quant");
    // Kernels of several taps and recurrent layers, wide enough too.
    kernels_qdq, 2e-2, 0.9, |site| site.to_string();
    kernels_qoperator, 2e-2, 0.9, |site| if site.contains("Conv") && !site.contains("Transpose") || site.contains("Gemm") { format!("{site}_quant") } else { site.to_string() };
    kernels_whole, 1e-5, 0.9, |site| site.to_string();
}

/// What a model holds of its weights: as many bytes as its file, but for what is too small and for the state weights of recurrent layers.
#[test]
fn weights_stay_narrow_in_memory() {
    let bytes = |kind: &str, name: &str| {
        Base::open(unpack(kind, name).path().join("model.onnx")).unwrap().weight_bytes() as f64
    };
    let float = bytes("zoo", "kernels");
    for (kind, name, share) in [("half", "kernels_f16", 0.62), ("quantised", "kernels_whole", 0.45)] {
        let narrow = bytes(kind, name) / float;
        println!("{name}: {narrow:.2} of the memory of f32");
        assert!(narrow < share, "{name} takes {narrow:.2} of the memory of f32");
    }
}
