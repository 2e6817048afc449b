//! The passes from a concrete typed graph to the graphs that are compiled, in order:
//! concretise → find the tail → insert or merge the deltas → declutter → (differentiate) → optimise.

use std::collections::HashSet;

use tract_core::internal::*;

use super::declutter::declutter;
use crate::adapter::{SiteDelta, SiteKind};
use crate::base::{Base, Bucket, Task, find_tail, guarded};
use crate::error::{Error, ErrorKind, Result};
use crate::input::Role;
use crate::ops::{constant, hold_strides};
use crate::sites::{Found, Site, SiteTable, Skipped, find, floats, insert, last_block};

/// What the runtime knows of a model's sites at some bucket.
pub(crate) struct Survey {
    pub table: SiteTable,
    /// For each site: whether it lies in the last block.
    pub last_block: Vec<bool>,
    /// For each site: multiply-accumulates of its frozen product at the bucket.
    pub macs: Vec<u64>,
    /// Name of the classifier's site, which the head replaces.
    pub classifier: Option<String>,
    /// Feature width, and number of base classes (0 for an encoder).
    pub features: usize,
    pub classes: usize,
    /// Shape of the features is `[batch, sequence, features]`.
    pub sequence: bool,
}

/// Looks at the model without compiling anything.
pub(crate) fn survey(base: &Base, task: Task, bucket: &Bucket) -> Result<Survey> {
    let mut model = base.concrete(bucket)?;
    let tail = find_tail(base, &mut model, task)?;
    let (features, classes, sequence) = tail_shape(&model, tail.features, tail.logits)?;
    let (found, table) = find_sites(&model, base)?;
    let body: Vec<&Found> = found.iter().filter(|f| Some(f.node) != tail.classifier).collect();
    let block = guarded(ErrorKind::Internal, "cannot find the last block", || last_block(&model, &body))?;
    let in_block = |f: &Found| body.iter().position(|b| b.node == f.node).is_some_and(|i| block[i]);
    Ok(Survey {
        last_block: found.iter().map(in_block).collect(),
        macs: found.iter().map(Found::macs).collect(),
        classifier: found.iter().find(|f| Some(f.node) == tail.classifier).map(|f| f.site.name.clone()),
        table,
        features,
        classes,
        sequence,
    })
}

pub(super) fn find_sites(model: &TypedModel, base: &Base) -> Result<(Vec<Found>, SiteTable)> {
    guarded(ErrorKind::UnsupportedModel, "cannot look for sites", || {
        let (mut found, mut table) = find(model, base.onnx())?;
        // What positions and masks alone lead to, such as the angles of rotary embeddings, says nothing of the input.
        let told = |id: usize| {
            let ports = base.inputs().iter().zip(base.roles());
            let role = ports.into_iter().find(|(port, _)| port.name == model.node(id).name).map(|(_, role)| *role);
            !matches!(role, Some(Role::Positions | Role::Mask))
        };
        let told: Vec<OutletId> = model.inputs.iter().filter(|input| told(input.node)).copied().collect();
        let reached = dependents(model, &model.eval_order()?, &told);
        let blind: Vec<String> =
            found.iter().filter(|f| !reached.contains(&f.node)).map(|f| f.site.name.clone()).collect();
        found.retain(|f| !blind.contains(&f.site.name));
        table.sites.retain(|site| !blind.contains(&site.name));
        table.skipped.extend(blind.into_iter().map(|name| Skipped {
            op: base.onnx().nodes.iter().find(|n| n.name == name).map_or_else(String::new, |n| n.op.clone()),
            reason: "it reads positions, and nothing of the input".into(),
            name,
        }));
        Ok((found, table))
    })
}

/// What depends on `roots`: nodes, the roots' own among them.
pub(super) fn dependents(model: &TypedModel, order: &[usize], roots: &[OutletId]) -> HashSet<usize> {
    let mut found: HashSet<usize> = roots.iter().map(|root| root.node).collect();
    for &id in order {
        if model.node(id).inputs.iter().any(|i| found.contains(&i.node)) {
            found.insert(id);
        }
    }
    found
}

