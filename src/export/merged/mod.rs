//! One ONNX file with everything learned inside: deltas added to the weights, the head written into the classifier or
//! appended behind the encoder. Any ONNX runtime can use it.

mod orient;

use std::path::{Path, PathBuf};

use prost::Message;
use tract_onnx::pb::{self, GraphProto, ModelProto, NodeProto};

use super::appended::append_head;
use super::beside::add_head;
use super::graph::{fresh, list_initializers, position, rounds, set_classes, stored};
use super::tensors::{floats, tensor, weight_type};
use super::verify::answers_alike;
use crate::adapter::{Adapter, DenseTensor, HeadDelta};
use crate::base::{Base, Kind, MAX_MODEL_BYTES, Task, in_one_file, parse, prune, standardise};
use crate::disk::{RealDisk, StagedFile, folder_of, make_folder, read_file};
use crate::error::{Error, Result};
use crate::plan::{Classifier, MergedWeight, merged_weights};
use crate::runtime::{Session, beside_model};
use crate::sites::direction;

/// A file that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Written {
    /// Where.
    pub path: PathBuf,
    /// How long it is.
    pub bytes: u64,
    /// What was written beside it: the tokenizer of a language model, and what goes with it.
    pub beside: Vec<PathBuf>,
    /// Whether it may answer otherwise than the session: where the session lets the base model's answer stand.
    pub adapter_alone: bool,
    /// What its logits are to be divided by before the softmax, for the probabilities that the session gives; 1 for a
    /// base model.
    pub temperature: f32,
}

/// Oldest opset that has the operators of an appended head.
const HEAD_OPSET: i64 = 12;

/// Largest file that other runtimes read: messages of protobuf end there.
const LARGEST: usize = i32::MAX as usize;

/// Name of the file in a folder.
const MODEL_FILE: &str = "model.onnx";

/// Writes the active generation of `session`, merged into its base, to `out`. Where that is a folder, or ends with `/`,
/// it gets `model.onnx` and the files that a language model is used with: tokenizer, chat template, configs. The file
/// is loaded again and its answers are compared with those of the adapter, on examples that are synthetic, before it
/// gets its name. The file has one model: it answers with the adapter alone where the session lets the base model's
/// answer stand. It answers with the model's scores only: labels that the model makes of them are left out.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when the base model serves or a file of that name exists;
/// [`ErrorKind::UnsupportedModel`](crate::ErrorKind::UnsupportedModel) when something that was learned cannot be written into this model, or
/// the file would answer otherwise, naming the output and the size of the difference. No file is left then.
pub fn merged(session: &Session, out: &Path) -> Result<Written> {
    let Some(adapter) = session.adapter()? else {
        return Err(Error::usage("the base model serves: there is nothing to merge")
            .at(session.home().path().display())
            .hint("train first, or copy the base model itself"));
    };
    let in_folder = out.is_dir() || out.as_os_str().as_encoded_bytes().ends_with(b"/");
    let others = if in_folder { beside_model(session.home().path()) } else { vec![] };
    let others: Vec<(PathBuf, PathBuf)> = others.into_iter().map(|(from, name)| (from, out.join(name))).collect();
    let out = if in_folder { &out.join(MODEL_FILE) } else { out };
    if let Some(taken) = std::iter::once(out).chain(others.iter().map(|(_, to)| &**to)).find(|file| file.exists()) {
        return Err(Error::usage("the file exists")
            .at(taken.display())
            .hint("choose another name, or remove it first"));
    }
    let base = session.home().base();
    let bytes = in_one_file(base.path(), &read_file(&RealDisk, base.path(), MAX_MODEL_BYTES)?)?;
    let mut model = parse(&bytes)?;
    drop(bytes);
    standardise(&mut model);
    write_in(&mut model, base, session.home().0.engine.task, &adapter)?;
    let rounds = model.graph.as_ref().is_some_and(rounds);
    let encoded = model.encode_to_vec();
    if encoded.len() > LARGEST {
        return Err(Error::unsupported(format!("the merged model takes {} bytes, more than {LARGEST}", encoded.len()))
            .at(base.path().display())
            .hint("keep serving with acclimate, which applies what was learned beside the model"));
    }
    if in_folder {
        make_folder(&RealDisk, folder_of(out))?;
    }
    let staged = StagedFile::write(&RealDisk, folder_of(out), &encoded)?;
    answers_alike(staged.path(), session, rounds)?;
    let copied: Result<Vec<StagedFile>> =
        others.iter().map(|(from, to)| StagedFile::copy(&RealDisk, folder_of(to), from)).collect();
    let (mut files, mut names) = (copied?, others.iter().map(|(_, to)| &**to).collect::<Vec<_>>());
    // The model is the last one: a folder with it is whole.
    files.push(staged);
    names.push(out);
    for (at, file) in files.into_iter().enumerate() {
        if let Err(e) = file.publish(names[at]) {
            names[..at].iter().for_each(|name| drop(std::fs::remove_file(name)));
            return Err(e);
        }
    }
    let (adapter_alone, temperature) = (adapter.confusions.is_some(), adapter.calibrated.temperature);
    let beside = others.into_iter().map(|(_, to)| to).collect();
    Ok(Written { path: out.to_path_buf(), bytes: encoded.len() as u64, beside, adapter_alone, temperature })
}

