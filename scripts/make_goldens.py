#!/usr/bin/env python3
"""Writes the gradient goldens of tests/goldens/ from PyTorch. Run by hand; the results are checked in.

usage: make_goldens.py [NAME...] [--out tests/goldens]
needs: torch, transformers, onnx, onnxscript, onnxruntime, safetensors, numpy

Every folder holds model.onnx (har_cnn: the bundled model), adapter.safetensors (SITE.lora_A, SITE.lora_B; metadata scale,
rank) and, for two variants b3 (batch 3) and b1 (batch 1): inputs.VARIANT.npz, cotangent.VARIANT.npz, outputs.VARIANT.npz (of
the adapted model), gradients.VARIANT.safetensors, the gradient of L = Σ <output, cotangent> with respect to every A and B,
computed by torch in float64. meta.json lists the sites. The definition of LoRA is in golden_models.py.

Before anything is written: ONNX Runtime on the file equals torch's base; on a copy with merged weights, torch's adapted
model; and each gradient agrees with a central difference in a random direction.
"""

import argparse
import json
import shutil
import tempfile
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

import golden_models as gm

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
ort.set_default_logger_severity(3)
OPSET = {"torchscript": 17, "dynamo": 18}  # the lowest that the dynamo exporter writes by itself


def tokens(vocab, lengths, seed):
    """Random ids and a mask; row i has lengths[i] real tokens, the rest is padding (id 0)."""
    rng = np.random.default_rng(seed)
    width = max(lengths)
    ids = rng.integers(1, vocab, (len(lengths), width))
    mask = (np.arange(width) < np.array(lengths)[:, None]).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask}


def noise(name, shape, seed):
    return {name: np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}


TEXT_AXES = {"input_ids": {0: "batch", 1: "sequence"}, "attention_mask": {0: "batch", 1: "sequence"}}


def text_variants(vocab):
    # without padding in b1: the mask is all ones, as in a single prediction
    return {"b3": tokens(vocab, [9, 6, 4], 5), "b1": tokens(vocab, [7], 6)}


def image_variants(channels, size, name="image"):
    return {"b3": noise(name, (3, channels, size, size), 7), "b1": noise(name, (1, channels, size, size), 8)}


@dataclass
class Recipe:
    module: nn.Module
    exporter: str | Path  # torchscript, dynamo, or an existing file
    variants: dict  # name → inputs by name, each with a batch dimension
    output: str
    axes: dict  # dynamic axes by input
    opset: int | None = None
    rank: int = gm.RANK
    fold_pads: bool = False
    reference: nn.Module | None = None  # the same function with one parameter a site, where the module shares them


def recipes():
    """name → a function that makes the recipe"""
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def rms_norm(self, x):  # transformers' own drops to float32, which would limit the reference
        y = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * y

    LlamaRMSNorm.forward = rms_norm
    har = gm.REPO / "models/har_cnn.onnx"
    image_axes = {"image": {0: "batch"}}
    return {
        "har_cnn": lambda: Recipe(
            gm.har_cnn(har), har, {"b3": noise("imu", (3, 6, 128), 3), "b1": noise("imu", (1, 6, 128), 4)}, "logits", {},
        ),
        "bert2": lambda: Recipe(
            gm.TextModel(gm.bert2(), "last_hidden_state", own_mask=True), "torchscript", text_variants(120),
            "last_hidden_state", TEXT_AXES,
        ),
        "bert2_dynamo": lambda: Recipe(
            gm.TextModel(gm.bert2("sdpa"), "last_hidden_state"), "dynamo", text_variants(120), "last_hidden_state", TEXT_AXES,
        ),
        "effnet_tiny": lambda: Recipe(gm.spread(gm.EffnetTiny(), 17), "torchscript", image_variants(3, 16), "logits", image_axes),
        "conv_zoo": lambda: Recipe(gm.spread(gm.ConvZoo(), 19), "dynamo", image_variants(2, 12), "features", image_axes, fold_pads=True),
        "llama_tiny": lambda: Recipe(
            gm.TextModel(gm.llama_tiny(), "logits", own_mask=True, causal=True), "torchscript", text_variants(90),
            "logits", TEXT_AXES,
        ),
        "llama_tiny_dynamo": lambda: Recipe(
            gm.TextModel(gm.llama_tiny("sdpa"), "logits"), "dynamo", text_variants(90), "logits", TEXT_AXES,
        ),
    }  # fmt: skip


