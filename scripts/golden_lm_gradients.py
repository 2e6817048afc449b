#!/usr/bin/env python3
"""Writes PyTorch's gradients of LoRA on the language models of golden_lm.py: one zip with NAME.npz for each.

usage: golden_lm_gradients.py [NAME...] [--models tests/goldens/lm] [--to tests/goldens/lm_gradients.zip]
                              [--acclimate target/release/acclimate]
       NAME: a name or a prefix of one, to make these alone; the others in the zip stay
needs: lib/golden_lm.txt (Python 3.11), no network; a built acclimate, of which only the names of the sites are asked

The model is the one that golden_lm.py exported, with the weights, epsilons and rotary frequencies of the ONNX file:
what is quantised is dequantised. It runs in float64, autograd gives the gradients. The adapter is LoRA of rank 2 and
alpha 4 at every site that can adapt, with neither A nor B zero. A site is an ONNX node; the columns of its weight are
found among those of torch's layers, so Q, K and V in one node are three layers of torch, and one layer of torch may be
two nodes.

Arrays of NAME.npz (float32; ids and start int64; float32 of ids, factors and weights hold bfloat16 values):
  ids [45], start [1]      a text, and its first token that counts
  weights [36]             w of the loss Σ w[t]·log p(t) over the tokens from start on, of both signs, some zero
  log_probs [36]           of these tokens, with the adapter
  plain_log_probs [36]     without
  SITE.A [in, 2], SITE.B [2, out]     the factors: the site adds s·(x·A)·B to x·W, s = alpha / rank = 2
  SITE.grad.A, SITE.grad.B            gradients of the loss with respect to A, and to s·B as one factor (half of B's)
Left out: gemma2_genai_f32 and llama_genai_f16_dml, whose twins in torch are 3e-4 and 6e-4 of the largest logit from
ONNX Runtime's answers; past_int8 and merged_int8. Their activations are rounded by the range of each tensor: a gradient
through that is a convention, and a number that rounds otherwise in float32 moves all others by more than is compared
here.

Before anything is written: without the adapter, the logits are those that golden_lm.py stored, to 1e-4 of the largest
(exact_KEY where there is one; of 16 bits, those of ONNX Runtime on the same graph in float32); with it, they are those
of ONNX Runtime on a graph with the factors as nodes; and central differences agree with the gradients at two entries
of each factor.
"""

import argparse
import copy
import io
import json
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import golden_lm as lm
import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from stay_double import StayDouble

RANK, ALPHA, TOKENS, START = 2, 4, 45, 9
SCALE = ALPHA / RANK
HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


# ------------------------------------------------------------------------------------------------ the ONNX file


def widened(model):
    """The same graph with every float of 16 bits as one of 32."""
    model = copy.deepcopy(model)

    def wide(tensor):
        if tensor.data_type == HALF:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))

    for graph in lm.graphs(model.graph):
        for tensor in graph.initializer:
            wide(tensor)
        for value in [*graph.input, *graph.output, *graph.value_info]:
            if value.type.tensor_type.elem_type == HALF:
                value.type.tensor_type.elem_type = FLOAT
        for attribute in (a for node in graph.node for a in node.attribute):
            if attribute.HasField("t"):
                wide(attribute.t)
            if attribute.name in ("to", "dtype") and attribute.i == HALF:
                attribute.i = FLOAT
    return model


class Weights:
    """The linear nodes of a model and their weights [in, out]."""

    def __init__(self, model):
        self.nodes, self.stored, self.made = {}, {}, {}
        for graph in lm.graphs(model.graph):
            self.stored |= {i.name: numpy_helper.to_array(i) for i in graph.initializer}
            self.made |= {o: n for n in graph.node for o in n.output}
            self.nodes |= {n.name: n for n in graph.node}  # a merged model has two of a name, with one weight

    def constant(self, name):
        if name in self.stored:
            return self.stored[name]
        node = self.made[name]
        assert node.op_type == "Transpose", f"{node.name}: {node.op_type} makes a weight"
        return self.constant(node.input[0]).T

    def of(self, name):
        node = self.nodes[name]
        numbers = {a.name: a.i for a in node.attribute}
        if node.op_type == "MatMulNBits":
            return self.dequantised(node, numbers)
        plain = node.op_type == "MatMul" or node.op_type == "Gemm" and not numbers.get("transB")
        assert plain, f"{name}: {node.op_type}"
        return self.constant(node.input[1]).astype(np.float64)

    def dequantised(self, node, numbers):
        rows, size, bits = numbers["N"], numbers["block_size"], numbers["bits"]
        unpack = lambda b: b if bits == 8 else np.stack([b & 15, b >> 4], -1).reshape(*b.shape[:-1], -1)  # noqa: E731
        codes = unpack(self.stored[node.input[1]]).astype(np.float64)  # [N, blocks, block_size]
        blocks = codes.shape[1]
        assert codes.shape == (rows, blocks, size) and blocks * size == numbers["K"]
        zero = np.full((rows, blocks), 2.0 ** (bits - 1))
        if len(node.input) > 3 and node.input[3]:
            zero = unpack(self.stored[node.input[3]].reshape(rows, -1))[:, :blocks].astype(np.float64)
        scales = self.stored[node.input[2]].reshape(rows, blocks).astype(np.float64)
        return ((codes - zero[..., None]) * scales[..., None]).reshape(rows, -1).T


