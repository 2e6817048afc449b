//! Operators of ONNX Runtime's own domain: forms that are read, and what is said of those that are not.

use tract_core::internal::*;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::dimension::Value;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto, TensorProto};

use super::super::decompose::tests::{close, input, int, model, node, ramp, stored};
use super::super::forms_tests::{answer, base, bytes, floats, graph, text};
use super::super::integers::{UINT4, float_tensor};
use crate::error::ErrorKind;

fn own(op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    let domain = "com.microsoft".to_string();
    NodeProto { name: "here".into(), domain, ..node(op, inputs, "y", attributes) }
}

fn number(name: &str, f: f32) -> AttributeProto {
    AttributeProto { name: name.into(), r#type: AttributeType::Float as i32, f, ..AttributeProto::default() }
}

/// How the reading of `model` is refused: what is said, and what to do.
fn refused(model: &ModelProto) -> (String, String) {
    let error = match base(model) {
        Ok(base) => panic!("{base:?} was loaded"),
        Err(error) => error,
    };
    assert_eq!(error.kind(), ErrorKind::UnsupportedModel, "{error}");
    (error.to_string(), error.next_step().unwrap_or_default().to_string())
}

const OPTIMUM: &str = "optimum-cli export onnx --task text-generation-with-past";
const FUSION: &str = "without `--optimize`";
const QUANTISER: &str = "MatMulNBitsQuantizer";
const DENSE: &str = "SmolLM2";

/// A form of a `GroupQueryAttention`: attributes, and inputs by their slot.
fn group_query(attributes: &[(&str, i64)], inputs: &[(usize, &str)]) -> NodeProto {
    let mut names = ["x", "", "", "x", "x", "i", "i", "x", "x", "", "", "", "", "", "", "", "", ""].map(String::from);
    inputs.iter().for_each(|(slot, name)| names[*slot] = name.to_string());
    let names = names.each_ref().map(String::as_str);
    let set = attributes.iter().map(|(name, i)| int(name, *i));
    own("GroupQueryAttention", &names, [int("num_heads", 2), int("kv_num_heads", 1)].into_iter().chain(set).collect())
}

#[test]
fn what_is_not_read_is_named_with_a_way_out() {
    let quantised = |name: &str| {
        let mut node = group_query(&[], &[]);
        node.attribute.push(text(name, "PER_TENSOR"));
        node
    };
    let attention = |inputs: &[&str], attributes| own("Attention", inputs, attributes);
    let heads = || vec![int("num_heads", 2)];
    let many = |inputs: &[&str]| own("MultiHeadAttention", inputs, heads());
    let products = |inputs: &[&str], attributes: &[(&str, i64)]| {
        own("MatMulNBits", inputs, attributes.iter().map(|(name, i)| int(name, *i)).collect())
    };
    let rows = |attributes: &[(&str, i64)]| {
        let attributes = attributes.iter().map(|(name, i)| int(name, *i)).collect();
        own("GatherBlockQuantized", &["w", "i", "s"], attributes)
    };
    let turned = |attribute| own("RotaryEmbedding", &["x", "i", "c", "c"], vec![attribute]);
    let mut present = attention(&["x", "w", "b"], heads());
    present.output.push("present".into());
    let mut scores = many(&["x", "x", "x"]);
    scores.output.extend(["", "", "qk"].map(String::from));
    let cases = [
        (group_query(&[("smooth_softmax", 1)], &[]), "the attribute smooth_softmax", OPTIMUM),
        (group_query(&[("rotary_interleaved", 1)], &[]), "the attribute rotary_interleaved", OPTIMUM),
        (group_query(&[("qk_output", 1)], &[]), "the attribute qk_output", OPTIMUM),
        (group_query(&[("causal", 0)], &[]), "the attribute causal of 0", OPTIMUM),
        (group_query(&[("kv_cache_bit_width", 8)], &[]), "a quantised cache (kv_cache_bit_width)", "of floats"),
        (quantised("k_quant_type"), "a quantised cache (k_quant_type)", "of floats"),
        (quantised("v_quant_type"), "a quantised cache (v_quant_type)", "of floats"),
        (group_query(&[("sliding_window_cache", 1)], &[]), "sliding_window_cache and no window", OPTIMUM),
        (group_query(&[("a_later_one", 0)], &[]), "the attribute a_later_one, which is not known", OPTIMUM),
        (group_query(&[], &[(9, "i")]), "its input position_ids", OPTIMUM),
        (group_query(&[], &[(10, "x")]), "its input attention_bias", OPTIMUM),
        (group_query(&[], &[(11, "x")]), "its input head_sink", OPTIMUM),
        (group_query(&[], &[(12, "x")]), "its input k_scale", "of floats"),
        (group_query(&[], &[(13, "x")]), "its input v_scale", "of floats"),
        (group_query(&[], &[(14, "x")]), "one of its inputs q_norm_weight and k_norm_weight", OPTIMUM),
        (group_query(&[], &[(15, "x")]), "one of its inputs q_norm_weight and k_norm_weight", OPTIMUM),
        (group_query(&[], &[(16, "i")]), "its input query_seqlens", OPTIMUM),
        (group_query(&[], &[(17, "x")]), "an input 17, which is not known", OPTIMUM),
        (group_query(&[], &[(1, "x")]), "one of its inputs key and value", OPTIMUM),
        (group_query(&[], &[(3, "")]), "no past keys and values", OPTIMUM),
        (attention(&["x", "w", "b", "", "x"], heads()), "a cache (its input past)", OPTIMUM),
        (present, "a cache (its output present)", OPTIMUM),
        (attention(&["x", "w", "b", "", "", "", "i"], heads()), "past_sequence_length", OPTIMUM),
        (attention(&["x", "w", "b"], vec![int("do_rotary", 1)]), "the attribute do_rotary", OPTIMUM),
        (attention(&["x", "w", "b"], vec![int("a_later_one", 1)]), "a_later_one, which is not known", FUSION),
        (attention(&["x", "x", "b"], heads()), "whose weights are not a stored tensor", FUSION),
        (attention(&["x", "w", "b"], vec![]), "Attention without its num_heads", FUSION),
        (attention(&["x", "w", "b", "c"], heads()), "its input mask_index", FUSION),
        (many(&["x"]), "queries, keys and values packed in one input", FUSION),
        (many(&["x", "x"]), "keys and values packed in one input", FUSION),
        (many(&["x", "x", "x", "x"]), "whose bias is not a stored tensor", FUSION),
        (many(&["x", "x", "x", "", "c"]), "its input key_padding_mask", FUSION),
        (many(&["x", "x", "x", "", "", "", "", "", "i"]), "past_sequence_length", OPTIMUM),
        (many(&["x", "x", "x", "", "", "", "", "", "", "i"]), "cache_indirection", OPTIMUM),
        (scores, "its scores as an output (qk)", FUSION),
        (products(&["x", "w", "s"], &[("bits", 2)]), "a MatMulNBits of 2 bits", QUANTISER),
        (products(&["x", "w", "s", "", "i"], &[]), "a g_idx", QUANTISER),
        (products(&["x", "w", "s"], &[("weight_prepacked", 1)]), "weight_prepacked", QUANTISER),
        (products(&["x", "w", "s"], &[("a_later_one", 1)]), "a_later_one, which is not known", QUANTISER),
        (products(&["x", "w", "s"], &[("K", 4), ("N", 4), ("block_size", 16)]), "not stored tensors", QUANTISER),
        (rows(&[("bits", 2)]), "a GatherBlockQuantized of 2 bits", "shared_embeddings"),
        (rows(&[("gather_axis", 1)]), "along another axis", "shared_embeddings"),
        (rows(&[("block_size", 16)]), "are not stored, in blocks along the last of two axes", "shared_embeddings"),
        (turned(number("scale", 2.0)), "a RotaryEmbedding with the attribute scale", OPTIMUM),
        (turned(int("is_packed_batching", 1)), "the attribute is_packed_batching", OPTIMUM),
        (turned(int("a_later_one", 1)), "a_later_one, which is not known", OPTIMUM),
        (own("LinearAttention", &["x"], vec![]), "LinearAttention (a state in place of a KV cache)", DENSE),
        (own("CausalConvWithState", &["x"], vec![]), "CausalConvWithState (a state", DENSE),
        (own("SparseAttention", &["x"], vec![]), "SparseAttention (an attention to blocks", DENSE),
        (own("MoE", &["x"], vec![]), "MoE (a mixture of experts)", DENSE),
        (own("QMoE", &["x"], vec![]), "QMoE (a mixture of experts)", DENSE),
        (own("MatMulBnb4", &["x"], vec![]), "MatMulBnb4 (weights of 4 bits in NF4", "model_q4.onnx"),
        (own("QAttention", &["x"], vec![]), "QAttention (a quantised attention)", "op_types_to_quantize"),
        (own("PagedAttention", &["x"], vec![]), "PagedAttention (a cache in pages)", "-e cpu"),
    ];
    for (node, what, hint) in cases {
        let op = node.op_type.clone();
        let stored = vec![
            floats("w", &ramp(&[4, 12])),
            floats("b", &ramp(&[12])),
            floats("c", &ramp(&[2, 3, 3])),
            floats("s", &ramp(&[4, 1])),
        ];
        let (said, next) = refused(&graph(&[2, 3, 4], &[2, 3], stored, vec![node]));
        assert!(said.contains(what) && said.contains("here") && said.contains(&op), "{op}: {what}: {said}");
        assert!(next.contains(hint), "{op}: {what}: {hint:?} is not in {next:?}");
    }
}

/// An attention with a cache needs more of the graph than its node.
#[test]
fn an_attention_that_lacks_a_part_of_its_graph_is_named() {
    let with = |mask: &str, product: &str, table: &str| {
        let attributes = ["num_heads", "kv_num_heads", "do_rotary"].iter().zip([2, 1, 1]);
        let inputs = ["p", "", "", "k", "k", "n", "n", table, table];
        let nodes = vec![
            node("MatMul", &["x", product], "p", vec![]),
            NodeProto {
                output: ["y", "k_out", "v_out"].map(String::from).into(),
                ..own("GroupQueryAttention", &inputs, attributes.map(|(name, i)| int(name, i)).collect())
            },
        ];
        let of = |dims: &[i64]| dims.iter().map(|d| Value::DimValue(*d)).collect::<Vec<_>>();
        let mut inputs = vec![input("x", DataType::Float, &of(&[1, 3, 4])), input(mask, DataType::Int64, &of(&[1, 3]))];
        if [product, table].contains(&"m") {
            inputs.push(input("m", DataType::Float, &of(&[4, 16])));
        }
        let initializers = vec![
            floats("w", &ramp(&[4, 16])),
            floats("k", &Tensor::zero::<f32>(&[1, 1, 0, 4]).unwrap()),
            floats("t", &ramp(&[8, 2])),
            TensorProto { data_type: DataType::Int32 as i32, ..stored("n", &[1], &[2]) },
        ];
        model(18, inputs, initializers, nodes)
    };
    base(&with("attention_mask", "w", "t")).unwrap();
    for (model, what) in [
        (with("i", "w", "t"), "in a model without an input attention_mask"),
        (with("attention_mask", "m", "t"), "whose heads' size is not told"),
        (with("attention_mask", "w", "m"), "whose cos_cache and sin_cache are not stored"),
    ] {
        let (said, next) = refused(&model);
        assert!(said.contains(what) && said.contains("here"), "{what}: {said}");
        assert!(next.contains(OPTIMUM), "{next}");
    }
}

/// The angles turn pairs of numbers: `(a + bi)·(cos + i·sin)`.
#[test]
fn heads_are_turned_by_the_angles_of_their_positions() {
    let (batch, positions, heads, rows) = (2, 3, 2, 9);
    let listed: Vec<i64> = vec![4, 0, 7, 1, 1, 8];
    for (half, size, said) in [(2, 4, false), (2, 4, true), (2, 6, true)] {
        for interleaved in [false, true] {
            for flat in [true, false] {
                for single in [false, true] {
                    let shape =
                        if flat { vec![batch, positions, heads * size] } else { vec![batch, heads, positions, size] };
                    let x = ramp(&shape);
                    let (cos, sin) = (ramp(&[rows, half]), ramp(&[rows, half + 1]));
                    let sin = sin.slice(1, 1, half + 1).unwrap();
                    let mut attributes = vec![int("interleaved", interleaved.into())];
                    if said {
                        attributes
                            .extend([int("num_heads", heads as i64), int("rotary_embedding_dim", 2 * half as i64)]);
                    }
                    let nodes = vec![
                        node("Add", &["i", "none"], "places", vec![]),
                        own("RotaryEmbedding", &["x", "places", "cos", "sin"], attributes),
                    ];
                    let places = if single { vec![5] } else { listed.clone() };
                    let places_shape = if single { vec![1] } else { vec![batch, positions] };
                    // A model's inputs lead with its batch, so a single position is stored.
                    let (i, i_shape) = match single {
                        true => (Tensor::zero::<i64>(&[2, 1]).unwrap(), vec![2, 1]),
                        false => (Tensor::from_shape(&places_shape, &places).unwrap(), places_shape),
                    };
                    let mut nodes = nodes;
                    if single {
                        nodes[0] = node("Identity", &["five"], "places", vec![]);
                    }
                    let initializers = vec![
                        floats("cos", &cos),
                        floats("sin", &sin),
                        stored("none", &[1], &[0]),
                        stored("five", &[1], &[5]),
                    ];
                    let y = answer(&graph(&shape, &i_shape, initializers, nodes), &x, &i).unwrap();
                    let values = |t: &Tensor| crate::ops::floats(t).unwrap().to_vec();
                    let (xs, cos, sin) = (values(&x), values(&cos), values(&sin));
                    let at = |b: usize, s: usize, h: usize, n: usize| match flat {
                        true => ((b * positions + s) * heads + h) * size + n,
                        false => ((b * heads + h) * positions + s) * size + n,
                    };
                    let mut wanted = xs.clone();
                    for (b, s, h, n) in (0..batch * positions * heads * half).map(|all| {
                        (all / half / heads / positions, all / half / heads % positions, all / half % heads, all % half)
                    }) {
                        let row = if single { 5 + s } else { listed[b * positions + s] as usize };
                        let (first, second) = if interleaved { (2 * n, 2 * n + 1) } else { (n, n + half) };
                        let (a, c) = (xs[at(b, s, h, first)], xs[at(b, s, h, second)]);
                        let (cos, sin) = (cos[row * half + n], sin[row * half + n]);
                        wanted[at(b, s, h, first)] = a * cos - c * sin;
                        wanted[at(b, s, h, second)] = a * sin + c * cos;
                    }
                    close(&y, &wanted);
                }
            }
        }
    }
}

/// A table in blocks, and the numbers that it stands for; rows of `kind`.
fn table(kind: i32, bits: i64, sizes: [usize; 3], zeros: bool, reshaped: bool) -> (ModelProto, Vec<f32>) {
    let [rows, width, block] = sizes;
    let (blocks, most) = (width.div_ceil(block), (1 << bits) - 1);
    let code = |row: usize, at: usize| ((row * 31 + at * 17 + row * at) % (most + 1)) as u8;
    let scale = |row: usize, at: usize| 0.01 + ((row * 5 + at * 3) % 7) as f32 / 100.0;
    let usual = if kind == UINT4 { 0 } else { most.div_ceil(2) as u8 };
    let zero = |row: usize, at: usize| if zeros { ((row + 2 * at) % (most + 1)) as u8 } else { usual };
    let packed = |of: &dyn Fn(usize, usize) -> u8, count: usize| -> Vec<u8> {
        let row = |row: usize| -> Vec<u8> {
            let all: Vec<u8> = (0..count).map(|at| of(row, at)).collect();
            if bits == 8 { all } else { all.chunks(2).map(|p| p[0] | p.get(1).unwrap_or(&0) << 4).collect() }
        };
        (0..rows).flat_map(row).collect()
    };
    let each = if kind == UINT4 || bits == 8 { 1 } else { 2 };
    let tensor = |name: &str, dims: &[usize], values: &[u8]| {
        let dims: Vec<i64> = dims.iter().map(|d| *d as i64).collect();
        TensorProto { data_type: kind, ..bytes(name, DataType::Uint8, &dims, values) }
    };
    let scales: Vec<f32> = (0..rows).flat_map(|row| (0..blocks).map(move |at| scale(row, at))).collect();
    let codes = packed(&code, width);
    let first = if reshaped { vec![rows * width / each] } else { vec![rows, width / each] };
    let mut initializers = vec![
        tensor("w", &first, &codes),
        float_tensor("s".into(), &scales, &[rows as i64, blocks as i64]),
        stored("shape", &[2], &[rows as i64, -1]),
    ];
    if zeros {
        initializers.push(tensor("z", &[rows, blocks.div_ceil(each)], &packed(&zero, blocks)));
    }
    let mut nodes = vec![node("Reshape", &["w", "shape"], "again", vec![])];
    let (data, zero_input) = (if reshaped { "again" } else { "w" }, if zeros { "z" } else { "" });
    if !reshaped {
        nodes.clear();
    }
    let attributes = [("bits", bits), ("block_size", block as i64), ("gather_axis", 0), ("quantize_axis", 1)];
    let attributes = attributes.map(|(name, i)| int(name, i)).to_vec();
    let looked = NodeProto {
        output: vec!["rows".into()],
        ..own("GatherBlockQuantized", &[data, "i", "s", zero_input], attributes)
    };
    nodes.extend([looked, node("Add", &["rows", "x"], "y", vec![])]);
    let value = |row: usize, at: usize| (code(row, at) as f32 - zero(row, at / block) as f32) * scale(row, at / block);
    let values = (0..rows).flat_map(|row| (0..width).map(move |at| value(row, at))).collect();
    (graph(&[2, 1, 1], &[2, 3], initializers, nodes), values)
}

#[test]
fn rows_of_tables_in_blocks() {
    let (u8s, places) = (DataType::Uint8 as i32, [4i64, 0, 2, 1, 1, 3]);
    // Small ones, one of which does not fill its last block, and such as are large enough to stay narrow.
    let forms = [(u8s, 4, [5, 32, 16]), (u8s, 8, [5, 32, 16]), (UINT4, 4, [5, 32, 16]), (u8s, 4, [5, 24, 16])];
    let large = [(u8s, 4, [64, 128, 32]), (u8s, 8, [64, 128, 32]), (UINT4, 4, [64, 128, 32])];
    for (kind, bits, sizes) in forms.into_iter().chain(large) {
        for (zeros, reshaped) in [(false, false), (true, false), (false, true), (true, true)] {
            let (model, values) = table(kind, bits, sizes, zeros, reshaped);
            let i = Tensor::from_shape(&[2, 3], &places).unwrap();
            let x = Tensor::zero::<f32>(&[2, 1, 1]).unwrap();
            let y = answer(&model, &x, &i).unwrap_or_else(|e| panic!("{kind} {bits} {sizes:?} {zeros}: {e:?}"));
            let wanted: Vec<f32> =
                places.iter().flat_map(|row| values[*row as usize * sizes[1]..][..sizes[1]].to_vec()).collect();
            close(&y, &wanted);
            if sizes[0] * sizes[1] >= 4096 {
                let bytes = base(&model).unwrap().weight_bytes();
                assert!(bytes < (sizes[0] * sizes[1] * 2) as u64, "{kind} {bits} {zeros}: {bytes} bytes");
            }
        }
    }
    // A row that the table does not have.
    let (model, _) = table(u8s, 4, [5, 32, 16], false, false);
    let i = Tensor::from_shape(&[2, 3], &[4i64, 0, 2, 1, 1, 5]).unwrap();
    assert!(answer(&model, &Tensor::zero::<f32>(&[2, 1, 1]).unwrap(), &i).is_err());
}
