#!/usr/bin/env python3
"""Writes tests/goldens/operator_forms.zip: every optional form of every supported operator at every opset, with what ONNX Runtime answers.

usage: operator_forms.py [--out tests/goldens/operator_forms.zip] [--only OP]
needs: onnx, onnxruntime, numpy

For each operator of the table below and each version of its schema (`onnx.defs.get_all_schemas_with_history`) there is a model without any
optional input or attribute, one for each value of each option, and one with all options at once. An option is given by name: as an attribute in the
versions in which it is one, as an input in those in which it is an input. Results that are not floats are cast to floats. A form that
ONNX Runtime refuses is left out and counted in meta.json. NAME.onnx and NAME.npz are as `onnx_node_tests.py` writes them.
"""

import argparse
import collections
import io
import json
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnx.defs import OpSchema, get_all_schemas_with_history

from onnx_node_tests import rounded

warnings.filterwarnings("ignore")
NEWEST = 24  # of those that ONNX Runtime runs
rng = np.random.default_rng(7)


def f(*shape, low=-1.0, high=1.0):
    return rng.uniform(low, high, shape).astype(np.float32)


def i(*values):
    return np.array(values, dtype=np.int64)


class Op:
    """The inputs that every form has, of which the first `data` are fed, and the values of each option."""

    def __init__(self, *inputs, data=None, needs=None, domain="", outputs=1, **options):
        self.inputs, self.domain, self.outputs = inputs, domain, outputs
        self.data = len(inputs) if data is None else data
        self.needs, self.options = needs or {}, options


def unary(low=-1.0, high=1.0, **options):
    return Op(f(2, 3, 4, low=low, high=high), **options)


def reduce(low=-1.0):
    return Op(f(2, 3, 4, low=low), axes=[i(1), i(-1), i(0, 2), i(-1, 1)], keepdims=[0, 1], noop_with_empty_axes=[1])


def binary(low=-1.0):
    return Op(f(2, 3, 4, low=low), f(3, 1, low=low if low > 0 else 0.5))


picture, kernel = f(1, 4, 7, 8), f(6, 4, 3, 3)
POOL = {
    "strides": [i(2, 2), i(1, 2)], "pads": [i(1, 1, 1, 1), i(0, 1, 1, 0)], "auto_pad": ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"],
    "ceil_mode": [1, 0], "dilations": [i(2, 2), i(1, 1)],
}  # fmt: skip
KERNEL = {"kernel_shape": i(3, 3)}
SCALED = np.array([1, 1, 2, 2], dtype=np.float32)
SEQUENCE, HIDDEN = f(5, 2, 3), 4


def recurrent(gates, **more):
    weights = [f(1, gates * HIDDEN, 3), f(1, gates * HIDDEN, HIDDEN)]
    return Op(
        SEQUENCE, *weights, data=1, needs={"hidden_size": HIDDEN}, outputs=2, B=[f(1, 2 * gates * HIDDEN)],
        initial_h=[f(1, 2, HIDDEN)], sequence_lens=[np.array([5, 5], dtype=np.int32)], direction=["forward", "reverse"], layout=[0],
        **more,
    )  # fmt: skip