def export(r, path):
    inputs = next(iter(r.variants.values()))
    args = tuple(torch.tensor(v) for v in inputs.values())
    common = dict(input_names=list(inputs), output_names=[r.output], opset_version=r.opset or OPSET[r.exporter])
    if r.exporter == "torchscript":
        axes = {**r.axes, r.output: next(iter(r.axes.values()))} if r.axes else None
        torch.onnx.export(r.module, args, path, dynamo=False, dynamic_axes=axes, **common)
    else:
        shapes = [{i: torch.export.Dim(n) for i, n in r.axes.get(k, {}).items()} for k in inputs]
        torch.onnx.export(r.module, args, path, dynamo=True, dynamic_shapes=tuple(shapes), external_data=False, verbose=False, **common)
    model = onnx.load(path)
    for node in model.graph.node:  # where the source lay is nobody's business
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer]:
        if hasattr(value, "metadata_props"):
            del value.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    return model


def fold_pads(model):
    """Moves constant zero padding into the convolution behind it, so that its `pads` are uneven."""
    known = gm.constants(model.graph)
    for pad in [n for n in model.graph.node if n.op_type == "Pad"]:
        before, after = np.split(known[pad.input[1]], 2)
        (user,) = [n for n in model.graph.node if pad.output[0] in n.input]
        assert user.op_type == "Conv"
        (pads,) = [a for a in user.attribute if a.name == "pads"]
        pads.ints[:] = [int(p + q) for p, q in zip(pads.ints, [*before[2:], *after[2:]], strict=True)]
        user.input[0] = pad.input[0]
        model.graph.node.remove(pad)
    used = {i for n in model.graph.node for i in n.input}
    for node in [n for n in model.graph.node if n.op_type == "Constant" and n.output[0] not in used]:
        model.graph.node.remove(node)
    return model


def run_onnx(model, inputs):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


