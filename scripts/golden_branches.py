#!/usr/bin/env python3
"""Writes tests/fixtures/branches.onnx and branches.json: a small model with a setting, a carried state and branches, and what ONNX
Runtime answers. Run by hand; needs onnx, onnxruntime, numpy.

  x [batch, length], rate [], state [2, batch, 4] -> logits [batch, 3], next [2, batch, 4]
  If rate == 16000: If the length is 6: x·W, else x ; … the same names in both branches, other weights
"""

import json
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper

OUT = Path(__file__).resolve().parent.parent / "tests/fixtures"
rng = np.random.default_rng(7)


def tensor(name, *shape):
    return numpy_helper.from_array((rng.standard_normal(shape) * 0.7).astype(np.float32), name)


def number(name, value, kind=np.int64):
    return numpy_helper.from_array(np.array(value, kind), name)


def info(name, kind=TensorProto.FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


def branch(name, bend):
    inner = [
        helper.make_graph([helper.make_node("Squeeze", ["h3", "last"], ["h"])], "squeezed", [], [info("h")]),
        helper.make_graph([helper.make_node("Identity", ["h3"], ["h"])], "same", [], [info("h")]),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "W"], ["p"]),
        helper.make_node("Add", ["p", "first"], ["s"]),
        helper.make_node("Unsqueeze", ["s", "last"], ["h3"]),
        helper.make_node("Shape", ["h3"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "last"], ["size"]),
        helper.make_node("Equal", ["size", "one"], ["flat"]),
        helper.make_node("If", ["flat"], ["hidden"], then_branch=inner[0], else_branch=inner[1]),
        helper.make_node(bend, ["hidden"], ["bent"]),
        helper.make_node("MatMul", ["bent", "V"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["z"]),
    ]
    stored = [tensor("W", 6, 4), tensor("V", 4, 3), tensor("bias", 3)]
    return helper.make_graph(nodes, name, [], [info("z"), info("bent")], stored)


def main():
    nodes = [
        helper.make_node("Gather", ["state", "zero"], ["first"], axis=0),
        helper.make_node("Equal", ["rate", "fast"], ["is_fast"]),
        helper.make_node("If", ["is_fast"], ["logits", "moved"], then_branch=branch("fast", "Tanh"), else_branch=branch("slow", "Relu")),
        helper.make_node("Unsqueeze", ["moved", "none"], ["moved3"]),
        helper.make_node("Concat", ["moved3", "moved3"], ["next"], axis=0),
    ]
    inputs = [info("x", shape=["batch", "length"]), info("rate", TensorProto.INT64, []), info("state", shape=[2, "batch", 4])]
    outputs = [info("logits", shape=["batch", 3]), info("next", shape=[2, "batch", 4])]
    stored = [number("zero", 0), number("fast", 16000), number("last", [-1]), number("none", [0]), number("one", [1])]
    graph = helper.make_graph(nodes, "branches", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    (OUT / "branches.onnx").write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(model.SerializeToString())
    x = rng.standard_normal((3, 6)).astype(np.float32)
    cases = []
    for rate, state in [(16000, 0.0), (8000, 0.0), (16000, 0.5)]:
        feed = {"x": x, "rate": np.array(rate), "state": np.full((2, 3, 4), state, np.float32)}
        cases.append({"rate": rate, "state": state, "logits": session.run(["logits"], feed)[0].tolist()})
    (OUT / "branches.json").write_text(json.dumps({"x": x.tolist(), "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
