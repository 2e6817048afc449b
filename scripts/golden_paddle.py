#!/usr/bin/env python3
"""Writes tests/goldens/zoo/paddle_NAME.zip: Paddle models exported by paddle2onnx, with Paddle's gradients. Run by hand.

usage: golden_paddle.py [NAME...] [--out tests/goldens/zoo]
needs: paddlepaddle, paddle2onnx, packaging, onnxoptimizer, onnx, onnxruntime, numpy, safetensors

The files are goldens of the zoo's kind (tests/goldens/README.md). The gradient of the loss with respect to each adapted kernel is Paddle's, in float64; those of A and B follow
from it by the product's rule.
"""

import argparse
import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import paddle
from onnx import numpy_helper
from paddle import nn
from paddle.nn import functional as F
from safetensors.numpy import save

RANK, SCALE = 2, 0.5
ort.set_default_logger_severity(3)


class Cnn(nn.Layer):
    """As the mobile networks of PaddleClas: strided and depthwise convolutions, squeeze and excitation, hard activations."""

    shape = (3, 12, 12)

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2D(3, 8, 3, stride=2, padding=1, bias_attr=False), nn.BatchNorm2D(8)
        self.depth, self.depth_norm = nn.Conv2D(8, 8, 3, padding=1, groups=8, bias_attr=False), nn.BatchNorm2D(8)
        self.squeeze, self.excite = nn.Conv2D(8, 4, 1), nn.Conv2D(4, 8, 1)
        self.point, self.norm, self.out = nn.Conv2D(8, 16, 1), nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x):
        x = F.hardswish(self.stem_norm(self.stem(x)))
        x = F.relu(self.depth_norm(self.depth(x)))
        x = x * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        x = F.max_pool2d(self.point(x), 2, 2)
        return self.out(F.gelu(self.norm(paddle.mean(x, axis=[2, 3]))))


class Attention(nn.Layer):
    """An encoder layer as PaddleNLP exports it, over frames."""

    shape = (6, 8)

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(8, 16), nn.Linear(16, 5)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, activation="gelu")

    def forward(self, x):
        return self.out(paddle.mean(self.layer(self.into(x)), axis=1))


MODELS = {"paddle_cnn": Cnn, "paddle_attention": Attention}


