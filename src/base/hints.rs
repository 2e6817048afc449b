//! What to do about a model that cannot be used as it is: only what was tried and works.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use tract_onnx::pb::GraphProto;

use super::pins::{self, Pins};
use super::stored::{self, Parsed};
use super::{Base, Dim, Fingerprint, reload};
use crate::error::{Error, ErrorKind};

/// Sizes that are tried for what a model leaves open, and how many of its stored tensors' are tried as well.
const SIZES: [usize; 5] = [16, 64, 224, 512, 1];
const STORED: usize = 12;
const LARGEST: usize = 4096;
/// Values that are tried for settings and states.
const VALUES: [f64; 3] = [0.0, 1.0, 16000.0];
/// Longest that trying takes, as far as one load can tell.
const LONGEST: Duration = Duration::from_secs(10);
/// Length of the sequences that a pinned model is tried with.
const LENGTH: usize = 16;

/// `e`, for which the model at `path` was refused, with the pins that let it load, if there are any among those that are tried; `again` reads
/// the file once more.
pub(super) fn pins(e: Error, path: &Path, again: &dyn Fn() -> Option<Parsed>) -> Error {
    if e.kind() != ErrorKind::UnsupportedModel {
        return e;
    }
    let Some(parsed) = again() else { return e };
    let left = reload::left_open(&parsed.proto);
    let stored = parsed.proto.graph.as_ref().map(stored_sizes).unwrap_or_default();
    let sizes = likely(stored.into_iter().filter_map(|d| usize::try_from(d).ok()));
    drop(parsed);
    let candidates = candidates(&left, &sizes);
    if candidates.is_empty() {
        return e;
    }
    let started = Instant::now();
    let loads = |pins: &&Pins| started.elapsed() < LONGEST && again().is_some_and(|parsed| loads(parsed, pins, path));
    match candidates.iter().find(loads) {
        Some(pins) => e.hint(format!(
            "it loads with `acclimate pin MODEL{} --output F.onnx`, which was tried; other sizes and values may, too",
            pins.options()
        )),
        None if e.next_step().is_some() => e,
        None => e.hint(
            "no size or value that was tried for what it leaves open lets it load; try another opset or exporter",
        ),
    }
}

/// Sizes of the tensors that `graph` and the graphs within it store, as initializers or Constants.
fn stored_sizes(graph: &GraphProto) -> Vec<i64> {
    let mut sizes: Vec<i64> = graph.initializer.iter().flat_map(|t| t.dims.clone()).collect();
    for attribute in graph.node.iter().flat_map(|n| &n.attribute) {
        sizes.extend(attribute.t.iter().flat_map(|t| t.dims.clone()));
        sizes.extend(attribute.g.iter().chain(&attribute.graphs).flat_map(stored_sizes));
    }
    sizes
}

fn loads(mut parsed: Parsed, pins: &Pins, path: &Path) -> bool {
    let pinned = pins::apply(parsed.proto.graph.get_or_insert_default(), pins);
    let base = || Base::of_proto(Fingerprint::of(&[]), parsed, 0, path).ok();
    let open = |base: &Base| base.inputs.iter().flat_map(|p| &p.dims).any(|d| matches!(d, Dim::Open(_)));
    pinned.is_ok() && base().is_some_and(|base| !open(&base) && base.concrete(&base.bucket(1, LENGTH)).is_ok())
}

/// The options that make each of `inputs` a constant of zeros, if the model at `path` loads with them.
pub(super) fn zeroed(path: &Path, inputs: &[&str]) -> Option<String> {
    let parsed = stored::parse_bytes(&std::fs::read(path).ok()?).ok()?;
    let inputs = inputs.iter().map(|name| (name.to_string(), 0.0)).collect();
    let pins = Pins { inputs, ..Pins::default() };
    loads(parsed, &pins, path).then(|| pins.options())
}

/// Sizes to try in a model whose stored tensors have these.
pub(super) fn likely(stored: impl Iterator<Item = usize>) -> Vec<usize> {
    let stored: BTreeSet<usize> = stored.filter(|n| (2..=LARGEST).contains(n) && !SIZES.contains(n)).collect();
    SIZES.into_iter().chain(stored.into_iter().take(STORED)).collect()
}

/// What to try, the fewest pins first.
fn candidates(left: &reload::LeftOpen, sizes: &[usize]) -> Vec<Pins> {
    let dims = |names: &[String], n: usize| -> Vec<_> { names.iter().map(|name| (name.clone(), n)).collect() };
    let values = |v: f64| -> Vec<_> { left.settings.iter().map(|name| (name.clone(), v)).collect() };
    let (mut all, none) = (vec![], || Pins::default());
    for name in &left.sizes {
        all.extend(sizes.iter().map(|n| Pins { dims: vec![(name.clone(), *n)], ..none() }));
    }
    for name in &left.settings {
        all.extend(VALUES.map(|v| Pins { inputs: vec![(name.clone(), v)], ..none() }));
    }
    all.extend(left.batch.iter().map(|name| Pins { dims: vec![(name.clone(), 1)], ..none() }));
    let together = sizes.iter().map(|n| Pins { dims: dims(&left.sizes, *n), ..none() });
    all.extend(together.filter(|p| p.dims.len() > 1));
    all.extend(VALUES.map(|v| Pins { inputs: values(v), ..none() }).into_iter().filter(|p| p.inputs.len() > 1));
    let some = |any: bool, of: usize| if any { of } else { 1 };
    for v in VALUES.into_iter().take(some(!left.settings.is_empty(), VALUES.len())) {
        for &n in sizes.iter().take(some(!left.sizes.is_empty(), sizes.len())) {
            let both = Pins { dims: dims(&left.sizes, n), inputs: values(v), ..Pins::default() };
            let batch = left.batch.iter().map(|name| (name.clone(), 1));
            let batch = Pins {
                dims: both.dims.iter().cloned().chain(batch).collect(),
                inputs: both.inputs.clone(),
                ..Pins::default()
            };
            all.extend([both, batch].into_iter().filter(|p| p.dims.len() + p.inputs.len() > 1));
        }
    }
    all
}

/// `e` with the sizes to pin, all of `names` to the one that works.
pub(super) fn sizes(e: Error, names: &[&str], works: Option<usize>) -> Error {
    match works {
        Some(n) => {
            let pins = Pins { dims: names.iter().map(|name| (name.to_string(), n)).collect(), ..Pins::default() };
            e.hint(format!(
                "give each a size, that of your examples: `acclimate pin MODEL{} --output F.onnx` was tried and works",
                pins.options()
            ))
        }
        None => e.hint("no size that was tried makes it work; export the model with the sizes of your examples"),
    }
}
