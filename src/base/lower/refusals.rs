//! Nodes of ONNX Runtime's own operators that are not read: what they have that is not, and the export that is.

use tract_onnx::pb::NodeProto;

use super::unread::{OPTIMUM, UNFUSED, Unread, error, later};
use super::{BLOCKS, GROUP_QUERY, TABLE, blocks, fused, group_query, table};
use crate::error::Error;

/// For what is written for another processor.
const FOR_CPU: &str = "export it for the CPU: the model builder with `-e cpu`, or `optimum-cli export onnx`";
const DENSE: &str = "use a model whose layers are all attention and dense, such as Qwen 3, Llama 3.2 or SmolLM2";

/// Operators that are read in no form.
const OTHERS: &[(&str, &str, &str)] = &[
    ("CausalConvWithState", "a state in place of a KV cache", DENSE),
    ("DecoderMaskedMultiHeadAttention", "an attention of single tokens", FOR_CPU),
    ("DecoderMaskedSelfAttention", "an attention of single tokens", FOR_CPU),
    ("LinearAttention", "a state in place of a KV cache", DENSE),
    (
        "MatMulBnb4",
        "weights of 4 bits in NF4 or FP4",
        "take its file with MatMulNBits (`model_q4.onnx` of transformers.js), or quantise the original with ONNX \
         Runtime's MatMulNBitsQuantizer",
    ),
    ("MoE", "a mixture of experts", DENSE),
    ("PackedAttention", "texts without padding in one row", UNFUSED),
    ("PackedMultiHeadAttention", "texts without padding in one row", UNFUSED),
    ("PagedAttention", "a cache in pages", FOR_CPU),
    (
        "QAttention",
        "a quantised attention",
        "quantise the model before its attention is fused, or with `op_types_to_quantize=[\"MatMul\"]`",
    ),
    ("QMoE", "a mixture of experts", DENSE),
    ("SparseAttention", "an attention to blocks of positions", DENSE),
];

/// Why `node` is not read, as far as the node alone tells.
pub(in super::super) fn refusal(node: &NodeProto) -> Option<Error> {
    let unread = match node.op_type.as_str() {
        "Attention" if fused::is(node) => fused::attention_unread(node),
        BLOCKS => blocks::unread(node),
        GROUP_QUERY => group_query::unread(node),
        "MultiHeadAttention" => fused::multi_head_unread(node),
        "RotaryEmbedding" if fused::is(node) => rotary_unread(node),
        TABLE => table::unread(node),
        op if fused::is(node) => OTHERS
            .iter()
            .find(|(name, ..)| *name == op)
            .map(|(name, what, hint)| (format!("the operator {name} ({what}) is not read"), *hint)),
        _ => None,
    };
    unread.map(error)
}

fn rotary_unread(node: &NodeProto) -> Option<Unread> {
    const KNOWN: &[&str] = &["interleaved", "is_packed_batching", "num_heads", "rotary_embedding_dim", "scale"];
    let scaled = node.attribute.iter().any(|a| a.name == "scale" && a.f != 1.0);
    let named = [
        (scaled, Some("the attribute scale".to_string())),
        (super::int(node, "is_packed_batching") != 0, Some("the attribute is_packed_batching".to_string())),
        (true, later(node, KNOWN, 4)),
    ];
    let what = named.into_iter().filter(|(found, _)| *found).find_map(|(_, what)| what)?;
    Some((format!("a RotaryEmbedding with {what}"), OPTIMUM))
}