def find_sites(model, kernels):
    """(node, kind, groups, kernel) of every node whose weight is a parameter."""
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            stored[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    for node in model.graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm") or node.input[1] not in stored:
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        assert not attributes.get("transB", 0)
        w = stored[node.input[1]]
        found = [name for name, k in kernels.items() if k.shape == w.shape and np.array_equal(k, w)]
        assert found, f"{node.name}: no kernel holds its weight {w.shape}"
        yield node.name or node.output[0], "conv" if node.op_type == "Conv" else "linear", attributes.get("group", 1), found[0]


def delta(kind, a, b):
    return SCALE * (a @ b if kind == "linear" else np.einsum("or,r...->o...", b, a))


def factor_gradients(kind, dw, a, b):
    if kind == "linear":
        return SCALE * dw @ b.T, SCALE * a.T @ dw
    return SCALE * np.einsum("or,o...->r...", b, dw), SCALE * np.einsum("ock,rck->or", dw.reshape(*dw.shape[:2], -1), a.reshape(*a.shape[:2], -1))


def make(name, build, out):
    rng = np.random.default_rng(11)
    single = build()
    single.eval()
    for parameter in single.parameters():
        shape = tuple(parameter.shape)
        fan = np.prod(shape) / shape[-1] if len(shape) == 2 else np.prod(shape[1:]) if len(shape) > 2 else 1
        drawn = rng.standard_normal(shape) * (1.5 * fan**-0.5 if len(shape) > 1 else 0.2)
        if len(shape) == 1 and (parameter.numpy() == 1).all():
            drawn = np.abs(drawn) + 0.6
        # Few digits, so that both precisions hold the same numbers.
        parameter.set_value((drawn.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32))
    work = Path(tempfile.mkdtemp())
    spec = [paddle.static.InputSpec([None, *build.shape], "float32", "x")]
    paddle.onnx.export(single, str(work / name), input_spec=spec, opset_version=15)
    model = onnx.load(work / f"{name}.onnx")
    paddle.set_default_dtype("float64")
    double = build()
    paddle.set_default_dtype("float32")
    double.eval()
    double.set_state_dict({k: v.astype("float64") for k, v in single.state_dict().items()})
    variables = dict(double.named_parameters())
    sites = list(find_sites(model, {k: v.numpy() for k, v in single.named_parameters()}))
    assert sites and len({s[0] for s in sites}) == len(sites) and len({s[3] for s in sites}) == len(sites)

    rng = np.random.default_rng(23)
    factors, meta = {}, []
    for site, kind, groups, kernel in sites:
        w, linear = variables[kernel].numpy(), kind == "linear"
        rank = min(RANK, w.shape[0], w[0].size)
        shapes = ((w.shape[0], rank), (rank, w.shape[1])) if linear else ((rank, *w.shape[1:]), (w.shape[0], rank))
        for part, s in zip("AB", shapes, strict=True):
            factors[f"{site}.lora_{part}"] = (0.1 * rng.standard_normal(s)).astype(np.float32)
        meta.append({
            "name": site, "kind": kind, "in": w.shape[0] if linear else w.shape[1] * groups, "out": w.shape[1] if linear else w.shape[0],
            "kernel": [] if linear else list(w.shape[2:]), "groups": groups,
        })  # fmt: skip
        a, b = (factors[f"{site}.lora_{p}"].astype(np.float64) for p in "AB")
        variables[kernel].set_value(w + delta(kind, a, b))

    folder = work / "golden"
    folder.mkdir()
    onnx.checker.check_model(model)
    model.producer_version = ""
    onnx.save(model, folder / "model.onnx")
    text = lambda t, path: path.write_bytes(save({k: np.ascontiguousarray(v, np.float32) for k, v in t.items()}, {"scale": str(SCALE)}))  # noqa: E731
    text(factors, folder / "adapter.safetensors")
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    variants, output = {}, model.graph.output[0].name
    for variant, count in (("b3", 3), ("b1", 1)):
        x = np.random.default_rng(count).standard_normal((count, *build.shape)).astype(np.float32)
        base = session.run(None, {"x": x})[0]
        assert np.abs(base - single(paddle.to_tensor(x)).numpy()).max() < 1e-4, "the file is not the model"
        cotangent = np.random.default_rng(29).standard_normal(base.shape).astype(np.float32)
        y = double(paddle.to_tensor(x.astype(np.float64)))
        double.clear_gradients()
        (y * paddle.to_tensor(cotangent.astype(np.float64))).sum().backward()
        found = {}
        for site, kind, _, kernel in sites:
            a, b = (factors[f"{site}.lora_{p}"].astype(np.float64) for p in "AB")
            found[f"{site}.lora_A"], found[f"{site}.lora_B"] = factor_gradients(kind, variables[kernel].grad.numpy(), a, b)
        np.savez(folder / f"inputs.{variant}.npz", x=x)
        np.savez(folder / f"cotangent.{variant}.npz", **{output: cotangent})
        np.savez(folder / f"outputs.{variant}.npz", **{output: y.numpy().astype(np.float32)})
        text(found, folder / f"gradients.{variant}.safetensors")
        variants[variant] = {"x": list(x.shape)}
    described = {
        "model": "model.onnx", "exporter": f"paddle2onnx 2.1.0, paddle {paddle.__version__}", "opset": 15, "scale": SCALE, "rank": RANK,
        "output": output, "variants": variants, "sites": meta,
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(described, indent=1) + "\n")
    with zipfile.ZipFile(out / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes(), zipfile.ZIP_DEFLATED)
    print(name, len(sites), "sites", (out / f"{name}.zip").stat().st_size, "bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(MODELS))
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "tests/goldens/zoo")
    options = parser.parse_args()
    for one in options.names:
        make(one, MODELS[one], options.out)