fn write_in(model: &mut ModelProto, base: &Base, task: Task, adapter: &Adapter) -> Result<()> {
    let Some(graph) = model.graph.as_mut() else { return Err(Error::bad_data("the base model holds no graph")) };
    let (mut weights, mut classifier) = merged_weights(base, task, &adapter.sites)?;
    let of_head = classifier.as_mut().map(|c| &mut c.weight);
    orient::as_nodes_take_them(graph, weights.iter_mut().chain(of_head));
    for weight in &weights {
        replace_weight(graph, weight)?;
    }
    if let Some(head) = &adapter.head {
        match (head.base_classes > 0, classifier) {
            (true, Some(c)) if c.plain && base.output_kind()?.is_one_number() => {
                let whole = with_one_score(graph, &c.weight, head)?;
                append(graph, base, Some(&c), &whole)?
            }
            (true, Some(c)) if c.plain => into_classifier(graph, &c.weight, head, &base.output_name()?)
                .or_else(|_| add_head(graph, base, Some(&c), head))?,
            (true, classifier) => add_head(graph, base, classifier.as_ref(), head)?,
            (false, classifier) => append(graph, base, classifier.as_ref(), head)?,
        }
    }
    prune(graph);
    // Shapes of inner values may have changed; every runtime infers them.
    graph.value_info.clear();
    list_initializers(model);
    if !adapter.labels.is_empty() {
        let value = adapter.labels.join("\n");
        model.metadata_props.push(pb::StringStringEntryProto { key: "acclimate.labels".into(), value });
    }
    Ok(())
}

/// Appends a head behind the features: what `classifier` reads, or the output.
fn append(graph: &mut GraphProto, base: &Base, classifier: Option<&Classifier>, head: &HeadDelta) -> Result<()> {
    let opset = base.onnx().opset;
    if opset < HEAD_OPSET {
        return Err(Error::unsupported(format!("the model is of opset {opset}; a head needs {HEAD_OPSET}"))
            .at(base.path().display())
            .hint("export the base model with a newer opset and make a new home"));
    }
    let features = head_input(graph, base, classifier)?;
    append_head(graph, base, &features, head);
    Ok(())
}

/// Adds a node of one input and one attribute; the name of its output.
fn add_node(graph: &mut GraphProto, op: &str, input: String, attribute: pb::AttributeProto) -> String {
    let name = fresh(graph, &format!("acclimate.{op}"));
    let output = fresh(graph, &format!("acclimate.{op}.out"));
    graph.node.push(NodeProto {
        name,
        op_type: op.into(),
        input: vec![input],
        output: vec![output.clone()],
        attribute: vec![attribute],
        ..NodeProto::default()
    });
    output
}

/// Adds what makes the input of an appended head of the model's values, `[batch, …]`; its name.
fn head_input(graph: &mut GraphProto, base: &Base, classifier: Option<&Classifier>) -> Result<String> {
    let lost = || Error::internal("the features have no name");
    let flat = pb::AttributeProto {
        name: "axis".into(),
        i: 1,
        r#type: pb::attribute_proto::AttributeType::Int as i32,
        ..pb::AttributeProto::default()
    };
    if let Some(Classifier { weight, plain }) = classifier {
        let at = position(graph, &weight.site).ok_or_else(lost)?;
        let node = &graph.node[at];
        if !["MatMul", "Gemm", "Conv"].contains(&node.op_type.as_str()) {
            let what = format!("the last layer is a {}: a head cannot be put in its place", node.op_type);
            return Err(Error::unsupported(what)
                .at(&weight.site)
                .hint("keep serving with acclimate, which applies the head beside the model"));
        }
        let features = node.input.get(1 - weight.slot).cloned().ok_or_else(lost)?;
        return Ok(if *plain { features } else { add_node(graph, "Flatten", features, flat) });
    }
    let report = base.end_report()?;
    let rank = base.outputs().iter().find(|p| p.name == report.output).map_or(0, |p| p.dims.len());
    let mut features = report.output;
    if report.batch_axis != 0 {
        let order = std::iter::once(report.batch_axis).chain((0..rank).filter(|axis| *axis != report.batch_axis));
        let perm = pb::AttributeProto {
            name: "perm".into(),
            ints: order.map(|axis| axis as i64).collect(),
            r#type: pb::attribute_proto::AttributeType::Ints as i32,
            ..pb::AttributeProto::default()
        };
        features = add_node(graph, "Transpose", features, perm);
    }
    Ok(if report.kind == Kind::Vector && rank != 2 { add_node(graph, "Flatten", features, flat) } else { features })
}

