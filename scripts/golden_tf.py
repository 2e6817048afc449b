#!/usr/bin/env python3
"""Writes tests/goldens/zoo/tf_NAME.zip: Keras models exported by tf2onnx, with TensorFlow's gradients. Run by hand.

usage: golden_tf.py [NAME...] [--out tests/goldens/zoo]
needs: tensorflow, tf2onnx, onnx, onnxruntime, numpy, safetensors

The files are goldens of the zoo's kind (tests/goldens/README.md). The gradient of the loss with respect to each adapted kernel is TensorFlow's, in float64; those of A and B follow
from it by the product's rule.
"""

import argparse
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402
import tensorflow as tf  # noqa: E402
import tf2onnx  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from safetensors.numpy import save  # noqa: E402

K = tf.keras
L = K.layers
RANK, SCALE = 2, 0.5
ort.set_default_logger_severity(3)


def cnn(dtype):
    """Channels last, as TensorFlow has them: strided, dilated, depthwise and separable convolutions, normalised behind their activation."""
    x = i = L.Input((12, 12, 3), dtype=dtype)
    x = L.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    x = L.BatchNormalization()(x)
    x = L.DepthwiseConv2D(3, padding="same", activation="relu6")(x)
    x = L.SeparableConv2D(12, 3, padding="same", activation="swish")(x)
    x = L.Conv2D(8, 3, dilation_rate=2, padding="same", activation="elu")(x)
    x = L.MaxPool2D(2)(x)
    x = L.GlobalAveragePooling2D()(x)
    return K.Model(i, L.Dense(5)(x))


def keywords(dtype):
    """Frames of sound through 1-D convolutions and dense layers."""
    x = i = L.Input((20, 4), dtype=dtype)
    x = L.Conv1D(8, 5, padding="causal", activation="tanh")(x)
    x = L.Conv1D(8, 3, strides=2, padding="valid", activation="silu")(x)
    x = L.LayerNormalization()(x)
    x = L.Dense(6, activation="softplus")(x)
    x = L.Flatten()(x)
    return K.Model(i, L.Dense(5)(x))


def gelu(x):
    """The exact form is exported as an operator that ONNX does not have."""
    return K.activations.gelu(x, approximate=True)


def attention(dtype):
    """A transformer's block: attention over frames, a residual, a normalisation, a feed-forward layer."""
    x = i = L.Input((6, 8), dtype=dtype)
    x = L.Dense(16)(x)
    y = L.MultiHeadAttention(2, 8)(x, x)
    x = L.LayerNormalization()(L.Add()([x, y]))
    y = L.Dense(16)(L.Dense(32, activation=gelu)(x))
    x = L.LayerNormalization()(L.Add()([x, y]))
    return K.Model(i, L.Dense(5)(L.GlobalAveragePooling1D()(x)))


def upsample(dtype):
    """An encoder and a decoder: transposed convolution, bilinear resize, a skip connection."""
    x = i = L.Input((8, 8, 2), dtype=dtype)
    a = L.Conv2D(6, 3, padding="same", activation="relu")(x)
    x = L.Conv2D(8, 3, strides=2, padding="same", activation="relu")(a)
    x = L.UpSampling2D(2, interpolation="bilinear")(x)
    x = L.Concatenate()([x, a])
    x = L.Conv2D(6, 1, activation="sigmoid")(x)
    return K.Model(i, L.Dense(5)(L.Flatten()(x)))


MODELS = {"tf_cnn": cnn, "tf_keywords": keywords, "tf_attention": attention, "tf_upsample": upsample}


def orientations(w):
    """Ways in which a kernel [k..., in, out] may lie in the file: (array, back)."""
    if w.ndim == 2:
        yield w, lambda d: d
    if w.ndim == 3:
        yield w.reshape(w.shape[0], -1), lambda d: d.reshape(w.shape)
        yield w.reshape(-1, w.shape[2]), lambda d: d.reshape(w.shape)
        yield w.transpose(2, 1, 0), lambda d: d.transpose(2, 1, 0)
        yield w.transpose(2, 1, 0)[:, :, None], lambda d: d[:, :, 0].transpose(2, 1, 0)
        yield w.transpose(2, 1, 0)[..., None], lambda d: d[..., 0].transpose(2, 1, 0)
    if w.ndim == 4:
        yield w.transpose(3, 2, 0, 1), lambda d: d.transpose(2, 3, 1, 0)
        flat = (w.shape[2] * w.shape[3], 1, *w.shape[:2])
        yield w.transpose(2, 3, 0, 1).reshape(flat), lambda d: d.reshape(w.shape[2], w.shape[3], *w.shape[:2]).transpose(2, 3, 0, 1)


def find_sites(model, kernels):
    """(node, kind, groups, kernel index, weight in the file's orientation, way back) of every node whose weight is a kernel."""
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm") or node.input[1] not in stored:
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        w = stored[node.input[1]]
        if attributes.get("transB", 0):
            w = w.T
        found = [
            (i, back) for i, k in enumerate(kernels) for a, back in orientations(k) if a.shape == w.shape and np.array_equal(a, w)
        ]
        assert found, f"{node.name}: no kernel holds its weight {w.shape}"
        yield node.name, "conv" if node.op_type == "Conv" else "linear", attributes.get("group", 1), *found[0][:1], w, found[0][1]


