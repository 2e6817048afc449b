#!/usr/bin/env python3
"""Writes tests/goldens/nodes.zip: the ONNX project's own tests of single operators, as far as a gradient could be asked of them. Run by hand.

usage: onnx_node_tests.py [--out tests/goldens/nodes.zip]
needs: onnx, numpy

Every case that has an input of floats and an output of floats (doubles are made single) becomes NAME.onnx and NAME.npz: the floats that a layer before the node could have
computed stay inputs, with the values of the test; everything else (indices, sizes, kernels, statistics) is stored in the model. What the test
expects of an output of float32 is the array "expected OUTPUT", to 16 significant bits, with the largest float32 for an infinity and
half of it for what is not a number. Left out, and counted in meta.json by reason: cases of
other types or without a gradient to ask for, the expanded twins of functions, and large ones.
"""

import argparse
import io
import json
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

warnings.filterwarnings("ignore")
LARGEST = 12000  # values of one input

# Operators of which only these inputs are data: the others are settings, or what a frozen layer stores.
DATA = {
    "Conv": 1, "ConvTranspose": 1, "DeformConv": 1, "LSTM": 1, "GRU": 1, "RNN": 1, "BatchNormalization": 1, "Resize": 1, "Upsample": 1,
    "GridSample": 1, "Pad": 1, "Clip": 1, "Dropout": 1, "OneHot": 0, "Range": 0, "RotaryEmbedding": 1, "AffineGrid": 1,
    "QuantizeLinear": 1, "DynamicQuantizeLinear": 1, "MelWeightMatrix": 0, "STFT": 1, "DFT": 1, "RoiAlign": 1, "MaxRoiPool": 1,
    "NonMaxSuppression": 0, "Col2Im": 1, "ImageDecoder": 0, "CenterCropPad": 1, "DequantizeLinear": 0,
}  # fmt: skip
# Operators of stored weights: only the values of a case are of interest.
WITHOUT_DATA = {"DequantizeLinear"}
# Training operators, and what runs differently every time.
OTHER = {"Adagrad", "Adam", "Momentum", "Gradient", "Bernoulli", "RandomNormalLike", "RandomUniformLike", "Multinomial"}


def rounded(values):
    """Floats of 16 significant bits: they are compared to fewer, and take less room."""
    values, largest = np.asarray(values, dtype=np.float32), np.finfo(np.float32).max
    bits = np.where(np.isfinite(values), values, 0).astype(np.float32).view(np.uint32)
    kept = ((bits.astype(np.uint64) + 0x80) & 0xFFFFFF00).astype(np.uint32).view(np.float32)
    kept = np.where(np.isinf(values), np.sign(values) * largest, kept)
    return np.where(np.isnan(values), largest / 2, kept).astype(np.float32)


def single(graph):
    """Makes a case of doubles one of floats."""
    for value in [*graph.input, *graph.output]:
        if value.type.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests/goldens/nodes.zip")
    options = parser.parse_args()
    left_out, ops, files = Counter(), Counter(), {}
    for case in collect_testcases(None):
        graph = case.model.graph
        single(graph)
        kinds = {v.name: v.type.tensor_type.elem_type if v.type.HasField("tensor_type") else None for v in [*graph.input, *graph.output]}
        if case.name.endswith("_expanded") or "_expanded_" in case.name:
            left_out["the expanded twin of a function"] += 1
            continue
        if len(graph.node) != 1 or graph.node[0].op_type in OTHER:
            left_out["several operators, training or random numbers"] += 1
            continue
        node = graph.node[0]
        plain = lambda v: numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v  # noqa: E731
        values = dict(zip([i.name for i in graph.input], case.data_sets[0][0], strict=False)) if case.data_sets else {}
        data = DATA.get(node.op_type, len(node.input))
        float32 = onnx.TensorProto.FLOAT
        inputs = [i for i in node.input[:data] if i and kinds.get(i) == float32 and np.size(plain(values.get(i))) > 0]
        outputs = [o.name for o in graph.output if kinds[o.name] == float32]
        finite = {i: np.isfinite(np.asarray(plain(values[i]), dtype=np.float64)).all() for i in inputs}
        if node.op_type == "Attention":  # a mask of infinities is stored
            inputs = [i for i in inputs if finite[i]]
        if not all(finite[i] for i in inputs):
            left_out["values that are not finite"] += 1
            continue
        if not (inputs or node.op_type in WITHOUT_DATA) or not outputs or any(k is None for k in kinds.values()):
            left_out["no float32 from data to result"] += 1
            continue
        if any(np.size(plain(values[i])) > LARGEST for i in inputs):
            left_out["large"] += 1
            continue
        model = onnx.ModelProto()
        model.CopyFrom(case.model)
        del model.graph.input[:], model.graph.value_info[:]
        model.graph.input.extend(i for i in graph.input if i.name in inputs)
        for i in graph.input:
            if i.name not in inputs:
                stored = values[i.name]
                if not isinstance(stored, onnx.TensorProto):
                    stored = np.asarray(stored)
                    stored = numpy_helper.from_array(stored.astype(np.float32) if stored.dtype == np.float64 else stored, i.name)
                model.graph.initializer.append(stored)
                model.graph.initializer[-1].name = i.name
        for value in model.graph.input:
            shape = np.shape(plain(values[value.name]))
            value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, float32, shape))
        files[f"{case.name}.onnx"] = model.SerializeToString()
        stream = io.BytesIO()
        results = dict(zip([o.name for o in graph.output], case.data_sets[0][1], strict=False))
        expected = {f"expected {o}": rounded(np.asarray(plain(results[o]))) for o in outputs}
        np.savez(stream, **{i: np.asarray(plain(values[i]), dtype=np.float32) for i in inputs}, **expected)
        files[f"{case.name}.npz"] = stream.getvalue()
        ops[node.op_type] += 1
    meta = {"onnx": onnx.__version__, "cases": sum(ops.values()), "left_out": dict(left_out)}
    files["meta.json"] = (json.dumps(meta, indent=1) + "\n").encode()
    with zipfile.ZipFile(options.out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED, 9)
    print(f"{sum(ops.values())} cases of {len(ops)} operators, {options.out.stat().st_size // 1024} KiB; left out {dict(left_out)}")


if __name__ == "__main__":
    main()
