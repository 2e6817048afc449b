//! Models that are brought into standard form answer as ONNX Runtime does (`scripts/golden_standard.py`).

use std::path::Path;

use tract_core::internal::*;

use super::super::{Base, Bucket, Pins, apply_pins, guarded};
use super::*;
use crate::error::ErrorKind;
use crate::input::{ArrayData, NamedArray, arrays};

fn unpacked() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/standard.zip");
    zip::ZipArchive::new(std::fs::File::open(file).unwrap()).unwrap().extract(&folder).unwrap();
    folder
}

fn tensor(array: &NamedArray) -> Tensor {
    let ArrayData::F32(values) = &array.data else { panic!("{} is not of floats", array.name) };
    Tensor::from_shape(&array.shape, values).unwrap()
}

/// Compares every output of `base` with what `name` expects for its inputs.
fn answers(base: &Base, folder: &Path, name: &str, tolerance: f32) {
    let arrays = arrays::read(&folder.join(format!("{name}.npz"))).unwrap();
    let given = |name: &str| tensor(arrays.iter().find(|a| a.name == name).unwrap());
    let inputs: TVec<Tensor> = base.inputs().iter().map(|p| given(&p.name)).collect();
    let typed = base.concrete(&Bucket { batch: inputs[0].shape()[0], sequence: 1, past: 0 }).unwrap();
    let results = guarded(ErrorKind::UnsupportedModel, "cannot run it", || {
        let plan = typed.into_decluttered()?.into_optimized()?.into_runnable()?;
        plan.run(inputs.into_iter().map(IntoTValue::into_tvalue).collect())
    });
    let expected: Vec<Tensor> = base.onnx().outputs.iter().map(|o| given(&format!("expected {o}"))).collect();
    let results = results.unwrap();
    assert_eq!(results.len(), expected.len(), "{name}");
    for (got, wanted) in results.iter().zip(&expected) {
        assert_eq!(got.shape(), wanted.shape(), "{name}");
        let (got, wanted) = (crate::sites::floats(got).unwrap(), crate::sites::floats(wanted).unwrap());
        let apart = got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(apart < tolerance, "{name}: {apart} apart");
    }
}