fn tail_shape(model: &TypedModel, features: OutletId, logits: Option<OutletId>) -> Result<(usize, usize, bool)> {
    let dims = |o: OutletId| {
        let fact = model.outlet_fact(o).ok();
        fact.and_then(|f| f.shape.as_concrete().map(|s| s.to_vec()))
            .ok_or_else(|| Error::unsupported("the model's output has a shape that depends on the data"))
    };
    let shape = dims(features)?;
    // As `pool` makes one vector an example of it.
    let width = if shape.len() == 3 { shape[2] } else { shape.iter().skip(1).product() };
    let classes = match logits {
        Some(l) => dims(l)?.iter().skip(1).product(),
        None => 0,
    };
    Ok((width, classes, shape.len() == 3))
}

/// Which outputs a graph is cut to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Features, and logits for a classification: what training and prediction look at.
    Tail(Task),
    /// What the classifier of a classification reads: its own classes are set aside.
    Features,
    /// The model's own float outputs, in order, or the one that was asked for: what another framework would see.
    Model,
}

/// The forward graph of a bucket, cut to its ends, with low-rank inputs for the chosen sites after the model's own.
pub(crate) struct Adapted {
    pub model: TypedModel,
    /// Number of the model's own inputs.
    pub own_inputs: usize,
    /// Index of the logits among the outputs; the features are the first.
    pub logits: Option<usize>,
    /// Chosen sites in the order asked for, with the rank of each.
    pub sites: Vec<(Site, usize)>,
}

/// How the deltas enter the graph.
pub(crate) enum Deltas<'a> {
    /// As inputs, for these sites at this rank each.
    Inputs(&'a [(String, usize)]),
    /// Added to the weights.
    Merged(&'a [SiteDelta]),
}

pub(crate) fn adapted(base: &Base, ends: Ends, bucket: &Bucket, deltas: &Deltas) -> Result<Adapted> {
    let mut model = base.concrete(bucket)?;
    let own_inputs = model.inputs.len();
    let (outputs, logits) = cut(base, &mut model, ends)?;
    let sites = put_deltas(base, &mut model, &outputs, deltas)?;
    Ok(Adapted { model, own_inputs, logits, sites })
}

/// Cuts `model` to `outputs`, with `deltas` in it; the sites of those that are inputs, with the rank of each.
pub(super) fn put_deltas(
    base: &Base,
    model: &mut TypedModel,
    outputs: &[OutletId],
    deltas: &Deltas,
) -> Result<Vec<(Site, usize)>> {
    let (found, _) = find_sites(model, base)?;
    let what = format!("cannot put low-rank products into {}", base.path().display());
    guarded(ErrorKind::UnsupportedModel, what, || {
        model.select_output_outlets(outputs)?;
        let mut sites = vec![];
        match deltas {
            Deltas::Inputs(wanted) => {
                let mut chosen: Vec<(&Found, usize)> = vec![];
                for (name, rank) in *wanted {
                    chosen.push((by_name(&found, name)?, *rank));
                }
                insert(model, &chosen)?;
                sites.extend(chosen.iter().map(|(f, rank)| (f.site.clone(), *rank)));
            }
            Deltas::Merged(wanted) => {
                for delta in *wanted {
                    merge(model, by_name(&found, &delta.name)?, delta)?;
                }
            }
        }
        hold_strides(model)?;
        declutter(model)?;
        Ok(sites)
    })
}

/// The outlets to cut to, and which of them are the logits.
fn cut(base: &Base, model: &mut TypedModel, ends: Ends) -> Result<(Vec<OutletId>, Option<usize>)> {
    match ends {
        Ends::Tail(task) => {
            let tail = find_tail(base, model, task)?;
            let mut outputs = vec![tail.features];
            let logits = tail.logits.map(|l| {
                outputs.iter().position(|o| *o == l).unwrap_or_else(|| {
                    outputs.push(l);
                    outputs.len() - 1
                })
            });
            Ok((outputs, logits))
        }
        Ends::Features => Ok((vec![find_tail(base, model, Task::Classification)?.features], None)),
        Ends::Model => {
            let float = |o: &&OutletId| model.outlet_fact(**o).is_ok_and(|f| f.datum_type.is_float());
            let all = &model.outputs;
            let named = base.asked_output().and_then(|ix| all.get(ix..=ix)).unwrap_or(all);
            let outputs: Vec<OutletId> = named.iter().filter(float).copied().collect();
            if outputs.is_empty() {
                return Err(Error::unsupported("the model has no float output"));
            }
            Ok((outputs, None))
        }
    }
}

pub(super) fn by_name<'a>(found: &'a [Found], name: &str) -> TractResult<&'a Found> {
    found.iter().find(|f| f.site.name == name).ok_or_else(|| {
        Error::bad_data("there is no such site in the model")
            .at(name)
            .hint("the adapter belongs to another model, or to another version of this one")
            .into()
    })
}

