#!/usr/bin/env python3
"""Writes tests/goldens/quantised/NAME.zip: quantised forms of models of the zoo, and what ONNX Runtime answers. Run by hand.

usage: golden_quantised.py [NAME...] [--zoo tests/goldens/zoo] [--out tests/goldens/quantised]
needs: onnx, onnxruntime, numpy, and the zoo (golden_zoo.py)

Each file holds model.onnx and, for the batch b3 of the zoo, inputs.b3.npz and outputs.b3.npz; meta.json names the float model
that it was made of.
  *_qdq        QuantizeLinear and DequantizeLinear around float operators, weights per channel
  *_qoperator  QLinearConv, QGemm, …
  *_dynamic    DynamicQuantizeLinear and MatMulInteger
  *_int8       weights only: DequantizeLinear per channel
  *_whole      the same for kernels and recurrent layers, too
  *_scaled     weights only: Cast and Mul
  *_int4       weights only: four bits, a scale for every block of eight
"""

import argparse
import json
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from onnxruntime import quantization as q

import make_goldens as mg

ort.set_default_logger_severity(3)


class Reader(q.CalibrationDataReader):
    def __init__(self, inputs):
        self.rows = iter([inputs])

    def get_next(self):
        return next(self.rows, None)


def static(form):
    def run(source, target, inputs):
        q.quantize_static(
            source, target, Reader(inputs), quant_format=form, per_channel=True, weight_type=q.QuantType.QInt8,
            activation_type=q.QuantType.QUInt8, extra_options={"ForceQuantizeNoInputCheck": True},
        )  # fmt: skip

    return run


def dynamic(source, target, inputs):
    q.quantize_dynamic(source, target, weight_type=q.QuantType.QInt8)


def whole(source, target, inputs):
    """Weights only, of every kind: eight bits and a DequantizeLinear, per channel of a kernel, per tensor of a recurrent layer."""
    model = onnx.load(source)
    stored = {t.name: t for t in model.graph.initializer}
    weights = {"MatMul": [1], "Gemm": [1], "Conv": [1], "ConvTranspose": [1], "LSTM": [1, 2], "GRU": [1, 2]}
    nodes = []
    for node in model.graph.node:
        for slot in weights.get(node.op_type, []):
            name = node.input[slot]
            if name not in stored:
                continue
            w = numpy_helper.to_array(stored.pop(name))
            axis = {"Conv": 0, "ConvTranspose": 1}.get(node.op_type)
            others = None if axis is None else tuple(a for a in range(w.ndim) if a != axis)
            scale = (np.abs(w).max(axis=others) / 127).astype(np.float32)
            spread = scale if axis is None else scale.reshape([-1 if a == axis else 1 for a in range(w.ndim)])
            quantised = np.clip(np.round(w / spread), -128, 127).astype(np.int8)
            for part, value in [("q", quantised), ("scale", scale)]:
                model.graph.initializer.append(numpy_helper.from_array(value, f"{name}.{part}"))
            more = {} if axis is None else {"axis": axis}
            nodes.append(
                helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.scale"], [name], f"{name}.dequantised", **more)
            )
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {i for n in nodes for i in n.input}
    written = {o for n in nodes for o in n.output}
    kept = [t for t in model.graph.initializer if t.name in used and t.name not in written]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx.save(model, target)


