#!/usr/bin/env python3
"""Writes tests/goldens/weights.zip: one small classifier with its weights stored in the ways that exporters know.

usage: golden_weights.py [--out tests/goldens/weights.zip]
needs: onnx, numpy
"""

import argparse
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NODE = helper.make_node
D, H, C = 12, 24, 5


def weights():
    rng = np.random.default_rng(3)
    made = {"W1": (D, H), "b1": (H,), "W2": (H, H), "b2": (H,), "W3": (H, C), "b3": (C,)}
    return {k: (rng.normal(size=s) * (0.3 if len(s) > 1 else 0.1)).astype(np.float32) for k, s in made.items()}


def layers(product, shared=False):
    """Three layers, each written by `product`: input, weight, bias, output and name to nodes."""
    second = ("W2", "b2")
    nodes = [*product("x", "W1", "b1", "a", "fc1"), NODE("Relu", ["a"], ["ra"]), *product("ra", *second, "c", "fc2"), NODE("Relu", ["c"], ["rc"])]
    last = "rc"
    if shared:
        nodes += [*product("rc", *second, "e", "fc2again"), NODE("Tanh", ["e"], ["te"])]
        last = "te"
    return [*nodes, *product(last, "W3", "b3", "logits", "fc3")]


def gemm(x, w, b, y, name):
    return [NODE("Gemm", [x, w, b], [y], name=name)]


def matmul(x, w, b, y, name):
    return [NODE("MatMul", [x, w], [f"{y}_"], name=name), NODE("Add", [f"{y}_", b], [y])]


def transposed(x, w, b, y, name):
    return [NODE("Transpose", [w], [f"{y}_t"], perm=[1, 0]), NODE("MatMul", [x, f"{y}_t"], [f"{y}_"], name=name), NODE("Add", [b, f"{y}_"], [y])]


def identity(x, w, b, y, name):
    chain = [NODE("Identity", [w], [f"{y}_i"]), NODE("Identity", [f"{y}_i"], [f"{y}_j"]), NODE("Identity", [b], [f"{y}_b"])]
    return [*chain, NODE("Gemm", [x, f"{y}_j", f"{y}_b"], [y], name=name)]


def constants(stored):
    return [NODE("Constant", [], [k], value=numpy_helper.from_array(v)) for k, v in stored.items()]


def model(nodes, stored, opset=17, ir=8, listed=False, kind=TensorProto.FLOAT):
    inputs = [helper.make_tensor_value_info("x", kind, ["batch", D])]
    if listed:
        inputs += [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in stored.items()]
    outputs = [helper.make_tensor_value_info("logits", kind, ["batch", C])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(v, k) for k, v in stored.items()])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    onnx.checker.check_model(made)
    return made


def cases():
    w = weights()
    turned = {k: np.ascontiguousarray(v.T) for k, v in w.items()}
    half = {k: v.astype(np.float16) for k, v in w.items()}
    yield "initializers", model(layers(gemm), w)
    yield "listed_ir3", model(layers(gemm), w, 9, 3, True)
    yield "listed_ir8", model(layers(matmul), w, listed=True)
    yield "constants", model(constants(w) + layers(gemm), {})
    yield "constants_matmul", model(constants(w) + layers(matmul), {})
    yield "transposed", model(layers(transposed), turned)
    yield "identities", model(layers(identity), w)
    yield "shared", model(layers(gemm, shared=True), w)
    yield "external", model(layers(matmul), w)
    yield "half", model(layers(gemm), half, kind=TensorProto.FLOAT16)
    yield "half_listed_ir3", model(layers(gemm), half, 9, 3, True, kind=TensorProto.FLOAT16)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests/goldens/weights.zip")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(options.out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, made in cases():
            if name == "external":
                onnx.save(made, f"{folder}/{name}.onnx", save_as_external_data=True, location="external.data", size_threshold=0)
            else:
                onnx.save(made, f"{folder}/{name}.onnx")
        for file in sorted(Path(folder).iterdir()):
            archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    print(f"{options.out.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