def listed(acclimate, model):
    """(the sites of layers, the output layer), by the program's names."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx.save(model, file)
        done = subprocess.run([acclimate, "inspect", str(file), "--json"], capture_output=True, text=True, check=True)
    sites = json.loads(done.stdout)["sites"]
    output = [s["name"] for s in sites if s["reason"] == "it scores the vocabulary"]
    layers = [s for s in sites if s["name"] not in output]
    assert len(output) == 1 and all(s["kind"] == "linear" and s["adapts"] for s in layers)
    return [s["name"] for s in layers], output[0]


# ------------------------------------------------------------------------------------------------ torch


def is_conv1d(layer):
    return type(layer).__name__ == "Conv1D"


def matrix(layer):
    """The weight of a layer as [in, out], a view."""
    return layer.weight.data if is_conv1d(layer) else layer.weight.data.T


class Twin:
    """Torch's model with the weights of an ONNX file, and factors at its sites."""

    def __init__(self, name, model, acclimate):
        family, form = name.split("_", 1)
        make = lm.FAMILIES[family]
        if family == "gemma3" and form.startswith("genai"):
            lm.FAMILIES[family] = lambda: lm.local(make())
        self.model = lm.build(family).double().requires_grad_(False)
        lm.FAMILIES[family] = make
        self.model.lm_head.weight = torch.nn.Parameter(self.model.lm_head.weight.data.clone(), requires_grad=False)
        layers = self.model.named_modules()
        self.layers = {n: m for n, m in layers if isinstance(m, torch.nn.Linear) or is_conv1d(m)}
        self.parts = {n: [] for n in self.layers}  # layer → (site, its columns, the layer's)
        weights = Weights(model)
        self.sites, output = listed(acclimate, model)
        self.shapes = {}
        found = [(site, weights.of(site)) for site in [*self.sites, output]]
        original = {n: matrix(m).numpy().copy() for n, m in self.layers.items()}
        for site, weight in found:
            self.place(site, weight, original)
        for layer, parts in self.parts.items():
            covered = sorted(c for _, _, columns in parts for c in range(columns.start, columns.stop))
            assert covered == list(range(original[layer].shape[1])), f"{name}: {layer} is not all in the ONNX file"
        assert {s for s, *_ in self.parts.pop("lm_head")} == {output}
        shared = [n for n in weights.nodes.values() if n.op_type == "GatherBlockQuantized"]
        if shared:  # the embedding is the output layer's weight, quantised
            assert [n.input[2] for n in shared] == [weights.nodes[output].input[2]]
            self.model.get_input_embeddings().weight.data = self.model.lm_head.weight.data.clone()
        self.factors = {}
        self.constants(family, form, model)
        for layer in self.parts:
            self.layers[layer].register_forward_hook(self.hook(layer))

    def place(self, site, weight, original):
        """Finds each column of a weight among the layers', and puts it there."""
        self.shapes[site] = weight.shape
        alike = {n: m for n, m in original.items() if m.shape[0] == weight.shape[0]}
        unit = lambda m: m / np.linalg.norm(m, axis=0)  # noqa: E731
        all_columns = [(n, c) for n, m in alike.items() for c in range(m.shape[1])]
        cosine = unit(weight).T @ unit(np.concatenate(list(alike.values()), 1))
        best = cosine.argmax(1)
        assert cosine.max(1).min() > 0.95, f"{site}: a column that no layer has: {cosine.max(1).min()}"
        runs = []  # [layer, first of the site's columns, first of the layer's, how many]
        for at, (layer, column) in enumerate(all_columns[b] for b in best):
            if runs and runs[-1][0] == layer and runs[-1][2] + runs[-1][3] == column:
                runs[-1][3] += 1
            else:
                runs.append([layer, at, column, 1])
        for layer, own, column, count in runs:
            matrix(self.layers[layer])[:, column : column + count] = torch.tensor(weight[:, own : own + count])
            self.parts[layer].append((site, slice(own, own + count), slice(column, column + count)))

    def constants(self, family, form, model):
        """Epsilons and rotary frequencies as the file has them."""
        if form.startswith("genai"):
            nodes = [n for g in lm.graphs(model.graph) for n in g.node if n.op_type.endswith("LayerNormalization")]
            epsilons = {a.f for n in nodes for a in n.attribute if a.name == "epsilon"}
            assert len(epsilons) == 1, epsilons
            for layer in self.model.modules():
                for name in ("eps", "variance_epsilon"):
                    if hasattr(layer, name):
                        setattr(layer, name, *epsilons)
            if family == "gemma3":  # the builder's √32
                self.model.model.embed_tokens.embed_scale.fill_(5.66)
        if "f16" in form:
            rotary = self.model.model.rotary_emb.inv_freq
            rotary.copy_(rotary.to(torch.float16))
            epsilon = float(np.float16(self.model.config.rms_norm_eps))
            for layer in self.model.modules():
                if hasattr(layer, "variance_epsilon"):
                    layer.variance_epsilon = epsilon

    def hook(self, layer):
        def add(_, inputs, output):
            parts = [p for p in self.parts[layer] if p[0] in self.factors]
            if not parts:
                return None
            extra = torch.zeros_like(output)
            for site, own, columns in parts:
                a, b = self.factors[site]  # b is s·B
                extra[..., columns] = (inputs[0] @ a) @ b[:, own]
            return output + extra

        return add

    def logits(self, ids):
        with StayDouble():
            return self.model(input_ids=torch.as_tensor(ids), use_cache=False).logits

    def log_probs(self, ids):
        chosen = self.logits(ids[None])[0, START - 1 : -1].log_softmax(-1)
        return chosen.gather(1, torch.as_tensor(ids[START:, None]))[:, 0]