def weight_only(bits):
    """Replaces every constant MatMul weight [in, out] by its integers and a DequantizeLinear."""

    def run(source, target, inputs):
        model = onnx.load(source)
        stored = {t.name: t for t in model.graph.initializer}
        nodes = []
        for node in model.graph.node:
            if node.op_type == "MatMul" and node.input[1] in stored:
                w = numpy_helper.to_array(stored[node.input[1]])
                block = 8 if bits == 4 else w.shape[0]
                high = 2 ** (bits - 1) - 1
                blocks = w.reshape(w.shape[0] // block, block, w.shape[1])
                scale = (np.abs(blocks).max(1) / high).astype(np.float32)
                integers = np.clip(np.round(blocks / scale[:, None]), -high - 1, high).reshape(w.shape).astype(np.int8)
                name = f"{node.name}.weight"
                kind = onnx.TensorProto.INT4 if bits == 4 else onnx.TensorProto.INT8
                model.graph.initializer.append(helper.make_tensor(f"{name}.q", kind, w.shape, integers.flatten()))
                model.graph.initializer.append(
                    numpy_helper.from_array(scale if bits == 4 else scale[0], f"{name}.scale")
                )
                more = {"axis": 0, "block_size": block} if bits == 4 else {"axis": 1}
                nodes.append(
                    helper.make_node("DequantizeLinear", [f"{name}.q", f"{name}.scale"], [name], f"{name}.dequantised", **more)
                )
                node.input[1] = name
            nodes.append(node)
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        used = {i for n in model.graph.node for i in n.input}
        kept = [t for t in model.graph.initializer if t.name in used]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        next(o for o in model.opset_import if o.domain == "").version = 21
        model.ir_version = 10
        onnx.save(model, target)

    return run


def scaled(source, target, inputs):
    """Every larger matrix as integers, a Cast and a Mul: for each column of a weight, for each row of a table."""
    model = onnx.load(source)
    readers = {n.input[0]: n.op_type for n in model.graph.node if n.op_type == "Gather"}
    nodes, kept = [], []
    for t in model.graph.initializer:
        w = numpy_helper.to_array(t)
        if w.dtype != np.float32 or w.ndim != 2 or w.size < 1000:
            kept.append(t)
            continue
        scale = (np.abs(w).max(1 if t.name in readers else 0, keepdims=True) / 127).astype(np.float32)
        kept.append(numpy_helper.from_array(np.round(w / scale).astype(np.int8), f"{t.name}.q"))
        kept.append(numpy_helper.from_array(scale, f"{t.name}.scale"))
        nodes.append(helper.make_node("Cast", [f"{t.name}.q"], [f"{t.name}.f"], f"{t.name}.cast", to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{t.name}.f", f"{t.name}.scale"], [t.name], f"{t.name}.mul"))
    nodes += model.graph.node
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    onnx.save(model, target)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    goldens = Path(__file__).resolve().parent.parent / "tests/goldens"
    parser.add_argument("--zoo", type=Path, default=goldens / "zoo")
    parser.add_argument("--out", type=Path, default=goldens / "quantised")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    forms = {
        "qdq": static(q.QuantFormat.QDQ), "qoperator": static(q.QuantFormat.QOperator), "dynamic": dynamic,
        "int8": weight_only(8), "int4": weight_only(4), "scaled": scaled, "whole": whole,
    }  # fmt: skip
    for source, form in [
        ("ds_cnn", "qdq"), ("ds_cnn", "qoperator"), ("squeezenet", "qdq"), ("vit", "qdq"), ("bert", "dynamic"), ("bert", "int8"),
        ("bert", "int4"), ("bert_wide", "int8"), ("bert_wide", "int4"), ("bert_wide", "dynamic"), ("bert_wide", "scaled"), ("mobilenet_v2", "qoperator"),
        ("kernels", "qdq"), ("kernels", "qoperator"), ("kernels", "whole"),
    ]:  # fmt: skip
        name = f"{source}_{form}"
        if options.names and name not in options.names:
            continue
        with tempfile.TemporaryDirectory() as work:
            work = Path(work)
            zipfile.ZipFile(options.zoo / f"{source}.zip").extractall(work / "float")
            inputs = dict(np.load(work / "float/inputs.b3.npz"))
            folder = work / name
            folder.mkdir()
            forms[form](str(work / "float/model.onnx"), str(folder / "model.onnx"), inputs)
            model = onnx.load(folder / "model.onnx")
            output = model.graph.output[0].name
            plain = ort.SessionOptions()
            plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # as the file says, not as it is fused
            session = ort.InferenceSession(str(folder / "model.onnx"), plain, providers=["CPUExecutionProvider"])
            answer = session.run(None, inputs)[0]
            shutil.copy(work / "float/inputs.b3.npz", folder)
            np.savez(folder / "outputs.b3.npz", **{output: answer})
            (folder / "meta.json").write_text(json.dumps({"float": source}) + "\n")
            off = np.abs(answer - dict(np.load(work / "float/outputs.b3.npz")).popitem()[1]).max()
            size = mg.pack(folder, options.out / f"{name}.zip")
            print(f"{name}: {size // 1024} KiB, {len(model.graph.node)} nodes, {off:.1e} from the adapted float model")


if __name__ == "__main__":
    main()