class StayDouble(TorchFunctionMode):
    """Casts to float32 that a model makes on its way (in a softmax, in a norm) stay in float64: the reference is exact."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.float and args[0].is_floating_point():
            return args[0]
        if kwargs.get("dtype") is torch.float32:
            kwargs["dtype"] = torch.float64
        return func(*[torch.float64 if a is torch.float32 else a for a in args], **kwargs)


def adapted_loss(module, sites, adapter, inputs, cotangent):
    """(L, output) of the module with its site weights replaced by weight + delta; all in float64."""
    weights = dict(module.named_parameters())
    for s in sites:
        change = gm.delta(s, adapter[f"{s.name}.lora_A"], adapter[f"{s.name}.lora_B"])
        weights[s.parameter] = weights[s.parameter].detach() + s.torch_delta(change)
    with StayDouble():
        y = functional_call(module, weights, tuple(inputs.values()))
    return (y * cotangent).sum(), y


def close(what, a, b, tolerance):
    error = float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-12))
    assert error < tolerance, f"{what}: {error:.2e}"
    return error


def make(name, r, out, packed=False):
    """Writes the golden of recipe `r` as the folder out/name, or packed into one file out/name.zip."""
    if packed:
        with tempfile.TemporaryDirectory() as work:
            summary = make(name, r, Path(work))
            return f"{summary}, {pack(Path(work) / name, out / f'{name}.zip') // 1024} KiB packed"
    r.module.eval()  # the wrapper too: the exporter restores its mode on everything below
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    bundled = isinstance(r.exporter, Path)
    path = r.exporter if bundled else folder / "model.onnx"
    output = r.output
    if bundled:
        model = onnx.load(path)
    else:
        model = export(r, str(path))
        model = fold_pads(model) if r.fold_pads else model
        onnx.checker.check_model(model)
        onnx.save(model, path)

    module = r.reference.eval() if r.reference else r.module
    sites = gm.find_sites(model, module)
    # keyed by parameter, so that two exports of one module get the same adapter
    rng = np.random.default_rng(23)
    drawn = {}
    for s in sorted(sites, key=lambda s: s.parameter):
        a, b = s.shapes(r.rank)
        drawn[f"{s.name}.lora_A"] = (0.1 * rng.standard_normal(a)).astype(np.float32)
        drawn[f"{s.name}.lora_B"] = (0.1 * rng.standard_normal(b)).astype(np.float32)
    gm.save_tensors(folder / "adapter.safetensors", drawn, gm.SCALE, r.rank)

    errors = {}
    for variant, inputs in r.variants.items():
        torch_inputs = {k: torch.tensor(v) for k, v in inputs.items()}
        module.float()
        with torch.no_grad():
            errors["base"] = close(f"{name} base", run_onnx(model, inputs), module(*torch_inputs.values()).numpy(), 1e-5)

        module.double()
        torch_inputs = {k: v.double() if v.is_floating_point() else v for k, v in torch_inputs.items()}
        adapter = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in drawn.items()}
        y_shape = run_onnx(model, inputs).shape
        cotangent = np.random.default_rng(29).standard_normal(y_shape).astype(np.float32)
        seed = torch.tensor(cotangent, dtype=torch.float64)
        loss, y = adapted_loss(module, sites, adapter, torch_inputs, seed)
        gradients = dict(zip(adapter, torch.autograd.grad(loss, list(adapter.values())), strict=True))

        deltas = {
            s.name: gm.delta(s, adapter[f"{s.name}.lora_A"], adapter[f"{s.name}.lora_B"]).detach().numpy() for s in sites
        }
        reference = y.detach().numpy()
        errors["merged"] = close(f"{name} merged", run_onnx(gm.merged(model, sites, deltas), inputs), reference, 1e-5)
        errors["moved"] = float(np.abs(reference - run_onnx(model, inputs)).max())
        assert errors["moved"] > 1e-2, "the adapter changes nothing"
        errors["difference"] = difference(module, sites, adapter, torch_inputs, seed, gradients)

        np.savez(folder / f"inputs.{variant}.npz", **inputs)
        np.savez(folder / f"cotangent.{variant}.npz", **{output: cotangent})
        np.savez(folder / f"outputs.{variant}.npz", **{output: reference.astype(np.float32)})
        found = {k: g.numpy() for k, g in gradients.items()}
        gm.save_tensors(folder / f"gradients.{variant}.safetensors", found, gm.SCALE, r.rank)

    meta = {
        "model": "models/har_cnn.onnx" if bundled else "model.onnx",
        "exporter": "bundled model (torchscript)" if bundled else r.exporter,
        "opset": next(o.version for o in model.opset_import if o.domain == ""),
        "scale": gm.SCALE,
        "rank": r.rank,
        "output": output,
        "variants": {v: {k: list(x.shape) for k, x in inputs.items()} for v, inputs in r.variants.items()},
        "sites": [s.describe() for s in sites],
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    size = sum(f.stat().st_size for f in folder.iterdir())
    figures = ", ".join(f"{k} {v:.1e}" for k, v in errors.items())
    return f"{name}: {len(sites)} sites, {size // 1024} KiB, opset {meta['opset']}, {figures}"


def pack(folder, path):
    """A zip whose bytes depend on its content only; returns its size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file in sorted(folder.iterdir()):
            archive.writestr(zipfile.ZipInfo(file.name), file.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return path.stat().st_size


def difference(module, sites, adapter, inputs, cotangent, gradients):
    """Largest relative disagreement between a gradient and the loss's central difference along a random direction."""
    worst, generator = 0.0, torch.Generator().manual_seed(31)
    for key in adapter:
        direction = torch.randn(adapter[key].shape, generator=generator, dtype=torch.float64)
        direction *= torch.sign(direction * gradients[key])  # all terms add up: no cancellation
        exact = (direction * gradients[key]).sum().item()
        errors = []
        for step in (1e-6, 1e-5, 1e-4):  # too long for the curvature, or too short for the precision, for some of them
            sides = []
            for side in (step, -step):
                moved = {k: (v + side * direction if k == key else v).detach() for k, v in adapter.items()}
                sides.append(adapted_loss(module, sites, moved, inputs, cotangent)[0].item())
            numeric = (sides[0] - sides[1]) / (2 * step)
            errors.append(abs(numeric - exact) / max(abs(exact), 1e-6))
        worst = max(worst, min(errors))
    assert worst < 1e-4, f"finite differences disagree: {worst:.2e}"
    return worst


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=gm.REPO / "tests/goldens")
    options = parser.parse_args()
    known = recipes()
    for name in options.names or known:
        print(make(name, known[name](), options.out))