/// A weight with its delta added, as the ONNX node takes it.
pub(crate) struct MergedWeight {
    pub site: String,
    /// Input slot of the ONNX node.
    pub slot: usize,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
    /// Axes of the contracted and of the new dimension; meaningless for a convolution.
    pub axes: (usize, usize),
}

/// The layer that a head is merged into.
pub(crate) struct Classifier {
    /// Its weight as it is.
    pub weight: MergedWeight,
    /// The model's scores are its product with constants added, nothing else.
    pub plain: bool,
}

/// The merged weights of `deltas`, and the classifier with its own weight.
pub(crate) fn merged_weights(
    base: &Base,
    task: Task,
    deltas: &[SiteDelta],
) -> Result<(Vec<MergedWeight>, Option<Classifier>)> {
    let mut model = base.concrete(&base.bucket(1, 16))?;
    let tail = find_tail(base, &mut model, task)?;
    let (found, _) = find_sites(&model, base)?;
    guarded(ErrorKind::UnsupportedModel, "cannot merge the deltas", || {
        let weight = |f: &Found| {
            let outlet = model.node(f.node).inputs[f.weight_slot];
            constant(&model, outlet)?.context("the weight is not a constant")
        };
        let plain = |f: &Found, values: &Tensor| -> TractResult<MergedWeight> {
            // Axes of size 1 that the graph put before a matrix are not in the ONNX file.
            let lead = if f.site.kind == SiteKind::Linear { values.rank().saturating_sub(2) } else { 0 };
            let (k, n) = f.weight_axes;
            let (shape, values) = match f.site.kind {
                SiteKind::ConvTranspose => in_file_order(f, values)?,
                _ => (values.shape()[lead..].to_vec(), floats(values)?.to_vec()),
            };
            Ok(MergedWeight {
                site: f.site.name.clone(),
                slot: f.weight_slot,
                shape,
                values,
                axes: (k.saturating_sub(lead), n.saturating_sub(lead)),
            })
        };
        let mut merged = vec![];
        for delta in deltas {
            let f = by_name(&found, &delta.name)?;
            merged.push(plain(f, &*merged_weight(&*weight(f)?, f, delta)?)?);
        }
        let classifier = match found.iter().find(|f| Some(f.node) == tail.classifier) {
            Some(f) => Some(Classifier { weight: plain(f, &*weight(f)?)?, plain: tail.plain }),
            None => None,
        };
        Ok((merged, classifier))
    })
}

/// Sizes of the kernel of a transposed convolution, which the graph keeps as `[groups·co, ci, taps]` and the file as
/// `[groups·ci, co, taps]`.
struct Widths {
    groups: usize,
    co: usize,
    ci: usize,
    taps: usize,
}

