#!/usr/bin/env python3
"""Writes tests/goldens/level/mlp.onnx: 8 -> 16 -> 16 -> 3 with fixed random weights, for the simulation of the gate's level."""
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(0)
sizes = [8, 16, 16, 3]
nodes, weights, value = [], [], "x"
for layer, (into, out) in enumerate(zip(sizes, sizes[1:]), 1):
    name, last = f"fc{layer}", out == sizes[-1]
    weights.append(numpy_helper.from_array(rng.normal(0, into**-0.5, (into, out)).astype(np.float32), f"{name}.weight"))
    weights.append(numpy_helper.from_array(np.zeros(out, np.float32), f"{name}.bias"))
    result = "logits" if last else f"{name}.out"
    nodes.append(helper.make_node("Gemm", [value, f"{name}.weight", f"{name}.bias"], [result], name=name))
    if not last:
        nodes.append(helper.make_node("Relu", [result], [f"{name}.relu"], name=f"relu{layer}"))
        value = f"{name}.relu"
tensor = helper.make_tensor_value_info
graph = helper.make_graph(
    nodes, "mlp", [tensor("x", TensorProto.FLOAT, ["batch", 8])], [tensor("logits", TensorProto.FLOAT, ["batch", 3])], weights
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
onnx.checker.check_model(model)
onnx.save(model, sys.argv[1] if len(sys.argv) > 1 else "tests/goldens/level/mlp.onnx")