# ------------------------------------------------------------------------------------------------ a case


def bf16(values):
    return torch.tensor(values).bfloat16().double().numpy()


def case(name, twin):
    """A text, its weights and the factors, of seeds of the model's own."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    count = TOKENS - START
    found = {"ids": rng.integers(3, lm.VOCAB, TOKENS), "start": np.array([START])}
    found["weights"] = bf16(rng.normal(size=count) * (rng.random(count) < 0.85))
    for site in twin.sites:
        rows, columns = twin.shapes[site]
        found[f"{site}.A"] = bf16(rng.normal(size=(rows, RANK)) * 0.5 / np.sqrt(rows))
        found[f"{site}.B"] = bf16(rng.normal(size=(RANK, columns)) * 0.15)
    twin.factors = {}
    with torch.no_grad():
        found["plain_log_probs"] = twin.log_probs(found["ids"]).numpy()
    return found


def gradients(twin, found):
    """Adds log-probabilities and gradients with the adapter, which the twin keeps."""
    twin.factors = {
        site: [torch.tensor(v, requires_grad=True) for v in (found[f"{site}.A"], SCALE * found[f"{site}.B"])]
        for site in twin.sites
    }
    chosen = twin.log_probs(found["ids"])
    assert chosen.dtype == torch.float64
    (torch.tensor(found["weights"]) * chosen).sum().backward()
    found["log_probs"] = chosen.detach().numpy()
    for site, (a, b) in twin.factors.items():
        found |= {f"{site}.grad.A": a.grad.numpy(), f"{site}.grad.B": b.grad.numpy()}
    moved = np.abs(chosen.detach().numpy() - found["plain_log_probs"]).max()
    assert moved > 0.1, "the factors change nothing"
    return moved


def differences(twin, found):
    """How far central differences lie from the gradients, of the largest of each: at that one and another."""
    rng, step, worst = np.random.default_rng(24), 1e-5, 0.0
    weights = torch.tensor(found["weights"])
    for site, both in twin.factors.items():
        for part, values in zip("AB", both, strict=True):
            gradient = found[f"{site}.grad.{part}"]
            largest = np.abs(gradient).max()
            assert largest > 1e-4, f"no gradient at {site}.{part}"
            for place in (np.abs(gradient).argmax(), rng.integers(gradient.size)):
                at, sums = np.unravel_index(place, gradient.shape), []
                with torch.no_grad():
                    for move in (step, -2 * step):
                        values[at] += move
                        sums.append((weights * twin.log_probs(found["ids"])).sum().item())
                    values[at] += step
                worst = max(worst, abs((sums[0] - sums[1]) / (2 * step) - gradient[at]) / largest)
    assert worst < 1e-5, f"{worst:.1e} from central differences"
    return worst


# ------------------------------------------------------------------------------------------------ ONNX Runtime


def adapted(model, found, sites):
    """The graph with the factors as nodes beside those of the sites."""
    model = copy.deepcopy(model)
    tensors = []
    for site in sites:
        a, b = found[f"{site}.A"], SCALE * found[f"{site}.B"]
        tensors += [numpy_helper.from_array(v.astype(np.float32), f"{site}:{n}") for n, v in (("A", a), ("B", b))]
    model.graph.initializer.extend(tensors)
    for number, graph in enumerate(lm.graphs(model.graph)):
        nodes = []
        for node in graph.node:
            nodes.append(node)
            if node.name in sites:
                site, output, tag = node.name, node.output[0], f"{node.name}:{number}"
                node.output[0] = f"{tag}:base"
                nodes += [
                    helper.make_node("MatMul", [node.input[0], f"{site}:A"], [f"{tag}:low"], f"{tag}:low"),
                    helper.make_node("MatMul", [f"{tag}:low", f"{site}:B"], [f"{tag}:delta"], f"{tag}:delta"),
                    helper.make_node("Add", [f"{tag}:base", f"{tag}:delta"], [output], f"{tag}:sum"),
                ]
        nodes = [copy.deepcopy(n) for n in nodes]
        del graph.node[:]
        graph.node.extend(nodes)
    return model


def near(what, got, wanted, tolerance=1e-4):
    error = float(np.abs(got - wanted).max() / np.abs(wanted).max())
    assert error < tolerance, f"{what}: {error:.1e}"
    return error


def check(name, model, stored, twin):
    """(the graph that tells the truth, how far torch is from it without an adapter)."""
    head_dim = lm.shape_of(twin.model)["head_dim"]
    graph = lm.exact(model) or model
    if "f16" in name:
        graph = widened(graph)
        wanted = lm.whole(lm.answers(lm.Runner(graph, head_dim)))
    else:
        wanted = lm.whole({k: stored.get(f"exact_{k}", v) for k, v in stored.items()})
    twin.factors = {}
    with torch.no_grad():
        got = twin.logits(lm.texts()[0]).numpy()[:, : wanted.shape[1]]
    return graph, near(f"{name}: torch", got, wanted)


def check_adapted(name, graph, twin, found):
    runner = lm.Runner(adapted(graph, found, twin.factors), lm.shape_of(twin.model)["head_dim"])
    got, _ = runner.step(found["ids"][None], np.ones((1, TOKENS), np.int64))
    with torch.no_grad():
        return near(f"{name}: adapted", twin.logits(found["ids"][None]).numpy(), got)


# ------------------------------------------------------------------------------------------------ main


# ends of names, see above
LEFT_OUT = ("_past_int8", "_merged_int8", "gemma2_genai_f32", "llama_genai_f16_dml")


def opened(file):
    """The model in a zip of golden_lm.py, and its answers."""
    with zipfile.ZipFile(file) as archive:
        model = onnx.load_from_string(archive.read(f"{file.stem}.onnx"))
        with np.load(io.BytesIO(archive.read(f"{file.stem}.npz"))) as arrays:
            return model, dict(arrays)


def make(file, acclimate):
    name = file.stem
    model, stored = opened(file)
    twin = Twin(name, widened(model) if "f16" in name else model, acclimate)
    found = case(name, twin)
    graph, error = check(name, model, stored, twin)
    print(f"{name}: from ONNX Runtime {error:.1e}", flush=True)
    moved = gradients(twin, found)
    error, far = check_adapted(name, graph, twin, found), differences(twin, found)
    print(
        f"  {len(twin.sites)} sites, from ONNX Runtime {error:.1e}, from central differences {far:.0e}, "
        f"log-probabilities moved by up to {moved:.2f}",
        flush=True,
    )
    kinds = {"f": np.float32, "i": np.int64}
    whole = io.BytesIO()
    np.savez_compressed(whole, **{k: v.astype(kinds[v.dtype.kind]) for k, v in found.items()})
    return whole.getvalue()


def main(options):
    files = [f for f in sorted(options.models.glob("*.zip")) if not f.stem.endswith(LEFT_OUT)]
    chosen = [f for f in files if not options.names or any((f.stem + "_").startswith(n + "_") for n in options.names)]
    made = {f.stem: make(f, options.acclimate) for f in chosen}
    if options.names and options.to.exists():
        with zipfile.ZipFile(options.to) as archive:
            kept = {name.removesuffix(".npz"): archive.read(name) for name in archive.namelist()}
        made = dict(sorted((kept | made).items()))
    with zipfile.ZipFile(options.to, "w") as archive:
        for name, whole in made.items():
            archive.writestr(zipfile.ZipInfo(f"{name}.npz", (1980, 1, 1, 0, 0, 0)), whole)


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--models", type=Path, default=root / "tests/goldens/lm")
    parser.add_argument("--to", type=Path, default=root / "tests/goldens/lm_gradients.zip")
    parser.add_argument("--acclimate", default=str(root / "target/release/acclimate"))
    sys.exit(main(parser.parse_args()))