fn replace_weight(graph: &mut GraphProto, weight: &MergedWeight) -> Result<()> {
    let (node, direction) = match direction(&weight.site) {
        (node, Some(direction)) if position(graph, &weight.site).is_none() => (node, direction),
        _ => (weight.site.as_str(), 0),
    };
    let at = position(graph, node).ok_or_else(|| Error::internal("a site went missing").at(&weight.site))?;
    let name = fresh(graph, &format!("{}.merged_weight", weight.site));
    let (mut shape, mut values) = (weight.shape.clone(), weight.values.clone());
    match graph.node[at].op_type.as_str() {
        "MatMul" | "Gemm" | "Conv" | "ConvTranspose" | "Einsum" => {}
        "LSTM" | "GRU" | "RNN" => {
            // Both directions share one tensor.
            let stored = graph.node[at].input.get(weight.slot).and_then(|name| stored(graph, name));
            let both = stored.filter(|t| t.dims.first() == Some(&2)).and_then(floats);
            shape.insert(0, 1);
            if let Some(mut both) = both.filter(|b| b.len() == 2 * values.len()) {
                both[direction * values.len()..][..values.len()].copy_from_slice(&values);
                (shape[0], values) = (2, both);
            } else if direction > 0 || node != weight.site {
                return Err(Error::unsupported("its weights are computed: a delta of one direction cannot be merged")
                    .at(&weight.site)
                    .hint("keep serving with acclimate, which applies the delta beside the model"));
            }
        }
        op => {
            return Err(Error::unsupported(format!(
                "a {op} stores its weight in a form of its own: its delta cannot be merged"
            ))
            .at(&weight.site)
            .hint("keep serving with acclimate, which applies the delta beside the model"));
        }
    }
    let kind = match graph.node[at].input.get(weight.slot) {
        Some(input) => weight_type(graph, input),
        None => return Err(Error::internal("a site has no weight input").at(&weight.site)),
    };
    graph.node[at].input[weight.slot] = name.clone();
    graph.initializer.push(tensor(name, &shape, &values, kind));
    Ok(())
}

fn refusal(classifier: &MergedWeight, why: &str) -> Error {
    Error::unsupported(format!("the head cannot be merged: {why}"))
        .at(&classifier.site)
        .hint("keep serving with acclimate, which applies the head beside the model")
}

/// What is added to a classifier's product.
struct Bias {
    /// The node that adds it, and the input slot by which.
    node: usize,
    slot: usize,
    /// One a class.
    values: Vec<f32>,
}

/// The bias of the classifier at node `at`: the Gemm's own, or the constant that the next node adds.
fn bias_of(graph: &GraphProto, classifier: &MergedWeight, at: usize, classes: usize) -> Result<Bias> {
    let refuse = |why: &str| refusal(classifier, why);
    let of = &graph.node[at];
    let plain = |name: &str| of.attribute.iter().find(|a| a.name == name).is_none_or(|a| a.f == 1.0);
    let (node, slot) = if of.op_type == "Gemm" {
        if !plain("alpha") || !plain("beta") {
            return Err(refuse("its Gemm scales its result"));
        }
        (at, 2)
    } else {
        let output = of.output.first().cloned().unwrap_or_default();
        let next: Vec<usize> = (0..graph.node.len()).filter(|&i| graph.node[i].input.contains(&output)).collect();
        match next[..] {
            [i] if graph.node[i].op_type == "Add" => (i, usize::from(graph.node[i].input[0] == output)),
            _ => return Err(refuse("no bias is added to its product")),
        }
    };
    let name = graph.node[node].input.get(slot).cloned().unwrap_or_default();
    if name.is_empty() {
        return Ok(Bias { node, slot, values: vec![0.0; classes] });
    }
    let Some(stored) = stored(graph, &name) else {
        return Err(refuse("its bias is computed"));
    };
    let values =
        floats(stored).filter(|v| v.len() == classes).ok_or_else(|| refuse("its bias has an unexpected form"))?;
    Ok(Bias { node, slot, values })
}

