//! A head behind an encoder, as nodes of its file.

use tract_onnx::pb::{self, GraphProto, NodeProto, TensorProto};

use super::graph::{fresh, scores_output};
use super::tensors::{answers_half, tensor};
use crate::adapter::{HeadDelta, Pooling};
use crate::base::{Base, prune};
use crate::stats::rows::SHORTEST;

fn to_float() -> pb::AttributeProto {
    pb::AttributeProto {
        name: "to".into(),
        i: pb::tensor_proto::DataType::Float as i64,
        r#type: pb::attribute_proto::AttributeType::Int as i32,
        ..pb::AttributeProto::default()
    }
}

/// What the names of new nodes start with: nothing in the file's does, should it be a merged one itself.
fn prefix(graph: &GraphProto) -> String {
    let taken = |own: &str| {
        let has = |name: &String| name.strip_prefix(own).is_some_and(|rest| rest.starts_with('.'));
        let made = graph.node.iter().any(|n| has(&n.name) || n.output.iter().any(has));
        made || graph.initializer.iter().any(|t| has(&t.name))
    };
    let numbered = (2..).map(|n| format!("acclimate{n}"));
    std::iter::once("acclimate".to_string()).chain(numbered).find(|own| !taken(own)).unwrap_or_default()
}

/// Mean or first pooling where there is a sequence, normalisation where the head asks for it, then one Gemm; its
/// result becomes the only output.
pub(super) fn append_head(graph: &mut GraphProto, base: &Base, features: &str, head: &HeadDelta) {
    let half = answers_half(graph);
    // What led to the old outputs goes, and with it their names.
    graph.output = vec![pb::ValueInfoProto { name: features.into(), ..Default::default() }];
    prune(graph);
    let own = prefix(graph);
    let node = |op: &str, name: &str, inputs: &[&str], attribute: Vec<pb::AttributeProto>| NodeProto {
        name: format!("{own}.{name}"),
        op_type: op.into(),
        input: inputs.iter().map(|s| s.to_string()).collect(),
        output: vec![format!("{own}.{name}.out")],
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
    let out = |name: &str| format!("{own}.{name}.out");
    let mut nodes = vec![];
    let mut features = features.to_string();
    if half {
        nodes.push(node("Cast", "features", &[&features], vec![to_float()]));
        features = out("features");
    }
    let features = features.as_str();
    let pooled = match (head.pooling, mask) {
        (Pooling::Mean, Some(mask)) => {
            nodes.push(node("Cast", "mask", &[&mask], vec![to_float()]));
            nodes.push(node("Einsum", "sum", &[&out("mask"), features], equation("bs,bsf->bf")));
            nodes.push(node("Einsum", "count", &[&out("mask")], equation("bs->b")));
            nodes.push(node("Reciprocal", "share", &[&out("count")], vec![]));
            nodes.push(node("Einsum", "pooled", &[&out("sum"), &out("share")], equation("bf,b->bf")));
            out("pooled")
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
            out("pooled")
        }
        (Pooling::First, _) => {
            graph.initializer.push(TensorProto {
                name: format!("{own}.first"),
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
            nodes.push(node("Gather", "pooled", &[features, &format!("{own}.first")], vec![axis]));
            out("pooled")
        }
        (Pooling::None, _) => features.to_string(),
    };
    let pooled = if head.normalised {
        let shortest = format!("{own}.shortest");
        let float = pb::tensor_proto::DataType::Float as i32;
        graph.initializer.push(tensor(shortest.clone(), &[1], &[SHORTEST], float));
        nodes.push(node("Einsum", "squares", &[&pooled, &pooled], equation("bf,bf->b")));
        nodes.push(node("Sqrt", "length", &[&out("squares")], vec![]));
        nodes.push(node("Max", "divisor", &[&out("length"), &shortest], vec![]));
        nodes.push(node("Reciprocal", "factor", &[&out("divisor")], vec![]));
        nodes.push(node("Einsum", "normalised", &[&pooled, &out("factor")], equation("bf,b->bf")));
        out("normalised")
    } else {
        pooled
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
    let (weight_name, bias_name) = (format!("{own}.head_weight"), format!("{own}.head_bias"));
    graph.initializer.push(tensor(weight_name.clone(), &[head.features, head.classes], &weight, float));
    graph.initializer.push(tensor(bias_name.clone(), &[head.classes], &bias, float));
    let mut gemm = node("Gemm", "head", &[&pooled, &weight_name, &bias_name], vec![]);
    let logits = fresh(graph, "logits");
    gemm.output = vec![logits.clone()];
    nodes.push(gemm);
    graph.node.extend(nodes);
    graph.output = vec![scores_output(logits, head.classes)];
}