TABLE = {
    **{op: unary() for op in "Abs Ceil Cos Cosh Erf Exp Floor Identity Neg Relu Round Sigmoid Sign Sin Sinh Softplus Softsign Tan Tanh".split()},
    **{op: unary() for op in "Atan Asinh GlobalAveragePool GlobalMaxPool HardSwish Mish".split()},
    **{op: unary(low=0.1, high=0.9) for op in "Acos Asin Atanh Log Sqrt Reciprocal".split()},
    "MeanVarianceNormalization": Op(f(2, 3, 4, 2), axes=[i(1, 2), i(0, 2, 3)]),
    "Acosh": unary(low=1.1, high=3.0),
    **{op: binary() for op in "Add Sub Mul Div".split()},
    **{op: reduce() for op in "ReduceL1 ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare ReduceLogSumExp".split()},
    "ReduceLogSum": reduce(0.2),
    **{op: Op(f(2, 3, 4)) for op in "Max Min Mean Sum".split()},
    "Pow": Op(f(2, 3, 4, low=0.2), f(3, 1, low=0.5)),
    **{op: Op(f(2, 3), f(2, 3)) for op in "Equal Greater Less GreaterOrEqual LessOrEqual".split()},
    "Not": Op(np.array([[True, False, True]])),
    **{op: Op(np.array([[True, False]]), np.array([[True], [False]])) for op in "And Or Xor".split()},
    "Where": Op(np.array([[True], [False]]), f(2, 3), f(2, 3)),
    "ArgMax": Op(f(2, 3, 4), axis=[0, 1, -1], keepdims=[0, 1], select_last_index=[0, 1]),
    "ArgMin": Op(f(2, 3, 4), axis=[0, 1, -1], keepdims=[0, 1], select_last_index=[0, 1]),
    "AveragePool": Op(picture, needs=KERNEL, count_include_pad=[0, 1], **POOL),
    "MaxPool": Op(picture, needs=KERNEL, storage_order=[0], **POOL),
    "LpPool": Op(picture, needs=KERNEL, p=[1, 3], **POOL),
    "GlobalLpPool": Op(picture, p=[1, 3]),
    "BatchNormalization": Op(picture, f(4), f(4), f(4), f(4, low=0.2), data=1, epsilon=[1e-2], momentum=[0.5], spatial=[1], training_mode=[0]),
    "InstanceNormalization": Op(picture, f(4), f(4), data=1, epsilon=[1e-2]),
    "LayerNormalization": Op(f(2, 3, 4), f(4), data=1, B=[f(4)], axis=[-1], epsilon=[1e-2], stash_type=[1]),
    "RMSNormalization": Op(f(2, 3, 4), f(4), data=1, axis=[-1], epsilon=[1e-2]),
    "GroupNormalization": Op(picture, f(4), f(4), data=1, needs={"num_groups": 2}, epsilon=[1e-2]),
    "LRN": Op(picture, needs={"size": 3}, alpha=[0.1], beta=[0.5], bias=[2.0]),
    "LpNormalization": Op(f(2, 3, 4), axis=[0, 1, -1], p=[1, 2]),
    "Cast": Op(f(2, 3, high=3.0), needs={"to": TensorProto.INT32}, saturate=[1]),
    "CastLike": Op(f(2, 3, high=3.0), i(1), saturate=[1]),
    "Celu": unary(alpha=[0.5]),
    "Clip": unary(min=[np.float32(-0.3)], max=[np.float32(0.4)]),
    "Compress": Op(f(3, 4), np.array([True, False, True]), axis=[0, -2]),
    "Concat": Op(f(2, 3), f(2, 3), needs={"axis": -1}),
    "ConstantOfShape": Op(i(2, 3), value=[numpy_helper.from_array(np.array([2.5], dtype=np.float32)), numpy_helper.from_array(i(3))]),
    "Conv": Op(
        picture, kernel, data=1, B=[f(6)], auto_pad=["SAME_UPPER", "SAME_LOWER", "VALID"], dilations=[i(2, 2)], group=[1], kernel_shape=[i(3, 3)],
        pads=[i(1, 1, 1, 1), i(0, 1, 1, 0)], strides=[i(2, 2), i(1, 2)],
    ),
    "ConvTranspose": Op(
        picture, f(4, 5, 3, 3), data=1, B=[f(5)], auto_pad=["SAME_UPPER", "SAME_LOWER", "VALID"], dilations=[i(2, 2)], group=[1],
        kernel_shape=[i(3, 3)], output_padding=[i(0, 0)], output_shape=[i(9, 10), i(8, 10)], pads=[i(1, 1, 1, 1), i(0, 1, 1, 0)],
        strides=[i(2, 2), i(1, 2)],
    ),
    "ConvInteger": Op(
        rng.integers(0, 9, (1, 4, 7, 8)).astype(np.uint8), rng.integers(0, 9, (6, 4, 3, 3)).astype(np.uint8), x_zero_point=[np.uint8(3)],
        w_zero_point=[np.uint8(2)], auto_pad=["SAME_UPPER", "VALID"], strides=[i(2, 2)], pads=[i(1, 1, 1, 1)],
    ),
    "MatMulInteger": Op(
        rng.integers(0, 9, (2, 3)).astype(np.uint8), rng.integers(0, 9, (3, 4)).astype(np.uint8), a_zero_point=[np.uint8(3)],
        b_zero_point=[np.uint8(2)],
    ),
    "CumSum": Op(f(2, 3, 4), i(1)[0], exclusive=[1], reverse=[1]),
    "DepthToSpace": Op(f(1, 8, 2, 3), needs={"blocksize": 2}, mode=["DCR", "CRD"]),
    "SpaceToDepth": Op(f(1, 2, 4, 6), needs={"blocksize": 2}),
    "DequantizeLinear": Op(
        rng.integers(0, 9, (2, 3, 4)).astype(np.uint8), np.float32(0.3), x_zero_point=[np.uint8(3)], axis=[1],
    ),
    "QuantizeLinear": Op(
        f(2, 3, 4), np.float32(0.1), data=1, y_zero_point=[np.uint8(3), np.int8(3)], axis=[1], saturate=[1],
        output_dtype=[TensorProto.UINT8, TensorProto.INT8],
    ),
    "DynamicQuantizeLinear": Op(f(2, 3, 4), outputs=3),
    "Dropout": unary(ratio=[np.float32(0.3)], training_mode=[np.array(False)], seed=[3], is_test=[1]),
    "DFT": Op(f(1, 6, 2), data=1, dft_length=[i(6)[0]], axis=[1, i(1)[0]], inverse=[1], onesided=[0]),
    "STFT": Op(f(1, 16, 1), i(4)[0], data=1, window=[f(8, low=0.1)], frame_length=[i(8)[0]], onesided=[0, 1]),
    "Einsum": Op(f(2, 3), f(3, 4), needs={"equation": "ij,jk->ik"}),
    "Elu": unary(alpha=[0.5]),
    "Expand": Op(f(3, 1), i(2, 3, 4)),
    "EyeLike": Op(f(3, 4), dtype=[TensorProto.FLOAT, TensorProto.INT64], k=[1, -1]),
    "Flatten": Op(f(2, 3, 4), axis=[0, 1, 2, 3, -1]),
    "Gather": Op(f(3, 4), i(2, 0), axis=[0, 1, -1]),
    "GatherElements": Op(f(3, 4), np.array([[0, 1, 2, 0]]), axis=[0, -2]),
    "GatherND": Op(f(3, 4), np.array([[0, 1], [2, 3]]), batch_dims=[0]),
    "Gelu": unary(approximate=["none", "tanh"]),
    "Gemm": Op(f(3, 4), f(4, 3), C=[f(3), f(3, 3), f(1, 3), np.float32(0.5)], alpha=[0.5], beta=[2.0], transA=[0], transB=[0]),
    "GridSample": Op(
        f(1, 2, 4, 4), f(1, 3, 3, 2), data=1, mode=["linear", "bilinear", "nearest", "cubic"], padding_mode=["zeros", "border", "reflection"],
        align_corners=[0, 1],
    ),
    "HardSigmoid": unary(alpha=[0.3], beta=[0.4]),
    "Hardmax": Op(f(2, 3, 4), axis=[0, 1, 2, -1]),
    "Softmax": Op(f(2, 3, 4), axis=[0, 1, 2, -1]),
    "LogSoftmax": Op(f(2, 3, 4), axis=[0, 1, 2, -1]),
    "IsInf": Op(np.array([1, np.inf, -np.inf], dtype=np.float32), detect_positive=[0], detect_negative=[0], data=0),
    "IsNaN": Op(np.array([1, np.nan], dtype=np.float32), data=0),
    "LeakyRelu": unary(alpha=[0.3]),
    "LSTM": recurrent(4, initial_c=[f(1, 2, HIDDEN)], P=[f(1, 3 * HIDDEN)], input_forget=[0]),
    "GRU": recurrent(3, linear_before_reset=[0, 1]),
    "RNN": recurrent(1),
    "MatMul": Op(f(2, 3), f(3, 4)),
    "Mod": Op(f(2, 3, low=1.0, high=9.0), f(3, low=1.0, high=3.0), needs={"fmod": 1}),
    "NonZero": Op(np.array([[1, 0], [0, 2]], dtype=np.float32), data=0),
    "OneHot": Op(i(0, 2, -1), i(3)[0], np.array([0, 5], dtype=np.float32), data=0, axis=[0, 1, -1]),
    "PRelu": Op(f(2, 3, 4), f(4), data=1),
    "Pad": Op(
        f(2, 3, 4), needs={"pads": i(0, 1, 1, 1, 0, 2)}, mode=["constant", "reflect", "edge"], constant_value=[np.float32(1.5)], value=[1.5],
    ),
    "Range": Op(np.float32(1), np.float32(4), np.float32(0.5), data=0),
    "Reshape": Op(f(2, 3, 4), needs={"shape": i(3, -1)}, allowzero=[0]),
    "Resize": Op(
        f(1, 2, 4, 6), needs={"roi": np.array([], dtype=np.float32), "scales": SCALED}, mode=["nearest", "linear", "cubic"],
        coordinate_transformation_mode=["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"],
        nearest_mode=["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"], cubic_coeff_a=[-0.5], exclude_outside=[1],
        extrapolation_value=[0.5], antialias=[0], keep_aspect_ratio_policy=["stretch"],
    ),
    "Upsample": Op(f(1, 2, 4, 6), needs={"scales": SCALED}, mode=["nearest", "linear"]),
    "ReverseSequence": Op(f(4, 3, 2), i(4, 2, 3), data=1, batch_axis=[1], time_axis=[0]),
    "RotaryEmbedding": Op(f(1, 2, 3, 4), f(1, 3, 2), f(1, 3, 2), data=1, interleaved=[0, 1], position_ids=[]),
    "Scatter": Op(f(3, 3), np.array([[1, 0, 2]]), f(1, 3), axis=[0, 1]),
    "ScatterElements": Op(f(3, 3), np.array([[1, 0, 2]]), f(1, 3), axis=[0, 1, -1], reduction=["none", "add", "mul", "max", "min"]),
    "ScatterND": Op(f(4, 3), np.array([[1], [3]]), f(2, 3), reduction=["none", "add", "mul", "max", "min"]),
    "Selu": unary(alpha=[1.5], gamma=[1.1]),
    "Shape": Op(f(2, 3, 4), start=[1, -1], end=[2, -1]),
    "Size": unary(),
    "Shrink": unary(bias=[0.2], lambd=[0.3]),
    "Slice": Op(f(4, 5), needs={"starts": i(1, 0), "ends": i(3, 4)}, axes=[i(0, 1), i(1, 0), i(-1, -2)], steps=[i(1, 1)]),
    "Split": Op(f(2, 6), outputs=2, axis=[0, 1, -1], split=[], num_outputs=[2]),
    "Squeeze": Op(f(1, 3, 1, 4), axes=[i(0), i(2), i(0, 2), i(-2), i(2, 0), i(-2, 0)]),
    "Unsqueeze": Op(f(3, 4), needs={"axes": i(0, -1)}),
    "Swish": unary(alpha=[1.5]),
    "ThresholdedRelu": unary(alpha=[0.3]),
    "Tile": Op(f(2, 3), i(2, 1)),
    "TopK": Op(f(2, 5), needs={"k": 2, "K": i(2)}, outputs=2, axis=[0, 1, -1], largest=[0, 1], sorted=[1]),
    "Transpose": Op(f(2, 3, 4), perm=[i(1, 2, 0)]),
    "Trilu": Op(f(3, 4), k=[i(1)[0], i(-1)[0]], upper=[0, 1]),
    "CenterCropPad": Op(f(4, 5), i(3, 6), axes=[i(0, 1), i(-2, -1)]),
    "Col2Im": Op(f(1, 4, 4), i(3, 3), i(2, 2), dilations=[i(1, 1)], pads=[i(0, 0, 0, 0)], strides=[i(1, 1)]),
    "Attention": Op(f(1, 2, 3, 4), f(1, 2, 5, 4), f(1, 2, 5, 4), attn_mask=[f(3, 5)], is_causal=[0, 1], scale=[0.5], softcap=[2.0]),
    **{op: Op(np.array([12, 7], dtype=np.uint8), np.array([10, 3], dtype=np.uint8)) for op in "BitwiseAnd BitwiseOr BitwiseXor".split()},
    "BitwiseNot": Op(np.array([12, 7], dtype=np.uint8)),
    **{op: Op(i(8)[0], periodic=[0, 1], output_datatype=[TensorProto.FLOAT]) for op in "HannWindow HammingWindow BlackmanWindow".split()},
    "MelWeightMatrix": Op(i(8)[0], i(16)[0], i(8000)[0], np.float32(100), np.float32(3000), data=0, output_datatype=[TensorProto.FLOAT]),
    "AffineGrid": Op(f(1, 2, 3), i(1, 1, 3, 4), align_corners=[0, 1]),
    "TensorScatter": Op(f(2, 4, 3), f(2, 1, 3), data=2, write_indices=[i(1, 2)], axis=[1, -2], mode=["linear", "circular"]),
    "BitShift": Op(np.array([8, 4], dtype=np.uint8), np.array([1, 1], dtype=np.uint8), needs={"direction": "RIGHT"}),
    "Scaler": Op(f(3, 4), domain="ai.onnx.ml", offset=[f(4), f(1)], scale=[f(4), f(1)]),
    "Normalizer": Op(f(3, 4), domain="ai.onnx.ml", norm=["MAX", "L1", "L2"]),
    "LinearRegressor": Op(
        f(3, 4), domain="ai.onnx.ml", needs={"coefficients": f(8), "targets": 2}, intercepts=[f(2)], post_transform=["NONE"],
    ),
    "LinearClassifier": Op(
        f(3, 4), domain="ai.onnx.ml", outputs=2, needs={"coefficients": f(12), "classlabels_ints": i(0, 1, 2)}, intercepts=[f(3)],
        multi_class=[0, 1], post_transform=["NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT"],
    ),
    "Imputer": Op(
        np.array([[1, np.nan], [2, 3]], dtype=np.float32), data=0, domain="ai.onnx.ml", needs={"imputed_value_floats": f(2)},
        replaced_value_float=[float("nan"), 2.0],
    ),
    "Binarizer": Op(f(3, 4), domain="ai.onnx.ml", threshold=[0.2]),
    "ArrayFeatureExtractor": Op(f(3, 4), i(2, 0), domain="ai.onnx.ml"),
    "FeatureVectorizer": Op(f(3, 4), f(3, 2), domain="ai.onnx.ml", inputdimensions=[i(4, 2)]),
}


