#!/usr/bin/env python3
"""Writes tests/goldens/standard.zip: models that are brought into standard form when they are loaded, with what ONNX Runtime answers.

usage: golden_standard.py [--out tests/goldens/standard.zip]
needs: onnx, onnxruntime, numpy, scikit-learn, skl2onnx

Pipelines as scikit-learn's converter writes them (label outputs first, maps of probabilities, scalers), loops with a known number of rounds, an LSTM of
dynamic quantisation, and inputs whose axes are all called "?". NAME.npz has the inputs by name and "expected OUTPUT" for each output of floats; what
is rounded on the way is called rounded_NAME.
"""

import argparse
import io
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from skl2onnx import to_onnx
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer, RobustScaler, StandardScaler
from sklearn.svm import LinearSVC

warnings.filterwarnings("ignore")
rng = np.random.default_rng(11)
NODE, FLOAT, INT, BOOL = helper.make_node, TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, stored, opset=17):
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in stored.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def pipelines():
    x = rng.normal(size=(60, 4)).astype(np.float32)
    y = (x[:, 0] * 2 + x[:, 1] > 0).astype(int) + (x[:, 2] > 1)
    words = np.array(["ash", "birch", "cedar"])[y]
    steps = {
        "mlp": ([StandardScaler(), MLPClassifier((8,), max_iter=60, random_state=0)], y),
        "mlp_words": ([StandardScaler(), MLPClassifier((8,), max_iter=60, random_state=0)], words),
        "mlp_two": ([MLPClassifier((8,), max_iter=60, random_state=0)], (y > 0).astype(int)),
        "logistic": ([StandardScaler(), LogisticRegression()], y),
        "logistic_words": ([StandardScaler(), LogisticRegression()], words),
        "logistic_two": ([StandardScaler(), LogisticRegression()], (y > 0).astype(int)),
        "logistic_imputed": ([SimpleImputer(), MinMaxScaler(), RobustScaler(), LogisticRegression()], y),
        "sgd": ([Normalizer(), SGDClassifier(loss="log_loss", random_state=0)], y),
        "svc": ([LinearSVC(random_state=0)], y),
    }
    for name, (parts, target) in steps.items():
        pipeline = (make_pipeline(*parts) if len(parts) > 1 else parts[0]).fit(x, target)
        yield name, to_onnx(pipeline, x[:1]), {"X": x[:5]}
    # No map, and no operator of the standard's own domain.
    plain = LogisticRegression().fit(x, y)
    yield "logistic_plain", to_onnx(plain, x[:1], options={id(plain): {"zipmap": False}}), {"X": x[:5]}


def gru_loop(condition, opset, length=None):
    """A Keras GRU as tf2onnx writes its loop: time is a carried counter, the states of all steps are scanned."""
    t, h, f = 6, 5, 3
    stored = {
        "W": rng.normal(size=(f, 3 * h)).astype(np.float32) * 0.5, "R": rng.normal(size=(h, 3 * h)).astype(np.float32) * 0.5,
        "b": rng.normal(size=3 * h).astype(np.float32) * 0.1, "head": rng.normal(size=(h, 4)).astype(np.float32),
        "zero": np.int64(0), "one": np.int64(1), "steps": np.int64(t), "many": np.int64(2**31 - 1), "true": np.array(True),
        "first": np.array([0], dtype=np.int64), "state": np.zeros((1, h), dtype=np.float32), "ones": np.float32(1),
    }  # fmt: skip
    body = [
        NODE("Gather", ["x", "time"], ["xt"], axis=1), NODE("MatMul", ["xt", "W"], ["xw"]), NODE("Add", ["xw", "b"], ["xb"]),
        NODE("MatMul", ["h", "R"], ["hr"]),
        *(
            [NODE("Split", ["xb"], ["xz", "xr", "xn"], axis=1), NODE("Split", ["hr"], ["hz", "hg", "hn"], axis=1)]
            if opset < 18
            else [NODE("Split", ["xb"], ["xz", "xr", "xn"], axis=1, num_outputs=3), NODE("Split", ["hr"], ["hz", "hg", "hn"], axis=1, num_outputs=3)]
        ),
        NODE("Add", ["xz", "hz"], ["z0"]), NODE("Sigmoid", ["z0"], ["z"]), NODE("Add", ["xr", "hg"], ["r0"]), NODE("Sigmoid", ["r0"], ["r"]),
        NODE("Mul", ["r", "hn"], ["rh"]), NODE("Add", ["xn", "rh"], ["n0"]), NODE("Tanh", ["n0"], ["n"]), NODE("Sub", ["h", "n"], ["d"]),
        NODE("Mul", ["z", "d"], ["zd"]), NODE("Add", ["n", "zd"], ["next"]), NODE("Identity", ["next"], ["step"]),
        NODE("Add", ["time", "one"], ["later"]),
    ]  # fmt: skip
    body.append(NODE("Less", ["later", "steps"], ["go"]) if condition else NODE("Identity", ["c"], ["go"]))
    ins = [value("i", INT, []), value("c", BOOL, []), value("time", INT, []), value("h", FLOAT, None)]
    outs = [value("go", BOOL, []), value("later", INT, []), value("next", FLOAT, None), value("step", FLOAT, None)]
    loop = helper.make_graph(body, "body", ins, outs)
    nodes = [
        NODE("Gather", ["x", "first"], ["x0"], axis=1), NODE("Squeeze", ["x0"], ["flat"], axes=[1]) if opset < 13 else NODE("Squeeze", ["x0", "first1"], ["flat"]),
        NODE("MatMul", ["flat", "W"], ["w0"]), NODE("MatMul", ["w0", "nothing"], ["rows"]), NODE("Add", ["rows", "state"], ["h0"]),
        NODE("Loop", ["many" if condition else "steps", "true", "zero", "h0"], ["end", "last", "all"], body=loop, name="loop"),
        NODE("ReduceMax", ["all"], ["most"], axes=[0], keepdims=0) if opset < 18 else NODE("ReduceMax", ["all", "first"], ["most"], keepdims=0),
        NODE("Add", ["last", "most"], ["both"]), NODE("MatMul", ["both", "head"], ["logits"]),
    ]  # fmt: skip
    stored["nothing"] = np.zeros((3 * h, h), dtype=np.float32)
    if opset >= 13:
        stored["first1"] = np.array([1], dtype=np.int64)
    if length:  # the count follows from the input's length, which is open
        del stored["steps"]
        nodes = [NODE("Shape", ["x"], ["sizes"]), NODE("Gather", ["sizes", "one"], ["steps"]), *nodes]
    made = model(nodes, [value("x", FLOAT, ["batch", length or t, f])], [value("logits", FLOAT, ["batch", 4])], stored, opset)
    return made, {"x": rng.normal(size=(3, t, f)).astype(np.float32)}