/// The head of a model of one score `z`, with the layer of that score in it: no has 0, yes has `z`, and what was
/// learned is added.
fn with_one_score(graph: &GraphProto, classifier: &MergedWeight, head: &HeadDelta) -> Result<HeadDelta> {
    let refuse = |why: &str| refusal(classifier, why);
    let at = position(graph, &classifier.site).ok_or_else(|| Error::internal("the classifier went missing"))?;
    if classifier.shape.len() != 2 || classifier.values.len() != head.features || head.base_classes != 2 {
        return Err(refuse("the weight of its score has an unexpected shape"));
    }
    let own = bias_of(graph, classifier, at, 1)?;
    let mut weight = vec![0f32; head.features * head.classes];
    let mut bias = vec![0f32; head.classes];
    bias[1] = own.values[0];
    for (f, row) in weight.chunks_exact_mut(head.classes).enumerate() {
        row[1] = classifier.values[f];
        for (j, &c) in head.columns.iter().enumerate() {
            row[c as usize] += head.weight.data[f * head.columns.len() + j];
        }
    }
    head.columns.iter().zip(&head.bias).for_each(|(&c, b)| bias[c as usize] += b);
    let weight = DenseTensor { shape: vec![head.features, head.classes], data: weight };
    let columns = (0..head.classes as u32).collect();
    Ok(HeadDelta { base_classes: 0, columns, weight, bias, ..head.clone() })
}

/// Adds the head's columns to the classifier's, and appends those of new classes. What is refused changes nothing.
fn into_classifier(graph: &mut GraphProto, classifier: &MergedWeight, head: &HeadDelta, output: &str) -> Result<()> {
    let refuse = |why: &str| refusal(classifier, why);
    let at = position(graph, &classifier.site).ok_or_else(|| Error::internal("the classifier went missing"))?;
    let op = &graph.node[at].op_type;
    if !["MatMul", "Gemm", "Einsum"].contains(&op.as_str()) {
        return Err(refuse(&format!("a {op} stores its weight in a form of its own")));
    }
    let (k_axis, n_axis) = classifier.axes;
    let (features, old) = (classifier.shape[k_axis], classifier.shape[n_axis]);
    if classifier.shape.len() != 2 || features != head.features || old != head.base_classes {
        return Err(refuse("the classifier's weight has an unexpected shape"));
    }
    let new_shape = if k_axis == 0 { [features, head.classes] } else { [head.classes, features] };
    let place = |f: usize, c: usize, classes: usize| if k_axis == 0 { f * classes + c } else { c * features + f };
    let mut weight = vec![0f32; features * head.classes];
    for f in 0..features {
        for c in 0..old {
            weight[place(f, c, head.classes)] = classifier.values[place(f, c, old)];
        }
        for (j, &c) in head.columns.iter().enumerate() {
            weight[place(f, c as usize, head.classes)] += head.weight.data[f * head.columns.len() + j];
        }
    }
    let Bias { node: bias_node, slot: bias_slot, values } = bias_of(graph, classifier, at, old)?;
    let mut bias = vec![0f32; head.classes];
    bias[..old].copy_from_slice(&values);
    for (&c, b) in head.columns.iter().zip(&head.bias) {
        bias[c as usize] += b;
    }
    let name = |what: &str| fresh(graph, &format!("{}.{what}", classifier.site));
    let (weight_name, new_bias) = (name("merged_weight"), name("merged_bias"));
    let Some(input) = graph.node[at].input.get(classifier.slot) else {
        return Err(refuse("its weight is no input"));
    };
    let kind = weight_type(graph, input);
    graph.node[at].input[classifier.slot] = weight_name.clone();
    let inputs = &mut graph.node[bias_node].input;
    inputs.resize(inputs.len().max(bias_slot + 1), String::new());
    inputs[bias_slot] = new_bias.clone();
    graph.initializer.push(tensor(weight_name, &new_shape, &weight, kind));
    graph.initializer.push(tensor(new_bias, &[head.classes], &bias, kind));
    set_classes(graph, output, old, head.classes);
    Ok(())
}

#[cfg(all(test, feature = "train"))]
mod tests;
