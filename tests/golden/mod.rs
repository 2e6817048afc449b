//! Reading goldens: folders, or zips of `tests/goldens`.
#![allow(dead_code)]

use std::path::Path;

use acclimate::input::{ArrayData, Example, NamedArray};
use ndarray::ArrayD;
use tempfile::TempDir;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of `tests/goldens/KIND/NAME.zip`.
pub fn unpack(kind: &str, name: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let file = std::fs::File::open(root().join(format!("tests/goldens/{kind}/{name}.zip"))).unwrap();
    zip::ZipArchive::new(file).unwrap().extract(&folder).unwrap();
    folder
}

/// Splits arrays with a batch dimension into one example a row.
pub fn rows(arrays: &[NamedArray]) -> Vec<Example> {
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

pub fn floats(a: &NamedArray) -> ArrayD<f32> {
    let ArrayData::F32(v) = &a.data else { panic!("not floats") };
    ArrayD::from_shape_vec(a.shape.clone(), v.clone()).unwrap()
}

/// `|got - want| / |want|`.
pub fn relative(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut got.iter().zip(want).map(|(a, b)| *a as f64 - *b as f64));
    difference / norm(&mut want.iter().map(|b| *b as f64)).max(1e-30)
}
