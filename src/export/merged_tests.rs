//! A merged file answers what its base answers with the deltas beside it, for every sort of site.

use std::path::Path;

use super::*;
use crate::adapter::samples::adapter;
use crate::error::Result;
use crate::gradcheck::{Options, random_deltas};
use crate::input::Example;
use crate::plan::{Batch, Deltas, Ends, Factors, ForwardPlan, Padding};

fn answers(base: &Base, deltas: &[crate::adapter::SiteDelta], examples: &[Example]) -> Result<Vec<f32>> {
    let bucket = base.bucket(examples.len(), crate::plan::sequence_length(base, &examples[0]));
    let wanted: Vec<(String, usize)> = deltas.iter().map(|d| (d.name.clone(), d.rank as usize)).collect();
    let plan = ForwardPlan::new(base, Ends::Model, &bucket, &Deltas::Inputs(&wanted))?;
    let rows: Vec<&Example> = examples.iter().collect();
    let outputs = plan.run_all(&Batch::new(base, &bucket, &rows, Padding::Exact)?, &Factors::of(deltas)?)?;
    Ok(outputs.iter().flat_map(|o| o.iter().copied()).collect())
}

/// The base of a golden, merged with random deltas.
fn check(kind: &str, name: &str, tolerance: f64) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/goldens/{kind}/{name}.zip"));
    let folder = tempfile::tempdir().unwrap();
    zip::ZipArchive::new(std::fs::File::open(file).unwrap()).unwrap().extract(&folder).unwrap();
    let path = folder.path().join("model.onnx");
    let base = Base::open(&path).unwrap();
    let task = base.guess_task().unwrap();
    let options = Options { batch: 2, sequence: 7, rank: 2, ..Options::default() };
    let (mut deltas, _) = random_deltas(&base, task, &options).unwrap();
    deltas.sort_by(|a, b| a.name.cmp(&b.name));
    let examples = base.random_examples(&base.bucket(2, 7), 1).unwrap();
    let wanted = answers(&base, &deltas, &examples).unwrap();
    let plain = answers(&base, &[], &examples).unwrap();
    let mut model = parse(&std::fs::read(&path).unwrap()).unwrap();
    let learned = Adapter { labels: vec![], sites: deltas, head: None, ..adapter(0) };
    write_in(&mut model, &base, task, &learned).unwrap();
    let merged = Base::from_bytes(&model.encode_to_vec(), &path).unwrap();
    let got = answers(&merged, &[], &examples).unwrap();
    let apart =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (*a as f64 - *b as f64).powi(2)).sum::<f64>().sqrt();
    let size = wanted.iter().map(|v| (*v as f64).powi(2)).sum::<f64>().sqrt();
    let (error, moved) = (apart(&got, &wanted) / size, apart(&plain, &wanted) / size);
    assert!(error < tolerance, "{name}: {error:.1e} apart");
    assert!(moved > 5.0 * tolerance, "{name}: the deltas change next to nothing: {moved:.1e}");
}

#[test]
fn recurrent_layers_of_one_and_of_both_directions() {
    for name in ["lstm", "gru", "rnn", "crnn", "crnn_bilstm", "crnn_lstm_dynamo"] {
        check("zoo", name, 1e-5);
    }
}

#[test]
fn transposed_and_other_convolutions() {
    for name in ["unet_transpose", "mobilenet_v3", "tcn"] {
        check("zoo", name, 1e-5);
    }
}

#[test]
fn weights_of_16_bits_are_rounded_again() {
    for name in ["bert_wide_f16", "ds_cnn_f16_whole", "vit_half"] {
        check("half", name, 2e-3);
    }
    check("half", "qwen2_bf16_dynamo", 2e-2);
}
