//! The ONNX project's own tests of single operators (`scripts/onnx_node_tests.py`): for each that the runtime reads, the values against those that
//! the test expects, and the gradient of its float inputs against central differences at the test's own values. What came of it is
//! `docs/onnx-node-tests.md`.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::base::{graph_of, guarded};
use crate::error::{ErrorKind, Result};
use crate::input::{ArrayData, NamedArray, arrays};

/// What came of a case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    Agrees,
    /// A rounding that passes the gradient straight through: differences would see steps.
    Straight,
    None,
    Refused,
    Unread,
}

pub(super) struct Case {
    model: TypedModel,
    sources: Vec<OutletId>,
    outputs: Vec<OutletId>,
    values: Vec<Tensor>,
    /// What the test expects of each output, unless it is of another type there.
    expected: Vec<Option<Tensor>>,
}

/// The array called `name`, if it is one of floats.
fn floats_of(arrays: &[NamedArray], name: &str) -> TractResult<Tensor> {
    let array = arrays.iter().find(|a| a.name == name).with_context(|| format!("no values for {name}"))?;
    let ArrayData::F32(values) = &array.data else { bail!("{name} is not of floats") };
    Tensor::from_shape(&array.shape, values)
}

impl Case {
    pub(super) fn read(folder: &Path, name: &str) -> Result<Case> {
        let bytes = std::fs::read(folder.join(format!("{name}.onnx"))).unwrap();
        let arrays = arrays::read(&folder.join(format!("{name}.npz"))).unwrap();
        let listed = crate::base::parse(&bytes)?.graph.unwrap().output;
        let mut model = graph_of(&bytes)?;
        guarded(ErrorKind::UnsupportedModel, "cannot read it", || {
            model.declutter()?;
            crate::ops::fuse(&mut model)?;
            let float = |o: &OutletId| model.outlet_fact(*o).is_ok_and(|f| f.datum_type == f32::datum_type());
            let named = model.outputs.iter().zip(&listed).filter(|(o, _)| float(o));
            let (outputs, expected): (Vec<OutletId>, Vec<Option<Tensor>>) =
                named.map(|(o, v)| (*o, floats_of(&arrays, &format!("expected {}", v.name)).ok())).unzip();
            let open = |o: &OutletId| model.outlet_fact(*o).is_ok_and(|f| !f.shape.is_concrete());
            ensure!(!outputs.is_empty() && !outputs.iter().any(open), "no float output of a definite shape");
            let values = model.inputs.iter().map(|o| floats_of(&arrays, &model.node(o.node).name));
            Ok(Case {
                values: values.collect::<TractResult<_>>()?,
                expected,
                sources: model.inputs.clone(),
                outputs,
                model: model.clone(),
            })
        })
    }

    /// The outputs for `values`, and more outlets.
    fn run(&self, values: &[Tensor], more: &[OutletId]) -> Result<Vec<Tensor>> {
        guarded(ErrorKind::UnsupportedModel, "cannot run it", || {
            let mut model = self.model.clone();
            let outputs: Vec<OutletId> = self.outputs.iter().chain(more).copied().collect();
            model.select_output_outlets(&outputs)?;
            let plan = model.into_optimized()?.into_runnable()?;
            let results = plan.run(values.iter().map(|t| t.clone().into_tvalue()).collect())?;
            Ok(results.into_iter().map(|t| t.into_tensor()).collect())
        })
    }

    /// Where the values differ from what the test expects.
    pub(super) fn wrong_value(&self) -> Result<Option<String>> {
        for (ix, (y, expected)) in self.run(&self.values, &[])?.iter().zip(&self.expected).enumerate() {
            let Some(expected) = expected else { continue };
            if y.shape() != expected.shape() {
                return Ok(Some(format!("output {ix} is of shape {:?}, not {:?}", y.shape(), expected.shape())));
            }
            let (ys, es) = (crate::ops::floats(y).unwrap(), crate::ops::floats(expected).unwrap());
            let same = |y: f32, e: f32| match e {
                _ if e.abs() == f32::MAX => y == f32::INFINITY.copysign(e),
                _ if e == f32::MAX / 2.0 => y.is_nan(),
                _ => (y - e).abs() <= 1e-3 * e.abs() + 1e-5,
            };
            if let Some(at) = ys.iter().zip(es).position(|(y, e)| !same(*y, *e)) {
                return Ok(Some(format!("place {at} of output {ix} is {}, not {}", ys[at], es[at])));
            }
        }
        Ok(None)
    }