impl Widths {
    fn of(found: &Found, shape: &[usize]) -> Widths {
        let groups = found.site.groups;
        Widths { groups, co: shape[0] / groups, ci: shape[1], taps: shape[2..].iter().product() }
    }
}

fn in_file_order(found: &Found, kernel: &Tensor) -> TractResult<(Vec<usize>, Vec<f32>)> {
    let Widths { groups, co, ci, taps } = Widths::of(found, kernel.shape());
    let (from, mut to) = (floats(kernel)?, vec![0f32; kernel.len()]);
    for (i, line) in to.chunks_exact_mut(taps).enumerate() {
        let (c, o) = (i / co, i % co);
        line.copy_from_slice(&from[((c / ci * co + o) * ci + c % ci) * taps..][..taps]);
    }
    Ok(([&[groups * ci, co][..], &kernel.shape()[2..]].concat(), to))
}

/// Replaces the weight of `found` by `W + ΔW`.
fn merge(model: &mut TypedModel, found: &Found, delta: &SiteDelta) -> TractResult<()> {
    let node = model.node(found.node);
    let (op, inputs, name) = (node.op.clone(), node.inputs.clone(), node.name.clone());
    let weight = constant(model, inputs[found.weight_slot])?.context("the weight is not a constant")?;
    let merged = merged_weight(&weight, found, delta)?;
    let mut patch = TypedModelPatch::new("merge a low-rank delta");
    let mut taps = patch.taps(model, &inputs)?;
    taps[found.weight_slot] = patch.add_const(format!("{name}.merged"), merged)?;
    let out = patch.wire_node(&name, op, &taps)?;
    patch.shunt_outside(model, OutletId::new(found.node, 0), out[0])?;
    patch.apply(model)
}

/// `W + s·B·A` in the layout that the typed graph keeps the weight in.
fn merged_weight(weight: &Tensor, found: &Found, delta: &SiteDelta) -> TractResult<Arc<Tensor>> {
    let mut values = floats(weight)?.to_vec();
    let shape = weight.shape();
    let (a, b, rank, scale) = (&delta.a.data, &delta.b.data, delta.rank as usize, delta.scale());
    match found.site.kind {
        SiteKind::Linear => {
            let (k_axis, n_axis) = found.weight_axes;
            let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
            let (input, output) = (shape[k_axis], shape[n_axis]);
            ensure!(a.len() == input * rank && b.len() == rank * output, "the delta has another shape than the weight");
            for k in 0..input {
                for n in 0..output {
                    let d: f32 = (0..rank).map(|r| a[k * rank + r] * b[r * output + n]).sum();
                    values[k * stride(k_axis) + n * stride(n_axis)] += scale * d;
                }
            }
        }
        SiteKind::ConvTranspose => {
            let Widths { groups, co, ci, taps } = Widths::of(found, shape);
            ensure!(
                a.len() == groups * ci * rank * taps && b.len() == groups * co * rank,
                "the delta has another shape than the kernel"
            );
            for (i, v) in values.iter_mut().enumerate() {
                let (o, c, t) = (i / (ci * taps), i / taps % ci, i % taps);
                let c = o / co * ci + c;
                *v += scale * (0..rank).map(|r| a[(c * rank + r) * taps + t] * b[o * rank + r]).sum::<f32>();
            }
        }
        SiteKind::Conv => {
            let (output, rest) = (shape[0], shape[1..].iter().product::<usize>());
            ensure!(a.len() == rank * rest && b.len() == output * rank, "the delta has another shape than the kernel");
            for o in 0..output {
                for j in 0..rest {
                    let d: f32 = (0..rank).map(|r| b[o * rank + r] * a[r * rest + j]).sum();
                    values[o * rest + j] += scale * d;
                }
            }
        }
    }
    Ok(Tensor::from_shape(shape, &values)?.into_arc_tensor())
}