def delta(kind, a, b):
    return SCALE * (a @ b if kind == "linear" else np.einsum("or,r...->o...", b, a))


def factor_gradients(kind, dw, a, b):
    if kind == "linear":
        return SCALE * dw @ b.T, SCALE * a.T @ dw
    return SCALE * np.einsum("or,o...->r...", b, dw), SCALE * np.einsum("ock,rck->or", dw.reshape(*dw.shape[:2], -1), a.reshape(*a.shape[:2], -1))


def make(name, build, out):
    K.utils.set_random_seed(7)
    K.backend.set_floatx("float32")
    single = build("float32")
    rng = np.random.default_rng(11)
    weights = []
    for w in single.get_weights():
        fan = w.size / w.shape[-1] if w.ndim > 1 else 1
        drawn = rng.standard_normal(w.shape) * (1.5 * fan**-0.5 if w.ndim > 1 else 0.2) + (0 if w.ndim > 1 else w)
        drawn = np.abs(drawn) + 0.3 if w.ndim == 1 and (w == 1).all() else drawn
        weights.append((drawn.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32))
    single.set_weights(weights)
    shape = single.input_shape[1:]
    signature = [tf.TensorSpec((None, *shape), tf.float32, name="input")]
    model, _ = tf2onnx.convert.from_keras(single, input_signature=signature, opset=15)
    K.backend.set_floatx("float64")
    double = build("float64")
    double.set_weights(weights)
    variables = double.trainable_variables
    kernels = [v.numpy().astype(np.float32) for v in variables]
    sites = list(find_sites(model, kernels))
    assert len({s[0] for s in sites}) == len(sites) and len({s[3] for s in sites}) == len(sites)

    rng = np.random.default_rng(23)
    factors, meta = {}, []
    for site, kind, groups, _, w, _ in sites:
        rank = min(RANK, w.shape[0], w[0].size)
        shapes = ((w.shape[0], rank), (rank, w.shape[1])) if kind == "linear" else ((rank, *w.shape[1:]), (w.shape[0], rank))
        for part, s in zip("AB", shapes, strict=True):
            factors[f"{site}.lora_{part}"] = (0.1 * rng.standard_normal(s)).astype(np.float32)
        linear = kind == "linear"
        meta.append({
            "name": site, "kind": kind, "in": w.shape[0] if linear else w.shape[1] * groups, "out": w.shape[1] if linear else w.shape[0],
            "kernel": [] if linear else list(w.shape[2:]), "groups": groups,
        })  # fmt: skip
    for site, kind, _, index, _, back in sites:
        a, b = (factors[f"{site}.lora_{p}"].astype(np.float64) for p in "AB")
        variables[index].assign(variables[index].numpy() + back(delta(kind, a, b)))

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work) / name
        folder.mkdir()
        onnx.checker.check_model(model)
        for node in model.graph.node:
            node.doc_string = ""
        model.producer_version = ""
        onnx.save(model, folder / "model.onnx")
        text = lambda t, path: path.write_bytes(save({k: np.ascontiguousarray(v, np.float32) for k, v in t.items()}, {"scale": str(SCALE)}))  # noqa: E731
        text(factors, folder / "adapter.safetensors")
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        variants = {}
        for variant, count in (("b3", 3), ("b1", 1)):
            x = np.random.default_rng(count).standard_normal((count, *shape)).astype(np.float32)
            base = session.run(None, {"input": x})[0]
            assert np.abs(base - single(x).numpy()).max() < 1e-4, "the file is not the model"
            cotangent = np.random.default_rng(29).standard_normal(base.shape).astype(np.float32)
            with tf.GradientTape() as tape:
                y = double(x.astype(np.float64), training=False)
                loss = tf.reduce_sum(y * cotangent)
            gradients = tape.gradient(loss, variables)
            found = {}
            for site, kind, _, index, w, _ in sites:
                dw = next(a for a, _ in orientations(gradients[index].numpy()) if a.shape == w.shape)
                a, b = (factors[f"{site}.lora_{p}"].astype(np.float64) for p in "AB")
                found[f"{site}.lora_A"], found[f"{site}.lora_B"] = factor_gradients(kind, dw, a, b)
            np.savez(folder / f"inputs.{variant}.npz", input=x)
            np.savez(folder / f"cotangent.{variant}.npz", output=cotangent)
            np.savez(folder / f"outputs.{variant}.npz", output=y.numpy().astype(np.float32))
            text(found, folder / f"gradients.{variant}.safetensors")
            variants[variant] = {"input": list(x.shape)}
            moved = np.abs(y.numpy() - base).max()
        described = {"model": "model.onnx", "exporter": f"tf2onnx {tf2onnx.__version__}", "opset": 15, "scale": SCALE, "rank": RANK, "output": "output", "variants": variants, "sites": meta}
        (folder / "meta.json").write_text(json.dumps(described, indent=1) + "\n")
        with zipfile.ZipFile(out / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for file in sorted(folder.iterdir()):
                archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes(), zipfile.ZIP_DEFLATED, 9)
        shutil.rmtree(folder)
    return f"{name}: {len(sites)} sites, moved {moved:.1e}, {(out / f'{name}.zip').stat().st_size // 1024} KiB packed"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests/goldens/zoo")
    options = parser.parse_args()
    for name in options.names or MODELS:
        print(make(name, MODELS[name], options.out), flush=True)


if __name__ == "__main__":
    main()