def schemas():
    """The versions of the schema of each operator, oldest first."""
    found = collections.defaultdict(list)
    for schema in get_all_schemas_with_history():
        if schema.domain in ("", "ai.onnx.ml") and schema.name in TABLE and not schema.deprecated:
            found[schema.name].append(schema)
    return {name: sorted(versions, key=lambda s: s.since_version) for name, versions in found.items()}


def attribute(schema, name, value):
    """An option as an attribute of the type that this version has."""
    kind = schema.attributes[name].type
    if kind == OpSchema.AttrType.FLOAT:
        return helper.make_attribute(name, float(value))
    if kind == OpSchema.AttrType.FLOATS:
        return helper.make_attribute(name, [float(v) for v in np.atleast_1d(value)])
    if kind == OpSchema.AttrType.INT:
        return helper.make_attribute(name, int(value))
    if kind == OpSchema.AttrType.INTS:
        return helper.make_attribute(name, [int(v) for v in np.atleast_1d(value)])
    return helper.make_attribute(name, value)


def build(op, schema, opset, options, blank=False):
    """A model of one node with these options at this opset; none if this version has no such option. Blank: optional inputs at the end are
    there, without a name."""
    names = [p.name for p in schema.inputs]
    variadic = bool(schema.inputs) and schema.inputs[-1].option == OpSchema.FormalParameterOption.Variadic
    values, attributes = dict(enumerate(op.inputs)), []
    for name, value in {**op.needs, **options}.items():
        if name in schema.attributes:
            if isinstance(value, np.ndarray) and value.ndim == 0:
                value = value.item()
            attributes.append(attribute(schema, name, value))
        elif name in names:
            if not isinstance(value, (np.ndarray, np.generic)):
                return None
            values[names.index(name)] = np.asarray(value)
        elif name in options:
            return None
    if not variadic and max(values) >= len(names):
        return None
    inputs, initializers, fed = [], [], {}
    for at in range(max(values) + 1):
        if at not in values:
            inputs.append("")
            continue
        name, value = f"i{at}", np.asarray(values[at])
        inputs.append(name)
        if at < op.data and value.dtype == np.float32:
            fed[name] = value
        else:
            initializers.append(numpy_helper.from_array(value, name))
    if blank:
        rest = [""] * (len(names) - len(inputs))
        # ONNX Runtime crashes on these two.
        if variadic or not rest or schema.name in ("DFT", "LayerNormalization"):
            return None
        inputs += rest
    made = [f"o{n}" for n in range(op.outputs)]
    node = helper.make_node(schema.name, inputs, made, domain=schema.domain, name="node")
    node.attribute.extend(attributes)
    nodes, outputs = [node], []
    for name in made:
        nodes.append(helper.make_node("Cast", [name], [f"{name}.float"], to=TensorProto.FLOAT))
        outputs.append(helper.make_tensor_value_info(f"{name}.float", TensorProto.FLOAT, None))
    taken = [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in fed.items()]
    graph = helper.make_graph(nodes, "form", taken, outputs, initializers)
    opsets = [helper.make_opsetid("", 9 if schema.domain else opset)]
    if schema.domain:
        opsets.append(helper.make_opsetid(schema.domain, schema.since_version))
    return helper.make_model(graph, opset_imports=opsets, ir_version=10 if opsets[0].version > 20 else 8), fed


