//! One ONNX file with everything learned inside: deltas added to the weights, the head written into the classifier or
//! appended behind the encoder. Any ONNX runtime can use it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use prost::Message;
use tract_onnx::pb::{self, GraphProto, ModelProto, NodeProto, TensorProto};

use super::tensors::{answers_half, floats, tensor, weight_type};
use crate::adapter::{Adapter, HeadDelta, Pooling};
use crate::base::{Base, Task, fold_branches, node_name, parse};
use crate::disk::{RealDisk, StagedFile};
use crate::error::{Error, Result};
use crate::plan::{MergedWeight, merged_weights};
use crate::runtime::Session;
use crate::sites::direction;

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Where.
    pub path: PathBuf,
    /// How long it is.
    pub bytes: u64,
}

/// Oldest opset that has the operators of an appended head.
const HEAD_OPSET: i64 = 12;

/// Writes the serving generation of `session`, merged into its base, to `out`.
///
/// # Errors
/// [`ErrorKind::Usage`](crate::ErrorKind::Usage) when the plain base serves or `out` exists;
/// [`ErrorKind::UnsupportedModel`](crate::ErrorKind::UnsupportedModel) when the head cannot be written into this model.
pub fn merged(session: &Session, out: &Path) -> Result<Written> {
    let Some(adapter) = session.adapter()? else {
        return Err(Error::usage("the plain base serves: there is nothing to merge")
            .at(session.home().path().display())
            .hint("train first, or copy the base model itself"));
    };
    if out.exists() {
        return Err(Error::usage("the file exists").at(out.display()).hint("choose another name, or remove it first"));
    }
    let base = session.home().base();
    let bytes = std::fs::read(base.path()).map_err(|e| Error::io("cannot read the base model", base.path(), e))?;
    let mut model = parse(&bytes)?;
    fold_branches(&mut model);
    write_in(&mut model, base, session.home().0.engine.task, &adapter)?;
    let encoded = model.encode_to_vec();
    let folder = match out.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    StagedFile::write(&RealDisk, folder, &encoded)?.publish(out)?;
    Ok(Written { path: out.to_path_buf(), bytes: encoded.len() as u64 })
}

fn write_in(model: &mut ModelProto, base: &Base, task: Task, adapter: &Adapter) -> Result<()> {
    let opset = base.onnx().opset;
    let Some(graph) = model.graph.as_mut() else { return Err(Error::bad_data("the base model holds no graph")) };
    let (weights, classifier) = merged_weights(base, task, &adapter.sites)?;
    for weight in &weights {
        replace_weight(graph, weight)?;
    }
    if let Some(head) = &adapter.head {
        match (head.base_classes > 0, classifier) {
            (true, Some(classifier)) => into_classifier(graph, &classifier, head)?,
            (true, None) => {
                return Err(Error::unsupported(
                    "the model's classifier is not a plain product: its head cannot be merged",
                )
                .at(base.path().display())
                .hint("keep serving with acclimate, which applies the head beside the model"));
            }
            (false, classifier) => {
                if opset < HEAD_OPSET {
                    return Err(Error::unsupported(format!(
                        "the model is of opset {opset}; a head needs {HEAD_OPSET}"
                    ))
                    .at(base.path().display())
                    .hint("export the base model with a newer opset and make a new home"));
                }
                let features = match &classifier {
                    Some(c) => position(graph, &c.site).and_then(|at| graph.node[at].input.get(1 - c.slot).cloned()),
                    None => base.onnx().outputs.first().cloned(),
                };
                let features = features.ok_or_else(|| Error::internal("the features have no name"))?;
                append_head(graph, base, &features, head);
            }
        }
    }
    drop_unused_initializers(graph);
    // Shapes of inner values may have changed; every runtime infers them.
    graph.value_info.clear();
    if !adapter.labels.is_empty() {
        let value = adapter.labels.join("\n");
        model.metadata_props.push(pb::StringStringEntryProto { key: "acclimate.labels".into(), value });
    }
    Ok(())
}

fn position(graph: &GraphProto, site: &str) -> Option<usize> {
    graph.node.iter().enumerate().position(|(i, n)| node_name(i, n) == site)
}