def quantised_lstm(direction):
    f, h, both = 16, 24, 2 if direction == "bidirectional" else 1
    stored = {
        "W": rng.normal(size=(both, 4 * h, f)).astype(np.float32) * 0.3, "R": rng.normal(size=(both, 4 * h, h)).astype(np.float32) * 0.2,
        "B": rng.normal(size=(both, 8 * h)).astype(np.float32) * 0.1, "head": rng.normal(size=(h, 4)).astype(np.float32) * 0.4,
        "axis": np.array([0], dtype=np.int64), "both": np.array([0, 1], dtype=np.int64),
    }  # fmt: skip
    nodes = [
        NODE("Transpose", ["x"], ["xt"], perm=[1, 0, 2]), NODE("LSTM", ["xt", "W", "R", "B"], ["", "last"], hidden_size=h, direction=direction, name="lstm"),
        NODE("ReduceSum", ["last", "axis"], ["row"], keepdims=0), NODE("MatMul", ["row", "head"], ["logits"], name="head"),
    ]  # fmt: skip
    made = model(nodes, [value("x", FLOAT, ["batch", 7, f])], [value("logits", FLOAT, ["batch", 4])], stored, 13)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(made, f"{folder}/m.onnx")
        quantize_dynamic(f"{folder}/m.onnx", f"{folder}/q.onnx", op_types_to_quantize=["LSTM"])
        made = onnx.load(f"{folder}/q.onnx")
    assert any(n.op_type == "DynamicQuantizeLSTM" for n in made.graph.node)
    return made, {"x": rng.normal(size=(3, 7, f)).astype(np.float32)}


def nameless():
    """A picture whose open axes are all called "?", as paddle2onnx writes them."""
    stored = {"k": rng.normal(size=(6, 3, 3, 3)).astype(np.float32) * 0.3, "w": rng.normal(size=(6, 4)).astype(np.float32)}
    nodes = [
        NODE("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1], name="conv"), NODE("Relu", ["c"], ["r"]), NODE("GlobalAveragePool", ["r"], ["p"]),
        NODE("Flatten", ["p"], ["f"]), NODE("MatMul", ["f", "w"], ["logits"], name="head"),
    ]  # fmt: skip
    made = model(nodes, [value("x", FLOAT, ["?", 3, "?", "?"])], [value("logits", FLOAT, ["?", 4])], stored)
    return made, {"x": rng.normal(size=(2, 3, 8, 12)).astype(np.float32)}


def squeezed():
    stored = {"k": rng.normal(size=(6, 3, 5, 5)).astype(np.float32) * 0.3, "w": rng.normal(size=(6, 4)).astype(np.float32)}
    nodes = [NODE("Conv", ["x", "k"], ["c"], name="conv"), NODE("Squeeze", ["c"], ["s"]), NODE("MatMul", ["s", "w"], ["logits"], name="head")]
    made = model(nodes, [value("x", FLOAT, ["batch", 3, 5, 5])], [value("logits", FLOAT, ["batch", 4])], stored, 11)
    return made, {"x": rng.normal(size=(2, 3, 5, 5)).astype(np.float32)}


def cases():
    yield from pipelines()
    for opset in (11, 13, 18):
        yield f"loop_counted_{opset}", *gru_loop(False, opset)
        yield f"loop_until_{opset}", *gru_loop(True, opset)
    yield "loop_open", *gru_loop(True, 13, "steps")
    for direction in ("forward", "reverse", "bidirectional"):
        yield f"rounded_lstm_{direction}", *quantised_lstm(direction)
    yield "nameless", *nameless()
    yield "squeezed", *squeezed()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests/goldens/standard.zip")
    options = parser.parse_args()
    files = {}
    for name, made, fed in cases():
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        session = ort.InferenceSession(made.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        expected = {}
        for output, result in zip(session.get_outputs(), session.run(None, fed), strict=True):
            if isinstance(result, list):  # a map for each row, in the order of the classes
                result = np.array([list(row.values()) for row in result], dtype=np.float32)
            if result.dtype == np.float32:
                expected[f"expected {output.name}"] = result
        stream = io.BytesIO()
        np.savez(stream, **fed, **expected)
        files[f"{name}.onnx"], files[f"{name}.npz"] = made.SerializeToString(), stream.getvalue()
    with zipfile.ZipFile(options.out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name), files[name], zipfile.ZIP_DEFLATED, 9)
    print(f"{len(files) // 2} models, {options.out.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