def forms(op):
    """The options of each form, by a short name."""
    yield "plain", {}
    yield "blank", {}
    for name, values in op.options.items():
        for n, value in enumerate(values):
            yield f"{name}{n}", {name: value}
    if len(op.options) > 1:
        yield "all", {name: values[-1] for name, values in op.options.items() if values}
        pairs = [(a, b) for a in op.options for b in op.options if a < b]
        for a, b in pairs[:40]:
            if op.options[a] and op.options[b]:
                yield f"{a}_{b}", {a: op.options[a][0], b: op.options[b][0]}


def answer(model, fed):
    settings = ort.SessionOptions()
    settings.log_severity_level, settings.intra_op_num_threads = 4, 1
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    return session.run(None, fed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests/goldens/operator_forms.zip")
    parser.add_argument("--only")
    options = parser.parse_args()
    files, left_out, count = {}, collections.Counter(), 0
    ort.set_default_logger_severity(4)
    for name, versions in sorted(schemas().items()):
        op = TABLE[name]
        if options.only not in (None, name):
            continue
        for schema, after in zip(versions, [*versions[1:], None], strict=True):
            # ONNX Runtime knows operators as they were from opset 7 on.
            opset = max(schema.since_version, 7)
            if after is not None and after.since_version <= opset:
                continue
            if schema.since_version > NEWEST or schema.domain != op.domain:
                continue
            for form, chosen in forms(op):
                # ONNX Runtime leaves the dilations out of the padding that it chooses, against the specification.
                odd = "dilations" in chosen and "SAME" in str(chosen.get("auto_pad")) and name.endswith("Pool")
                built = None if odd else build(op, schema, opset, chosen, form == "blank")
                if built is None:
                    continue
                model, fed = built
                try:
                    results = answer(model, fed)
                except Exception as e:  # whatever ONNX Runtime says of the form
                    left_out[f"{name} {schema.since_version}"] += 1
                    if options.only:
                        print(schema.since_version, form, str(e).splitlines()[0][:160])
                    continue
                case, stream = f"{name}-{schema.since_version:02}-{form}", io.BytesIO()
                expected = {f"expected {o.name}": rounded(r) for o, r in zip(model.graph.output, results, strict=True)}
                np.savez(stream, **fed, **expected)
                files[f"{case}.onnx"], files[f"{case}.npz"] = model.SerializeToString(), stream.getvalue()
                count += 1
    meta = {"onnx": onnx.__version__, "onnxruntime": ort.__version__, "cases": count, "left_out": dict(sorted(left_out.items()))}
    files["meta.json"] = (json.dumps(meta, indent=1) + "\n").encode()
    with zipfile.ZipFile(options.out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED, 9)
    print(f"{count} forms of {len(TABLE)} operators, {options.out.stat().st_size // 1024} KiB; {sum(left_out.values())} refused")
    missing = sorted(set(TABLE) - {n.split("-")[0] for n in files})
    print("none of", missing)


if __name__ == "__main__":
    main()