fn replace_weight(graph: &mut GraphProto, weight: &MergedWeight) -> Result<()> {
    let (node, direction) = match direction(&weight.site) {
        (node, Some(direction)) if position(graph, &weight.site).is_none() => (node, direction),
        _ => (weight.site.as_str(), 0),
    };
    let at = position(graph, node).ok_or_else(|| Error::internal("a site went missing").at(&weight.site))?;
    let name = format!("{}.merged_weight", weight.site);
    let (mut shape, mut values) = (weight.shape.clone(), weight.values.clone());
    match graph.node[at].op_type.as_str() {
        "MatMul" | "Gemm" | "Conv" | "ConvTranspose" | "Einsum" => {}
        "LSTM" | "GRU" | "RNN" => {
            // Both directions share one tensor.
            let stored = graph.node[at]
                .input
                .get(weight.slot)
                .and_then(|name| graph.initializer.iter().find(|t| t.name == *name));
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
            return Err(Error::unsupported(format!("a {op} takes a quantised weight: its delta cannot be merged"))
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

/// Adds the head's columns to the classifier's, and appends those of new classes.
fn into_classifier(graph: &mut GraphProto, classifier: &MergedWeight, head: &HeadDelta) -> Result<()> {
    let refuse = |why: &str| {
        Error::unsupported(format!("the head cannot be merged: {why}"))
            .at(&classifier.site)
            .hint("keep serving with acclimate, which applies the head beside the model")
    };
    let at = position(graph, &classifier.site).ok_or_else(|| Error::internal("the classifier went missing"))?;
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
    let node = &graph.node[at];
    let plain = |name: &str| node.attribute.iter().find(|a| a.name == name).is_none_or(|a| a.f == 1.0);
    // The bias is the Gemm's own, or the constant that the next node adds.
    let (bias_node, bias_slot) = if node.op_type == "Gemm" {
        if !plain("alpha") || !plain("beta") {
            return Err(refuse("its Gemm scales its result"));
        }
        (at, 2)
    } else {
        let output = node.output.first().cloned().unwrap_or_default();
        let next: Vec<usize> = (0..graph.node.len()).filter(|&i| graph.node[i].input.contains(&output)).collect();
        match next[..] {
            [i] if graph.node[i].op_type == "Add" => (i, usize::from(graph.node[i].input[0] == output)),
            _ => return Err(refuse("no bias is added to its product")),
        }
    };
    let bias_name = graph.node[bias_node].input.get(bias_slot).cloned().unwrap_or_default();
    let mut bias = vec![0f32; head.classes];
    if !bias_name.is_empty() {
        let Some(stored) = graph.initializer.iter().find(|t| t.name == bias_name) else {
            return Err(refuse("its bias is computed"));
        };
        let values =
            floats(stored).filter(|v| v.len() == old).ok_or_else(|| refuse("its bias has an unexpected form"))?;
        bias[..old].copy_from_slice(&values);
    }
    for (&c, b) in head.columns.iter().zip(&head.bias) {
        bias[c as usize] += b;
    }
    let (weight_name, new_bias) =
        (format!("{}.merged_weight", classifier.site), format!("{}.merged_bias", classifier.site));
    let kind = weight_type(graph, &graph.node[at].input[classifier.slot]);
    graph.node[at].input[classifier.slot] = weight_name.clone();
    let inputs = &mut graph.node[bias_node].input;
    inputs.resize(inputs.len().max(bias_slot + 1), String::new());
    inputs[bias_slot] = new_bias.clone();
    graph.initializer.push(tensor(weight_name, &new_shape, &weight, kind));
    graph.initializer.push(tensor(new_bias, &[head.classes], &bias, kind));
    set_last_dim(graph, head.classes);
    Ok(())
}

/// Declares the number of classes on the first output.
fn set_last_dim(graph: &mut GraphProto, classes: usize) {
    use pb::tensor_shape_proto::{Dimension, dimension};
    let shape = graph.output.first_mut().and_then(|o| o.r#type.as_mut()).and_then(|t| match &mut t.value {
        Some(pb::type_proto::Value::TensorType(t)) => t.shape.as_mut(),
        #[allow(unreachable_patterns)]
        _ => None,
    });
    if let Some(last) = shape.and_then(|s| s.dim.last_mut()) {
        *last = Dimension { value: Some(dimension::Value::DimValue(classes as i64)), ..Dimension::default() };
    }
}

fn to_float() -> pb::AttributeProto {
    pb::AttributeProto {
        name: "to".into(),
        i: pb::tensor_proto::DataType::Float as i64,
        r#type: pb::attribute_proto::AttributeType::Int as i32,
        ..pb::AttributeProto::default()
    }
}

/// Mean or first pooling where there is a sequence, then one Gemm; its result becomes the only output.
fn append_head(graph: &mut GraphProto, base: &Base, features: &str, head: &HeadDelta) {
    let node = |op: &str, name: &str, inputs: &[&str], attribute: Vec<pb::AttributeProto>| NodeProto {
        name: format!("acclimate.{name}"),
        op_type: op.into(),
        input: inputs.iter().map(|s| s.to_string()).collect(),
        output: vec![format!("acclimate.{name}.out")],
        attribute,
        ..NodeProto::default()
    };
    let equation = |text: &str| {
        vec![pb::AttributeProto {
            name: "equation".into(),
            s: text.as_bytes().to_vec(),
            r#type: pb::attribute_proto::AttributeType::String as i32,
            ..pb::AttributeProto::default()
        }]
    };
    let mask = base.mask().map(|ix| base.inputs()[ix].name.clone());
    let mut nodes = vec![];
    let mut features = features.to_string();
    if answers_half(graph) {
        nodes.push(node("Cast", "features", &[&features], vec![to_float()]));
        features = "acclimate.features.out".into();
    }
    let features = features.as_str();
    let pooled = match (head.pooling, mask) {
        (Pooling::Mean, Some(mask)) => {
            nodes.push(node("Cast", "mask", &[&mask], vec![to_float()]));
            nodes.push(node("Einsum", "sum", &["acclimate.mask.out", features], equation("bs,bsf->bf")));
            nodes.push(node("Einsum", "count", &["acclimate.mask.out"], equation("bs->b")));
            nodes.push(node("Reciprocal", "share", &["acclimate.count.out"], vec![]));
            nodes.push(node("Einsum", "pooled", &["acclimate.sum.out", "acclimate.share.out"], equation("bf,b->bf")));
            "acclimate.pooled.out".to_string()
        }
        (Pooling::Mean, None) => {
            let axes = pb::AttributeProto {
                name: "axes".into(),
                ints: vec![1],
                r#type: pb::attribute_proto::AttributeType::Ints as i32,
                ..pb::AttributeProto::default()
            };
            let keep = pb::AttributeProto {
                name: "keepdims".into(),
                i: 0,
                r#type: pb::attribute_proto::AttributeType::Int as i32,
                ..pb::AttributeProto::default()
            };
            nodes.push(node("ReduceMean", "pooled", &[features], vec![axes, keep]));
            "acclimate.pooled.out".to_string()
        }
        (Pooling::First, _) => {
            graph.initializer.push(TensorProto {
                name: "acclimate.first".into(),
                data_type: pb::tensor_proto::DataType::Int64 as i32,
                int64_data: vec![0],
                ..TensorProto::default()
            });
            let axis = pb::AttributeProto {
                name: "axis".into(),
                i: 1,
                r#type: pb::attribute_proto::AttributeType::Int as i32,
                ..pb::AttributeProto::default()
            };
            nodes.push(node("Gather", "pooled", &[features, "acclimate.first"], vec![axis]));
            "acclimate.pooled.out".to_string()
        }
        (Pooling::None, _) => features.to_string(),
    };
    let mut weight = vec![0f32; head.features * head.classes];
    let mut bias = vec![0f32; head.classes];
    for (j, &c) in head.columns.iter().enumerate() {
        for f in 0..head.features {
            weight[f * head.classes + c as usize] = head.weight.data[f * head.columns.len() + j];
        }
        bias[c as usize] = head.bias[j];
    }
    let float = pb::tensor_proto::DataType::Float as i32;
    graph.initializer.push(tensor("acclimate.head_weight".into(), &[head.features, head.classes], &weight, float));
    graph.initializer.push(tensor("acclimate.head_bias".into(), &[head.classes], &bias, float));
    let mut gemm = node("Gemm", "head", &[&pooled, "acclimate.head_weight", "acclimate.head_bias"], vec![]);
    gemm.output = vec!["logits".into()];
    nodes.push(gemm);
    graph.node.extend(nodes);
    let batch = pb::tensor_shape_proto::Dimension {
        value: Some(pb::tensor_shape_proto::dimension::Value::DimParam("batch".into())),
        ..Default::default()
    };
    let classes = pb::tensor_shape_proto::Dimension {
        value: Some(pb::tensor_shape_proto::dimension::Value::DimValue(head.classes as i64)),
        ..Default::default()
    };
    let output_type = pb::type_proto::Tensor {
        elem_type: pb::tensor_proto::DataType::Float as i32,
        shape: Some(pb::TensorShapeProto { dim: vec![batch, classes] }),
    };
    graph.output = vec![pb::ValueInfoProto {
        name: "logits".into(),
        r#type: Some(pb::TypeProto {
            value: Some(pb::type_proto::Value::TensorType(output_type)),
            ..Default::default()
        }),
        ..Default::default()
    }];
}

/// Weights that were replaced, and everything that only led to an output that is gone.
fn drop_unused_initializers(graph: &mut GraphProto) {
    let mut needed: HashSet<String> = graph.output.iter().map(|o| o.name.clone()).collect();
    let mut keep = vec![false; graph.node.len()];
    for (i, n) in graph.node.iter().enumerate().rev() {
        if n.output.iter().any(|o| needed.contains(o)) {
            keep[i] = true;
            needed.extend(n.input.iter().cloned());
            // Values that a subgraph captures.
            for sub in n.attribute.iter().filter_map(|a| a.g.as_ref()) {
                needed.extend(sub.node.iter().flat_map(|n| n.input.iter().cloned()));
            }
        }
    }
    let mut flags = keep.into_iter();
    graph.node.retain(|_| flags.next().unwrap_or(true));
    graph.initializer.retain(|t| needed.contains(&t.name));
}

#[cfg(all(test, feature = "train"))]
#[path = "merged_tests.rs"]
mod tests;
