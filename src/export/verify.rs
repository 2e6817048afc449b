//! A merged file is loaded again, and answers as the session does, before it gets its name.

use std::path::Path;
use std::sync::Arc;

use ndarray::Array2;

use crate::base::{Base, Task};
use crate::error::{Error, Result};
use crate::input::Example;
use crate::plan::{Engine, Rows, Variant};
use crate::runtime::Session;

/// Lengths at which a model with sequences is compared.
const LENGTHS: [usize; 2] = [5, 16];
/// Examples at each length.
const EXAMPLES: usize = 3;
/// Largest difference, relative to the largest answer or one: of floats of 32 bits, and where values are rounded to
/// fewer.
const TOLERANCE: f64 = 1e-3;
const ROUNDED: f64 = 0.05;

/// Compares the file at `path` with what the adapter of `session` answers beside the base, by itself: a file cannot
/// leave an answer to the base model; `rounds` says whether numbers are rounded.
///
/// # Errors
/// What loading the file says; `UnsupportedModel`, naming the output and the size of the difference, when it answers otherwise.
pub(super) fn answers_alike(path: &Path, session: &Session, rounds: bool) -> Result<()> {
    let serving = session.unmerged()?;
    let ours = &session.home().0.engine;
    let merged = Arc::new(Base::open(path)?);
    let task = if serving.head().is_some() { Task::Classification } else { ours.task };
    let theirs = Engine::new(merged.clone(), task, ours.pooling);
    let output = merged.onnx().outputs.first().cloned().unwrap_or_default();
    let tolerance = if rounds { ROUNDED } else { TOLERANCE };
    for example in examples(&ours.base)? {
        let rows = ours.one(&serving.variant(), &example)?;
        let wanted = serving.logits(&rows)?.unwrap_or(rows.features);
        let got = answer(theirs.one(&Variant::Base, &example)?);
        compare(&got, &wanted, tolerance).map_err(|why| {
            Error::unsupported("the merged file would not answer as the session does")
                .at(format!("the output {output:?}"))
                .because(why)
                .hint("keep serving with acclimate, which applies what was learned beside the model")
        })?;
    }
    Ok(())
}

fn examples(base: &Base) -> Result<Vec<Example>> {
    let lengths = if base.has_sequence() { &LENGTHS[..] } else { &LENGTHS[..1] };
    let mut all = vec![];
    for (seed, length) in (0u64..).zip(lengths) {
        all.extend(base.random_examples(&base.bucket(EXAMPLES, *length), seed)?);
    }
    Ok(all)
}

fn answer(rows: Rows) -> Array2<f32> {
    rows.logits.unwrap_or(rows.features)
}

/// Why two answers differ, if they do by more than `tolerance`.
pub(super) fn compare(got: &Array2<f32>, wanted: &Array2<f32>, tolerance: f64) -> std::result::Result<(), String> {
    if got.dim() != wanted.dim() {
        return Err(format!("it is of shape {:?}, not {:?}", got.dim(), wanted.dim()));
    }
    let largest = |values: &mut dyn Iterator<Item = f32>| values.map(f32::abs).fold(0f32, f32::max);
    let size = f64::from(largest(&mut wanted.iter().copied())).max(1.0);
    let apart = f64::from(largest(&mut got.iter().zip(wanted).map(|(a, b)| a - b)));
    // A difference that is no number is one, too.
    if apart <= tolerance * size && got.iter().all(|v| v.is_finite()) {
        return Ok(());
    }
    Err(format!("it differs by up to {apart:.3e}, where the largest answer is {size:.3e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::InitOptions;
    use crate::base::parse;
    use crate::error::ErrorKind;
    use crate::runtime::Home;
    use ndarray::array;
    use prost::Message;

    #[test]
    fn another_models_answers_are_refused_with_the_output_and_the_size() {
        let folder = tempfile::tempdir().unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/har_cnn.onnx");
        let home = Home::init(folder.path().join("home"), &InitOptions::new(&model)).unwrap();
        let session = home.session("p").unwrap();
        answers_alike(&model, &session, false).unwrap();
        let mut proto = parse(&std::fs::read(&model).unwrap()).unwrap();
        let stored = proto.graph.as_mut().unwrap().initializer.iter_mut().find(|t| t.dims.len() > 1).unwrap();
        let last = stored.raw_data.len() - 4;
        stored.raw_data[last..].copy_from_slice(&100f32.to_le_bytes());
        let other = folder.path().join("other.onnx");
        std::fs::write(&other, proto.encode_to_vec()).unwrap();
        let e = answers_alike(&other, &session, false).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::UnsupportedModel);
        let (place, said) = (e.place().unwrap_or_default(), e.to_string());
        assert!(place.contains(&home.base().onnx().outputs[0]) && said.contains("differs by up to"), "{e}");
    }

    #[test]
    fn a_difference_is_seen() {
        let wanted = array![[1.0f32, -20.0, 3.0]];
        assert!(compare(&array![[1.0, -20.01, 3.0]], &wanted, 1e-3).is_ok());
        let why = compare(&array![[1.0, -20.1, 3.0]], &wanted, 1e-3).unwrap_err();
        assert!(why.contains("1.000e-1") && why.contains("2.000e1"), "{why}");
        assert!(compare(&array![[1.0, f32::NAN, 3.0]], &wanted, 1e-3).is_err());
        let why = compare(&array![[1.0, -20.0]], &wanted, 1e-3).unwrap_err();
        assert!(why.contains("(1, 2), not (1, 3)"), "{why}");
    }
}