fn open(folder: &Path, name: &str) -> Base {
    Base::open(folder.join(format!("{name}.onnx"))).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn pipelines_of_scikit_learn() {
    let folder = unpacked();
    let linear =
        ["logistic", "logistic_words", "logistic_two", "logistic_imputed", "logistic_plain", "svc"].map(|n| (n, 1));
    let layers = [("mlp", 2), ("mlp_words", 2), ("mlp_two", 2), ("sgd", 1)];
    for (name, sites) in linear.into_iter().chain(layers) {
        let base = open(folder.path(), name);
        assert_eq!(base.outputs().len(), 1, "{name}: labels are no scores");
        answers(&base, folder.path(), name, 1e-5);
        let typed = base.concrete(&base.bucket(1, 1)).unwrap();
        let found = crate::sites::find(&typed, base.onnx()).unwrap().1;
        assert_eq!(found.sites.len(), sites, "{name}: {found:?}");
    }
}

#[test]
fn loops_of_a_known_count() {
    let folder = unpacked();
    for opset in [11, 13, 18] {
        for name in [format!("loop_counted_{opset}"), format!("loop_until_{opset}")] {
            answers(&open(folder.path(), &name), folder.path(), &name, 1e-5);
        }
    }
}

#[test]
fn a_loop_whose_count_is_not_known_is_refused() {
    let folder = unpacked();
    let mut proto = proto(folder.path(), "loop_counted_13");
    let graph = proto.graph.as_mut().unwrap();
    let steps = |t: &mut tract_onnx::pb::TensorProto, n: i64| (t.raw_data, t.int64_data) = (vec![], vec![n]);
    graph.initializer.iter_mut().filter(|t| t.name == "steps").for_each(|t| steps(t, 100_000));
    let before = proto.clone();
    assert_eq!(loops::unroll(&mut proto), 0);
    assert_eq!(proto, before, "what cannot be written out stays as it was");
    use prost::Message;
    let e = Base::from_bytes(&proto.encode_to_vec(), Path::new("long.onnx")).unwrap_err();
    assert!(e.to_string().contains("number of rounds"), "{e}");
}

#[test]
fn lstm_layers_of_dynamic_quantisation() {
    let folder = unpacked();
    for direction in ["forward", "reverse", "bidirectional"] {
        let name = format!("rounded_lstm_{direction}");
        let base = open(folder.path(), &name);
        // ONNX Runtime rounds the state to eight bits at every step.
        answers(&base, folder.path(), &name, 0.03);
        let typed = base.concrete(&base.bucket(1, 1)).unwrap();
        let found = crate::sites::find(&typed, base.onnx()).unwrap().1;
        assert!(found.sites.iter().any(|s| s.name.starts_with("lstm")), "{name}: {found:?}");
    }
}

#[test]
fn a_squeeze_of_all_axes_of_length_one() {
    let folder = unpacked();
    answers(&open(folder.path(), "squeezed"), folder.path(), "squeezed", 1e-5);
}

#[test]
fn axes_without_a_name_are_independent() {
    let folder = unpacked();
    let base = open(folder.path(), "nameless");
    let shown: Vec<String> = base.inputs()[0].dims.iter().map(|d| d.to_string()).collect();
    assert_eq!(shown, ["batch", "3", "x.2", "x.3"]);
    // The hint was tried, and names both.
    let e = base.concrete(&base.bucket(1, 1)).unwrap_err();
    let hint = e.next_step().unwrap();
    assert!(hint.contains("pin MODEL --dim x.2=16 --dim x.3=16 --output F.onnx"), "{hint}");
    let base = pinned(proto(folder.path(), "nameless"), &[("x.2", 8), ("x.3", 12)], &[]).unwrap();
    answers(&base, folder.path(), "nameless", 1e-5);
}

fn proto(folder: &Path, name: &str) -> ModelProto {
    super::super::parse(&std::fs::read(folder.join(format!("{name}.onnx"))).unwrap()).unwrap()
}

fn pinned(mut proto: ModelProto, dims: &[(&str, usize)], inputs: &[(&str, f64)]) -> crate::error::Result<Base> {
    let dims = dims.iter().map(|(name, n)| (name.to_string(), *n)).collect();
    let inputs = inputs.iter().map(|(name, v)| (name.to_string(), *v)).collect();
    apply_pins(proto.graph.as_mut().unwrap(), &Pins { dims, inputs, ..Pins::default() }).unwrap();
    use prost::Message;
    Base::from_bytes(&proto.encode_to_vec(), Path::new("pinned.onnx"))
}

#[test]
fn a_hint_names_what_was_tried_and_works() {
    let folder = unpacked();
    let e = Base::open(folder.path().join("loop_open.onnx")).unwrap_err();
    let hint = e.next_step().unwrap().to_string();
    assert!(hint.contains("pin MODEL --dim steps=16 --output F.onnx"), "{e}");
    let base = pinned(proto(folder.path(), "loop_open"), &[("steps", 6)], &[]).unwrap();
    answers(&base, folder.path(), "loop_open", 1e-5);
}

#[test]
fn a_state_that_nobody_feeds_is_refused_with_the_pin_that_works() {
    use super::super::decompose::tests::{input, int, ints, model, node};
    use tract_onnx::pb::tensor_shape_proto::dimension::Value;
    let batch = || Value::DimParam("batch".into());
    for lead in [2, 1] {
        let state = input("state", DataType::Float, &[Value::DimValue(lead), batch(), Value::DimValue(4)]);
        let x = input("x", DataType::Float, &[batch(), Value::DimValue(4)]);
        let nodes = vec![
            node("ReduceMean", &["state"], "carried", vec![ints("axes", &[0]), int("keepdims", 0)]),
            node("Add", &["x", "carried"], "y", vec![]),
        ];
        let whole = model(13, vec![x, state], vec![], nodes);
        use prost::Message;
        let e = Base::from_bytes(&whole.encode_to_vec(), Path::new("state.onnx")).unwrap_err();
        assert_eq!((e.kind(), e.place().unwrap().contains("state")), (ErrorKind::UnsupportedModel, true), "{e}");
        assert!(e.next_step().unwrap().contains("pin MODEL --input state=0 --output F.onnx"), "{e}");
        let base = pinned(whole, &[], &[("state", 0.0)]).unwrap();
        assert_eq!(base.inputs().len(), 1);
    }
}

#[test]
fn where_nothing_helps_no_pin_is_hinted() {
    use super::super::decompose::tests::{input, model, node};
    use tract_onnx::pb::tensor_shape_proto::dimension::Value;
    let open = |name: &str| Value::DimParam(name.into());
    let x = input("x", DataType::Float, &[open("batch"), open("length")]);
    let nodes = vec![node("NoSuchOperator", &["x"], "y", vec![])];
    use prost::Message;
    let bytes = model(13, vec![x], vec![], nodes).encode_to_vec();
    let e = Base::from_bytes(&bytes, Path::new("unknown.onnx")).unwrap_err();
    assert!(!e.next_step().unwrap_or_default().contains("pin"), "{e}");
}
