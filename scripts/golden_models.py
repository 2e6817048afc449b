"""The small models behind the goldens, in torch, and how their layers are found again in an exported ONNX file.

LoRA, as acclimate defines it (scale = alpha / rank):
  linear, weight W [in, out] as ONNX uses it (x·W):  W + scale·A·B,               A [in, r], B [r, out]
  convolution, weight W [out, in/groups, k...]:       W + scale·Σ_r B[:, r]·A[r],  A [r, in/groups, k...], B [out, r]
A *site* is a MatMul, Gemm or Conv node whose weight is constant, named by the node (by its first output if the node has
no name).
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from safetensors.numpy import save
from torch import nn

REPO = Path(__file__).resolve().parent.parent
RANK, SCALE = 4, 2.0


# ---------------------------------------------------------------------------------------------------- models


def har_cnn(path):
    """The bundled activity model, rebuilt from the initializers of its ONNX file."""
    weights = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in onnx.load(path).graph.initializer}
    model = nn.Sequential(
        nn.Conv1d(6, 32, 5, 2, 2), nn.ReLU(),
        nn.Conv1d(32, 64, 5, 2, 2), nn.ReLU(),
        nn.Conv1d(64, 128, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(128, 64), nn.ReLU(),
        nn.Linear(64, 6),
    )  # fmt: skip
    names = ["onnx::Conv_41", "onnx::Conv_42", "onnx::Conv_44", "onnx::Conv_45", "onnx::Conv_47", "onnx::Conv_48"]
    names += ["11.weight", "11.bias", "13.weight", "13.bias"]
    with torch.no_grad():
        for parameter, name in zip(model.parameters(), names, strict=True):
            parameter.copy_(weights[name])
    return model.eval()


def bert2(attention="eager"):
    """Two BERT layers: hidden 32, 4 heads, 120 tokens."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(11)
    config = BertConfig(
        vocab_size=120, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=32, initializer_range=0.2, attn_implementation=attention,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():  # biases and norms that are not at their neutral start
        for name, p in model.named_parameters():
            if p.dim() == 1:
                p.add_(0.1 * torch.randn_like(p))
    return model


class TextModel(nn.Module):
    """input_ids, attention_mask → one output. `own_mask` builds the additive mask here, as transformers did before version 5;
    the masks it builds now become a graph under the torchscript exporter that few runtimes load."""

    def __init__(self, model, output, own_mask=False, causal=False):
        super().__init__()
        self.model, self.output, self.own_mask, self.causal = model, output, own_mask, causal

    def forward(self, input_ids, attention_mask):
        mask = attention_mask
        if self.own_mask:
            allowed = attention_mask[:, None, None, :].bool()
            if self.causal:
                at = torch.arange(input_ids.shape[1], device=input_ids.device)
                allowed = allowed & (at[None, :] <= at[:, None])
            dtype = next(self.model.parameters()).dtype
            mask = torch.where(allowed, 0.0, torch.finfo(torch.float32).min).to(dtype)
        return self.model(input_ids=input_ids, attention_mask=mask)[self.output]


def llama_tiny(attention="eager"):
    """Two Llama layers: hidden 32, 4 query heads on 2 key heads, 90 tokens, untied output layer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(13)
    config = LlamaConfig(
        vocab_size=90, hidden_size=32, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, initializer_range=0.2, tie_word_embeddings=False, use_cache=False,
        attn_implementation=attention,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 1:
                p.add_(0.1 * torch.randn_like(p))
    return model


class MbConv(nn.Module):
    """Expand 1×1, depthwise k×k, project 1×1, with the input added where the shapes allow it."""

    def __init__(self, inner, cin, cout, kernel, stride):
        super().__init__()
        self.expand = nn.Conv2d(cin, inner, 1)
        self.depthwise = nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner)
        self.project = nn.Conv2d(inner, cout, 1)
        self.act = nn.ReLU6()
        self.residual = stride == 1 and cin == cout

    def forward(self, x):
        y = self.project(self.act(self.depthwise(self.act(self.expand(x)))))
        return x + y if self.residual else y


class EffnetTiny(nn.Module):
    """What EfficientNet-lite is made of, with batch norms already folded into the convolutions, and one grouped convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.block1 = MbConv(24, 8, 8, 3, 1)
        self.block2 = MbConv(24, 8, 12, 5, 2)
        self.grouped = nn.Conv2d(12, 16, 3, 1, 1, groups=4)
        self.act = nn.ReLU6()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(16, 10)

    def forward(self, image):
        x = self.block2(self.block1(self.act(self.stem(image))))
        x = self.pool(self.act(self.grouped(x)))
        return self.classifier(torch.flatten(x, 1))


class ConvZoo(nn.Module):
    """Convolutions of uncommon geometry: dilated, rectangular, unequal strides, uneven padding, depth multiplier, 1-D grouped."""

    def __init__(self):
        super().__init__()
        self.dilated = nn.Conv2d(2, 6, 3, 1, 2, dilation=2)
        self.rectangular = nn.Conv2d(6, 8, (1, 3), (2, 1), (0, 1))
        self.uneven = nn.Conv2d(8, 8, 3, 2)  # padded 0 before and 1 after, as TensorFlow's SAME does
        self.multiplier = nn.Conv2d(8, 16, 3, 1, 1, groups=8)
        self.line = nn.Conv1d(16, 12, 3, 1, 2, dilation=2, groups=2)
        self.act = nn.Hardswish()

    def forward(self, image):
        x = self.act(self.dilated(image))
        x = self.act(self.rectangular(x))
        x = self.act(self.uneven(nn.functional.pad(x, (0, 1, 0, 1))))
        x = self.act(self.multiplier(x)).flatten(2)
        return self.line(x)


def spread(model, seed):
    """Weights that keep activations around one through the depth, so that clips are met on both sides."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            fan = p[0].numel() if p.dim() > 1 else 1
            gain = 2.2 * fan**-0.5 if p.dim() > 1 else 0.3
            p.copy_(gain * torch.randn(p.shape, generator=generator))
    return model.eval()


# ------------------------------------------------------------------------------------- sites of an ONNX file


@dataclass
class Site:
    name: str  # of the ONNX node
    kind: str  # linear | conv
    parameter: str  # name of the torch parameter behind it
    weight: np.ndarray  # as ONNX uses it: [in, out], or [out, in/groups, k...]
    groups: int
    transposed: bool  # torch keeps a linear weight as [out, in]
    direction: int | None = None  # 0 or 1 in a recurrent layer of both directions
    gates: tuple = (0,)  # ONNX's gate g of a recurrent layer is torch's gate gates[g]

    def torch_delta(self, change):
        """A change of the ONNX weight, as a change of torch's parameter."""
        if self.kind != "linear":
            return change
        if len(self.gates) > 1:
            blocks = change.chunk(len(self.gates), 1)
            change = torch.cat([blocks[self.gates.index(g)] for g in range(len(self.gates))], 1)
        return change.T if self.transposed else change

    def shapes(self, rank):
        """Shapes of A and B; a rank above the weight's own is cut to it."""
        rank = min(rank, self.weight.shape[0], self.weight[0].size)
        if self.kind == "linear":
            fan_in, fan_out = self.weight.shape
            return (fan_in, rank), (rank, fan_out)
        if self.kind == "conv_transpose":
            rank = min(rank, self.weight.shape[1])
            return (self.weight.shape[0], rank, *self.weight.shape[2:]), (self.weight.shape[1] * self.groups, rank)
        return (rank, *self.weight.shape[1:]), (self.weight.shape[0], rank)

    def describe(self):
        w = self.weight.shape
        linear = self.kind == "linear"
        turned = self.kind == "conv_transpose"
        return {
            "name": self.name,
            "kind": self.kind,
            "in": w[0] if linear or turned else w[1] * self.groups,
            "out": w[1] * self.groups if turned else w[1] if linear else w[0],
            "kernel": [] if linear else list(w[2:]),
            "groups": self.groups,
        }


def delta(site, a, b, scale=SCALE):
    """What LoRA adds to the weight of a site in ONNX orientation; torch tensors."""
    if site.kind == "linear":
        return scale * (a @ b)
    if site.kind == "conv_transpose":
        a, b = (v.reshape(site.groups, -1, *v.shape[1:]) for v in (a, b))
        return scale * torch.einsum("gor,gir...->gio...", b, a).flatten(0, 1)
    return scale * torch.einsum("or,r...->o...", b, a)


def constants(graph):
    """Every value that is an initializer or follows from one through Transpose, Identity or Cast."""
    known = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            known[node.output[0]] = numpy_helper.to_array(attributes["value"])
        elif node.input and node.input[0] in known:
            value = known[node.input[0]]
            if node.op_type == "Transpose":
                known[node.output[0]] = value.transpose(attributes.get("perm", range(value.ndim)[::-1]))
            elif node.op_type == "Identity":
                known[node.output[0]] = value
            elif node.op_type == "Cast":
                known[node.output[0]] = value.astype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"]))
    return known


GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}  # torch: i f g o, and r z n; ONNX: i o f g, and z r n