    /// Largest disagreement of `back` with central differences at `values`, relative to one plus their size; none where the function or
    /// its gradient is not finite.
    fn disagreement(&self, back: &Backward, values: &[Tensor]) -> Result<Option<f64>> {
        let finite = |t: &Tensor| crate::ops::floats(t).is_ok_and(|v| v.iter().all(|x| x.is_finite()));
        let mut results = self.run(values, &back.saved)?;
        let saved = results.split_off(self.outputs.len());
        // An infinity that stays one is no part of the sum.
        let cotangents: Vec<Tensor> = (70u64..)
            .zip(&results)
            .map(|(seed, y)| {
                let (ys, c) = (crate::ops::floats(y).unwrap(), random(y.shape(), -1.0, 1.0, seed));
                let c = crate::ops::floats(&c).unwrap().iter().zip(ys);
                let c: Vec<f32> = c.map(|(c, y)| if y.is_infinite() { 0.0 } else { *c }).collect();
                Tensor::from_shape(y.shape(), &c).unwrap()
            })
            .collect();
        results.iter_mut().for_each(tame);
        let gradients = guarded(ErrorKind::UnsupportedModel, "cannot run its gradient", || {
            let plan = back.model.clone().into_optimized()?.into_runnable()?;
            plan.run(cotangents.iter().chain(&saved).map(|t| t.clone().into_tvalue()).collect())
        })?;
        if !results.iter().all(finite) || !gradients.iter().all(|g| finite(g)) {
            return Ok(None);
        }
        let mut worst = 0f64;
        for (slot, gradient) in gradients.iter().enumerate().filter(|(slot, _)| !back.is_incomplete(*slot)) {
            let v = random(values[slot].shape(), -1.0, 1.0, 1000 + slot as u64);
            let at = |h: f32| -> Result<f64> {
                let mut values = values.to_vec();
                values[slot] = moved(&values[slot], &v, h);
                let mut results = self.run(&values, &[])?;
                results.iter_mut().for_each(tame);
                Ok(results.iter().zip(&cotangents).map(|(y, c)| dot(y, c)).sum())
            };
            let expected = dot(gradient, &v);
            let mut best = f64::INFINITY;
            // Steps that the size of the values still lets through.
            let size = crate::ops::floats(&values[slot]).unwrap().iter().fold(1f32, |m, v| m.max(v.abs()));
            for step in [5e-4, 3e-3, 1e-4].map(|s| if size > 100.0 { s * size / 50.0 } else { s }) {
                let slope = (at(step)? - at(-step)?) / (2.0 * f64::from(step));
                best = best.min((slope - expected).abs() / (1.0 + slope.abs().max(expected.abs())));
            }
            worst = worst.max(best);
        }
        Ok(Some(worst))
    }
}

/// Infinities become zeros.
fn tame(y: &mut Tensor) {
    let values: Vec<f32> =
        crate::ops::floats(y).unwrap().iter().map(|v| if v.is_infinite() { 0.0 } else { *v }).collect();
    *y = Tensor::from_shape(y.shape(), &values).unwrap();
}

/// The outcome of a case, and why if that needs saying. A gradient that is not the function's is a failure of the test.
fn look(folder: &Path, name: &str, wrong: &mut Vec<String>) -> (Found, String) {
    let case = match Case::read(folder, name) {
        Ok(case) => case,
        Err(e) => return (Found::Unread, e.to_string()),
    };
    match case.wrong_value() {
        Ok(None) => {}
        Ok(Some(why)) => wrong.push(format!("{name}: {why}")),
        Err(e) => return (Found::Unread, e.to_string()),
    }
    let back = match guarded(ErrorKind::Internal, "no gradient", || {
        differentiate(&case.model, &case.outputs, &case.sources, true)
    }) {
        Ok(back) => back,
        Err(e) => {
            wrong.push(format!("{name}: {e}"));
            return (Found::Refused, String::new());
        }
    };
    if let Some(blocked) = back.blocked.first() {
        return (Found::Refused, format!("{}: {}", blocked.op, blocked.reason));
    }
    let rounds = ["AcclimateRound", "RoundStraight", "Quantise"];
    if case.model.nodes().iter().any(|n| rounds.contains(&&*n.op.name())) {
        return (Found::Straight, String::new());
    }
    if (0..back.reached.len()).all(|ix| back.is_incomplete(ix)) {
        return (Found::None, String::new());
    }
    // Beside the test's own values, which love ties and corners; at those, where the neighbourhood leaves the function's domain.
    let beside: Vec<Tensor> = (0u64..)
        .zip(&case.values)
        .map(|(i, x)| {
            let noise = random(x.shape(), -0.02, 0.02, 500 + i);
            let (x, noise) = (crate::ops::floats(x).unwrap(), crate::ops::floats(&noise).unwrap());
            let values: Vec<f32> = x.iter().zip(noise).map(|(x, n)| x + n * x.abs().max(0.5)).collect();
            Tensor::from_shape(case.values[i as usize].shape(), &values).unwrap()
        })
        .collect();
    let mut worst = vec![];
    for values in [&beside, &case.values] {
        match case.disagreement(&back, values) {
            Ok(Some(error)) if error < 1e-2 => return (Found::Agrees, String::new()),
            Ok(error) => worst.push(error),
            Err(e) if e.what().starts_with("cannot run it") && !e.what().contains("gradient") => {
                return (Found::Unread, e.to_string());
            }
            Err(e) => {
                wrong.push(format!("{name}: {e}"));
                return (Found::Refused, String::new());
            }
        }
    }
    if worst.iter().all(Option::is_none) {
        return (Found::None, "its results are not finite".into());
    }
    wrong.push(format!("{name}: apart by {worst:?}"));
    (Found::Refused, String::new())
}

/// The archive of cases called `file`, unpacked, and the names of its cases in order.
pub(super) fn unpacked(file: &str) -> (tempfile::TempDir, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(file);
    zip::ZipArchive::new(std::fs::File::open(archive).unwrap()).unwrap().extract(&folder).unwrap();
    let entries = std::fs::read_dir(&folder).unwrap();
    let mut names: Vec<String> =
        entries.filter_map(|e| e.unwrap().file_name().to_str()?.strip_suffix(".onnx").map(str::to_string)).collect();
    names.sort();
    (folder, names)
}

#[test]
fn onnx_node_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (folder, names) = unpacked("nodes.zip");
    let (mut table, mut reasons, mut wrong) = (BTreeMap::new(), BTreeMap::new(), vec![]);
    for name in &names {
        let op = crate::base::parse(&std::fs::read(folder.path().join(format!("{name}.onnx"))).unwrap()).unwrap();
        let op = op.graph.unwrap().node[0].op_type.clone();
        let (found, reason) = look(folder.path(), name, &mut wrong);
        table.entry(op.clone()).or_insert([0; 5])[found as usize] += 1;
        if !reason.is_empty() {
            reasons.entry((op, found)).or_insert_with(|| (name.clone(), reason));
        }
    }
    let page = page(&table, &reasons);
    let file = root.join("docs/onnx-node-tests.md");
    if std::env::var_os("UPDATE_DOCS").is_some_and(|v| v == "1") {
        std::fs::write(&file, &page).unwrap();
    }
    assert!(wrong.is_empty(), "{} of {} cases are wrong:\n{}", wrong.len(), names.len(), wrong.join("\n"));
    let current = std::fs::read_to_string(&file).unwrap_or_default() == page;
    assert!(
        current,
        "docs/onnx-node-tests.md is not current; write it with UPDATE_DOCS=1 cargo test --lib onnx_node_tests"
    );
}

type Reasons = BTreeMap<(String, Found), (String, String)>;

fn page(table: &BTreeMap<String, [usize; 5]>, reasons: &Reasons) -> String {
    let total = |at: usize| table.values().map(|row| row[at]).sum::<usize>();
    let ops = |holds: &dyn Fn(&[usize; 5]) -> bool| table.values().filter(|row| holds(row)).count();
    let mut page = format!(
        "# The ONNX project's tests of single operators\n\
         \n\
         This page is generated by `UPDATE_DOCS=1 cargo test --lib onnx_node_tests`. Do not edit it.\n\
         \n\
         The cases come from the package `onnx`. They go from floats to floats; doubles are made single.\n\
         `scripts/onnx_node_tests.py` packs them and leaves out the twins that spell a function out.\n\
         \n\
         Every case is loaded:\n\
         \n\
         - Its values are compared with the expected ones, to 0.1 %. No case is read and gets them wrong.\n\
         - Its gradient is compared with central differences at the values of the test, or just beside them.\n\
         \n\
         The columns count cases:\n\
         \n\
         - *agrees*: the gradient agrees to 1 %.\n\
         - *straight*: a quantisation, whose gradient is taken straight through.\n\
         - *none*: no gradient flows back, and that is correct (a rounding, an index, a stored weight).\n\
         - *refused*: this form has no rule. A layer before it would not train, and `inspect` says so.\n\
         - *not read*: a model with the operator in this form is refused, for training and for prediction.\n\
         \n\
         {} cases of {} operators: {} agree, {} pass straight through, {} have no gradient, {} are refused, {} are not read.\n\
         \n\
         {} operators have a gradient in every case that is read, {} in some, {} in none.\n\
         \n\
         | operator | agrees | straight | none | refused | not read |\n|---|---|---|---|---|---|\n",
        (0..5).map(total).sum::<usize>(),
        table.len(),
        total(0),
        total(1),
        total(2),
        total(3),
        total(4),
        ops(&|r| r[0] + r[1] > 0 && r[3] == 0),
        ops(&|r| r[0] + r[1] > 0 && r[3] > 0),
        ops(&|r| r[0] + r[1] == 0),
    );
    let cell = |n: usize| if n == 0 { String::new() } else { n.to_string() };
    for (op, row) in table {
        let cells: Vec<String> = row.iter().map(|n| cell(*n)).collect();
        page += &format!("| {op} | {} |\n", cells.join(" | "));
    }
    page += "\nThe first reason of each kind:\n\n";
    for ((op, _), (name, reason)) in reasons.iter().filter(|((_, found), _)| *found >= Found::Refused) {
        let line = reason.lines().next().unwrap_or_default();
        let short: String = line.chars().take(160).collect();
        page += &format!("- {op}, `{name}`: {}\n", short.replace('|', "\\|"));
    }
    page
}