def computed_constants(graph):
    """Names of all values that do not depend on an input."""
    known = {t.name for t in graph.initializer}
    for node in graph.node:
        if all(i in known or not i for i in node.input) and not node.op_type.startswith("Random"):
            known.update(node.output)
    return known


def find_sites(model, module):
    """The sites of an ONNX model in graph order; each weight is recognised by its values among the module's parameters. Where
    several parameters hold the same values (layers that share them in the file), the n-th site takes the n-th of them."""
    known = constants(model.graph)
    parameters = {n: p.detach().float().numpy() for n, p in module.named_parameters(remove_duplicate=False) if p.dim() > 1}
    sites = []
    fixed = computed_constants(model.graph)
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm", "Conv", "ConvTranspose", *GATES) or node.input[1] not in known or node.input[0] in fixed:
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        weight = known[node.input[1]]
        kind = {"Conv": "conv", "ConvTranspose": "conv_transpose"}.get(node.op_type, "linear")
        if attributes.get("transB", 0):
            weight = weight.T
        gates = GATES.get(node.op_type, (0,))
        assert not attributes.get("transA", 0) and attributes.get("alpha", 1.0) == 1.0
        name = node.name or node.output[0]
        found = [(name, weight, None)]
        if node.op_type in GATES:
            found = [(name, weight[0].T, None)]
            if weight.shape[0] > 1:
                found = [(f"{name}:forward", weight[0].T, 0), (f"{name}:backward", weight[1].T, 1)]
        for name, weight, direction in found:
            if kind == "linear" and weight.ndim != 2:
                continue
            same = lambda p, w: p.shape == w.shape and np.array_equal(p, w)  # noqa: E731
            kept = np.concatenate([np.split(weight, len(gates), 1)[gates.index(g)] for g in range(len(gates))], 1) if len(gates) > 1 else weight
            turned = [n for n, p in parameters.items() if kind == "linear" and same(p, kept.T)]
            # a linear layer over a sequence is sometimes exported as a 1×1 convolution, and the other way round
            found = turned or [n for n, p in parameters.items() if same(p, weight)]
            assert found, f"{name}: no parameter holds its weight"
            nth = sum(s.parameter in found for s in sites)
            assert len(found) == 1 or nth < len(found), f"{name}: weight matches {found}"
            parameter = found[0] if len(found) == 1 else found[nth]
            group = attributes.get("group", 1)
            sites.append(Site(name, kind, parameter, weight, group, bool(turned), direction, gates))
    assert len({s.name for s in sites}) == len(sites), "two sites of one name"
    assert len({s.parameter for s in sites}) == len(sites), "two sites of one parameter"
    return sites


def merged(model, sites, deltas):
    """A copy of the ONNX model whose sites use weight + delta (dict by site name, ONNX orientation)."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = {s.name: s.weight for s in sites}
    for node in copy.graph.node:
        name = node.name or node.output[0]
        both = [n for n in (f"{name}:forward", f"{name}:backward") if n in weights]
        if name not in weights and not both:
            continue
        if node.op_type in GATES:
            w = np.stack([(weights[n] + deltas[n]).astype(np.float32).T for n in both or [name]])
        else:
            w = (weights[name] + deltas[name]).astype(np.float32)
        if any(a.name == "transB" and a.i for a in node.attribute):
            w = w.T
        node.input[1] = f"merged::{name}"
        copy.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(w), node.input[1]))
    return copy


def save_tensors(path, tensors, scale, rank):
    """A safetensors file whose bytes depend on its content only: the library writes metadata in any order."""
    data = save({k: np.ascontiguousarray(v, dtype=np.float32) for k, v in tensors.items()}, {"scale": str(scale), "rank": str(rank)})
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(text) == length
    Path(path).write_bytes(data[:8] + text + data[8 + length :])
