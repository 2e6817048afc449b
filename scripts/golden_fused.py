#!/usr/bin/env python3
"""Writes tiny transformer encoders fused by ONNX Runtime's optimisers, OUT/NAME.zip, with ONNX Runtime's answers, and
OUT/index.json.

usage: golden_fused.py [NAME...] [--out out] [--list]     NAME is a name or a prefix of one: `bert`, `vit_older`
needs: lib/golden_lm_genai.txt (Python 3.11)

Every model has two layers, 32 hidden numbers, 4 heads and random weights (seeded, rounded to bfloat16 but kept as
float32, which
halves a packed file), exported by torch's torchscript exporter with batch and sequence left open. Models of opset 14
hold
LayerNormalization in the standard domain, which knows it from opset 17 on: the optimisers write it there all the same.
A name is FAMILY_FORM. By onnxruntime.transformers.optimizer, FusionOptions in brackets:
  default       as it comes; of BERT's kind: a mask of one dimension, the rows' lengths, made by EmbedLayerNormalization
  raw_mask      the mask of two dimensions as it came in [use_raw_attention_mask]
  mha           MultiHeadAttention for Attention [use_multi_head_attention];   mha_raw_mask  both of these
  no_embed      embeddings by Gather and Add [enable_embed_layer_norm off]
  no_bias_gelu  Gelu after an Add [enable_bias_gelu off]
  no_skip       LayerNormalization after an Add [enable_skip_layer_norm off]
  approx        FastGelu for Gelu [enable_gelu_approximation]
  o2, o3        what optimum calls so: after ONNX Runtime's own fusions (opt_level 2), and then with approx
  f16           default, converted to float16 with inputs and outputs of float32 (convert_float_to_float16)
By ONNX Runtime alone:
  extended      the graph that a session of ORT_ENABLE_EXTENDED saves (optimized_model_filepath)
  shaped        the same after ONNX Runtime's symbolic shape inference, without which it makes no SkipLayerNormalization
A family *_older has the attention and the mask of older transformers, whose fused Attention has a mask_filter_value
(and
that of ViT and of CLIP's text is fused at all); clip_text_bias adds a mask of floats, which becomes an
attention_bias. products_*
is no encoder: matrix products that become FusedMatMul, with every attribute of it in use.

NAME.zip holds NAME.onnx and NAME.npz: b3.INPUT and b3.OUTPUT of a batch of three rows of 11 tokens, of which two are
padded on the
right, and b1.INPUT and b1.OUTPUT of one row of 7. Images: 3 and 1 of 16 x 16. Answers are those of the very file on
the CPU, with
no further optimisation. index.json has for each model its inputs, outputs, operators, and for each operator of
com.microsoft every
form it occurs in: attributes, and the inputs and outputs that are there with their type and their shape in b3.

Before anything is written: exports equal torch to 1e-4 and fused models equal their export to 1e-5 of the largest
number of the
output (1e-3 where FastGelu stands for an exact Gelu, 2e-2 in float16), in either batch, and padding is found to be
without effect.
"""

import argparse
import copy
import io
import json
import logging
import os
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import onnx
import onnxruntime as ort
import torch
import transformers as t
from onnx import helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.fusion_options import FusionOptions

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
ort.set_default_logger_severity(3)
t.logging.set_verbosity_error()
logging.disable(logging.WARNING)

VOCAB, HIDDEN, LAYERS, HEADS, INNER, POSITIONS = 100, 32, 2, 4, 64, 64
IMAGE, PATCH = 16, 4
LENGTHS = {"b3": [11, 8, 5], "b1": [7]}
WIDEST = 200_000  # bytes of a model

# ------------------------------------------------------------------------------------------------------ models


class Named(torch.nn.Module):
    """Takes a model's inputs by position and returns the named outputs in a tuple."""

    def __init__(self, model, inputs, outputs):
        super().__init__()
        self.model, self.inputs, self.outputs = model, inputs, outputs

    def forward(self, *values):
        found = self.model(**dict(zip(self.inputs, values)))
        return tuple(found[o] for o in self.outputs)


LOWEST = torch.finfo(torch.float32).min


def added(module, query, key, value, mask, **rest):
    """The attention of older transformers: products divided by the root, then a float mask added."""
    scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
    scores = scores if mask is None else scores + mask
    return (torch.softmax(scores, -1) @ value).transpose(1, 2).contiguous(), None


t.AttentionInterface.register("added", added)


class OwnMask(torch.nn.Module):
    """Gives a model a mask of four dimensions, by `rule`, which the model then leaves as it is."""

    def __init__(self, model, rule):
        super().__init__()
        self.model, self.rule = model, rule

    def forward(self, input_ids, attention_mask=None, **more):
        return self.model(input_ids=input_ids, attention_mask=self.rule(input_ids, attention_mask), **more)


def added_mask(ids, mask):
    return (1.0 - mask[:, None, None, :].float()) * LOWEST


def causal_mask(ids, mask):
    rows, columns = ids.shape
    square = torch.full((columns, columns), LOWEST)
    place = torch.arange(columns)
    square.masked_fill_(place < (place + 1).view(columns, 1), 0)
    return square[None, None, :, :].expand(rows, 1, columns, columns)


class Products(torch.nn.Module):
    """Matrix products with what ONNX Runtime folds into FusedMatMul: transposed factors and constant scales."""

    def __init__(self):
        super().__init__()
        self.config = None
        self.weight = torch.nn.Parameter(torch.zeros(HIDDEN, INNER))
        self.table = torch.nn.Parameter(torch.zeros(INNER, HIDDEN))

    def forward(self, a, b):
        return {
            "scores": torch.softmax(a @ b.transpose(1, 2) * 0.25, -1),
            "gram": a.transpose(1, 2) @ b,
            "scaled": (a / 8) @ self.weight,
            "both": a.transpose(1, 2) @ (b @ self.weight).transpose(1, 2).transpose(1, 2) * 3,
            "turned": (self.table @ a.transpose(1, 2)).transpose(1, 2) @ (b @ self.weight).transpose(1, 2),
            "crossed": (self.table @ a.transpose(1, 2)).transpose(1, 2).transpose(1, 2) @ b * -0.5,
            "batches": a.permute(1, 0, 2) @ b.permute(1, 2, 0),
            "batch": a.permute(1, 0, 2) @ self.weight,
            "columns": a.transpose(1, 2) @ torch.relu(b @ self.weight @ self.table).transpose(1, 2).transpose(1, 2),
        }


TEXT = dict(
    vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=INNER,
    max_position_embeddings=POSITIONS, initializer_range=0.2,
)  # fmt: skip
VISION = dict(
    hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=INNER, image_size=IMAGE,
    patch_size=PATCH, initializer_range=0.2,
)  # fmt: skip
IDS, MASK, TYPES, PIXELS = "input_ids", "attention_mask", "token_type_ids", "pixel_values"
BOTH, LAST = ["last_hidden_state", "pooler_output"], ["last_hidden_state"]


def eager(kind, config, **more):
    config._attn_implementation = more.pop("attention", "eager")
    return kind(config, **more)


def clip_text():
    return eager(t.CLIPTextModel, t.CLIPTextConfig(**TEXT, hidden_act="quick_gelu", eos_token_id=2, bos_token_id=1, pad_token_id=0))


# name: (model, the optimiser's kind of model, opset, inputs, outputs)
FAMILIES = {
    "bert": (lambda: eager(t.BertModel, t.BertConfig(**TEXT)), "bert", 14, [IDS, MASK, TYPES], BOTH),
    "bert17": (lambda: eager(t.BertModel, t.BertConfig(**TEXT)), "bert", 17, [IDS, MASK, TYPES], BOTH),
    "bert_sdpa": (lambda: eager(t.BertModel, t.BertConfig(**TEXT), attention="sdpa"), "bert", 17, [IDS, MASK, TYPES], BOTH),
    "bert_tanh": (lambda: eager(t.BertModel, t.BertConfig(**TEXT, hidden_act="gelu_new")), "bert", 14, [IDS, MASK, TYPES], BOTH),
    "bert_older": (
        lambda: OwnMask(eager(t.BertModel, t.BertConfig(**TEXT), attention="added"), added_mask), "bert", 14, [IDS, MASK, TYPES], BOTH,
    ),
    "distilbert": (
        lambda: eager(t.DistilBertModel, t.DistilBertConfig(
            vocab_size=VOCAB, dim=HIDDEN, n_layers=LAYERS, n_heads=HEADS, hidden_dim=INNER, max_position_embeddings=POSITIONS,
            initializer_range=0.2)),
        "bert", 14, [IDS, MASK], LAST,
    ),
    "roberta": (
        lambda: eager(t.RobertaModel, t.RobertaConfig(**TEXT, type_vocab_size=1, pad_token_id=1)), "bert", 17, [IDS, MASK], BOTH,
    ),
    "vit": (lambda: eager(t.ViTModel, t.ViTConfig(**VISION)), "vit", 17, [PIXELS], BOTH),
    "vit_older": (lambda: eager(t.ViTModel, t.ViTConfig(**VISION), attention="added"), "vit", 17, [PIXELS], BOTH),
    "clip_vision": (
        lambda: eager(t.CLIPVisionModel, t.CLIPVisionConfig(**VISION, hidden_act="quick_gelu")), "clip", 14, [PIXELS], BOTH,
    ),
    "clip_text": (clip_text, "clip", 14, [IDS], BOTH),
    "clip_text_older": (lambda: OwnMask(clip_text(), causal_mask), "clip", 14, [IDS], BOTH),
    "clip_text_bias": (clip_text, "clip", 14, [IDS, MASK], BOTH),
    "products": (Products, None, 14, ["a", "b"], ["scores", "gram", "scaled", "both", "turned", "crossed", "batches", "batch", "columns"]),
}  # fmt: skip
# The forms of one model have the same weights.
SEEDS = {name: 20 + i for i, name in enumerate(FAMILIES)} | {"bert17": 20, "bert_sdpa": 20, "bert_older": 20}


def build(family):
    """The model: random weights by name, with norms and biases away from their neutral start."""
    make, _, _, inputs, outputs = FAMILIES[family]
    model = make().float().eval()
    generator = torch.Generator().manual_seed(SEEDS[family])
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = 0.2 * torch.randn(p.shape, generator=generator)
            p.copy_(((1 if "norm" in name.lower() and name.endswith("weight") else 0) + noise).bfloat16().float())
    return Named(model, inputs, outputs).eval()


def batch(family, key, extra=0):
    """The inputs of one batch; `extra` more padded columns on the right."""
    random = np.random.default_rng(SEEDS[family] * 10 + len(LENGTHS[key]))
    lengths = LENGTHS[key]
    rows, columns = len(lengths), max(lengths)
    inputs = FAMILIES[family][3]
    padding = 1 if family == "roberta" else 0
    if inputs == [PIXELS]:
        return {PIXELS: random.standard_normal((rows, 3, IMAGE, IMAGE)).astype(np.float32)}
    if MASK not in inputs and IDS not in inputs:
        return {n: random.standard_normal((rows, columns, HIDDEN)).astype(np.float32) for n in inputs}
    ids = random.integers(3, VOCAB, (rows, columns))
    types = (np.arange(columns) >= columns // 2)[None].repeat(rows, 0).astype(np.int64)
    if family == "clip_text_bias":  # a float mask of four dimensions, which the model adds as it is
        ids[:, -1] = 2
        return {IDS: ids, MASK: random.standard_normal((rows, 1, columns, columns)).astype(np.float32)}
    if MASK not in inputs:  # CLIP's text is read up to the end token
        ids[:, -1] = 2
        return {IDS: ids}
    mask = (np.arange(columns + extra)[None] < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.pad(ids, ((0, 0), (0, extra)))
    values = {IDS: np.where(mask == 1, ids, padding), MASK: mask, TYPES: np.pad(types, ((0, 0), (0, extra))) * mask}
    return {n: values[n] for n in inputs}


def export(family, module, path):
    """The plain export, checked against torch."""
    _, _, opset, inputs, outputs = FAMILIES[family]
    example = {n: torch.tensor(v) for n, v in batch(family, "b3").items()}
    dynamic = {n: {0: "batch"} if n == PIXELS else {0: "batch", 1: "sequence"} for n in inputs}
    dynamic |= {"last_hidden_state": {0: "batch"} if inputs == [PIXELS] else {0: "batch", 1: "sequence"}, "pooler_output": {0: "batch"}}
    if family == "clip_text_bias":
        dynamic[MASK] = {0: "batch", 2: "sequence", 3: "sequence"}
    if family == "products":
        dynamic |= {n: {0: n + "_0", 1: n + "_1", 2: n + "_2"} for n in outputs}
    dynamic = {n: d for n, d in dynamic.items() if n in [*inputs, *outputs]}
    with torch.no_grad():
        torch.onnx.export(
            module, tuple(example.values()), str(path), dynamo=False, opset_version=opset, input_names=inputs, output_names=outputs,
            dynamic_axes=dynamic,
        )  # fmt: skip
        model = onnx.load(path)
        answers = {}
        for key in LENGTHS:
            values = batch(family, key)
            answers[key] = run(model, values)
            wanted = dict(zip(outputs, (o.numpy() for o in module(*(torch.tensor(v) for v in values.values())))))
            assert worst(answers[key], wanted) <= 1e-4, f"{family}: the export is {worst(answers[key], wanted):.1e} from torch"
    return answers


# ------------------------------------------------------------------------------------------------------ forms


def fused(level=None, raw=False, **options):
    def make(family, path, work):
        kind = FAMILIES[family][1]
        fusion = FusionOptions(kind)
        if raw:
            fusion.use_raw_attention_mask()
        for name, value in options.items():
            assert hasattr(fusion, name)
            setattr(fusion, name, value)
        return optimizer.optimize_model(
            str(path), model_type=kind, num_heads=HEADS, hidden_size=HIDDEN, optimization_options=fusion, opt_level=level
        ).model

    return make


def extended(family, path, work):
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    settings.optimized_model_filepath = str(work / "extended.onnx")
    settings.intra_op_num_threads = 1
    ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return onnx.load(work / "extended.onnx")


def shaped(family, path, work):
    known = SymbolicShapeInference.infer_shapes(onnx.load(path), auto_merge=True)
    onnx.save(known, work / "shaped.onnx")
    return extended(family, work / "shaped.onnx", work)


def half(family, path, work):
    return convert_float_to_float16(fused()(family, path, work), keep_io_types=True, disable_shape_infer=True)


FORMS = {
    "default": fused(),
    "raw_mask": fused(raw=True),
    "mha": fused(use_multi_head_attention=True),
    "mha_raw_mask": fused(raw=True, use_multi_head_attention=True),
    "no_embed": fused(enable_embed_layer_norm=False),
    "no_bias_gelu": fused(enable_bias_gelu=False),
    "no_skip": fused(enable_skip_layer_norm=False),
    "approx": fused(enable_gelu_approximation=True),
    "o2": fused(level=2),
    "o3": fused(level=2, enable_gelu_approximation=True),
    "f16": half,
    "extended": extended,
    "shaped": shaped,
}
MADE = {
    "bert": [f for f in FORMS if f != "shaped"],
    "bert17": ["no_embed", "extended"],
    "bert_sdpa": ["default", "extended"],
    "bert_older": ["default", "raw_mask", "mha", "extended", "shaped", "f16"],
    "bert_tanh": ["default", "no_bias_gelu", "extended"],
    "distilbert": ["default", "mha", "extended", "shaped"],
    "roberta": ["default", "raw_mask", "mha", "extended"],
    "vit": ["default", "no_bias_gelu", "extended", "shaped"],
    "vit_older": ["default", "mha", "approx", "f16"],
    "clip_vision": ["default", "extended", "f16"],
    "clip_text": ["default", "extended"],
    "clip_text_older": ["default"],
    "clip_text_bias": ["default"],
    "products": ["extended"],
}
NAMES = {f"{family}_{form}": (family, form) for family, forms in MADE.items() for form in forms}


def tolerance(form):
    return 2e-2 if form == "f16" else 1e-3 if form in ("approx", "o3") else 1e-5


# ------------------------------------------------------------------------------------------------------ answers


def run(model, values, outputs=None):
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    names = outputs or [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, values)))


def worst(found, wanted):
    """The largest difference, in parts of the largest number of its output."""
    assert found.keys() == wanted.keys() and all(found[n].shape == wanted[n].shape and found[n].dtype == wanted[n].dtype for n in found)
    return max(float(np.abs(found[n] - wanted[n]).max() / np.abs(wanted[n]).max()) for n in found)


def padding_is_idle(family, model, allowed):
    """Whether two more columns of padding leave the tokens' numbers alone, and whether the mask does anything."""
    if MASK not in FAMILIES[family][3] or family == "clip_text_bias":
        return
    values, wider = batch(family, "b3"), batch(family, "b3", extra=2)
    valid = values[MASK] == 1
    narrow, wide = run(model, values)["last_hidden_state"], run(model, wider)["last_hidden_state"][:, : valid.shape[1]]
    assert np.abs(narrow - wide)[valid].max() <= max(allowed, 1e-5) * np.abs(narrow).max(), "padding counts"
    unmasked = run(model, values | {MASK: np.ones_like(values[MASK])})["last_hidden_state"]
    assert np.abs(narrow - unmasked)[1:][valid[1:]].max() > 0.05, "the mask does nothing"
    assert np.abs(narrow - unmasked)[0].max() < 1e-5


def clean(model):
    """The model without its exporter's remarks."""
    graph = model.graph
    for holder in [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer, *model.functions]:
        holder.doc_string = ""
        if hasattr(holder, "metadata_props"):
            del holder.metadata_props[:]
    del model.graph.value_info[:]
    return model


SCHEMAS = {(s.domain, s.name): s for s in ort_state.get_all_operator_schema()}


def shapes(model, values):
    """Type and shape of every tensor of the graph in one batch."""
    wide = copy.deepcopy(model)
    have = {o.name for o in wide.graph.output}
    made = [o for n in wide.graph.node for o in n.output if o and o not in have]
    wide.graph.output.extend(helper.make_empty_tensor_value_info(o) for o in made)
    found = dict(values)
    found |= {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    found |= run(wide, values)
    return {n: f"{v.dtype}{list(v.shape)}" for n, v in found.items()}


def arguments(names, given, known):
    """Which of an operator's inputs or outputs are there; an empty or missing one is null."""
    found = {}
    for i, name in enumerate(names):
        value = given[i] if i < len(given) else None
        found[name] = known[value] if value else "empty" if value == "" else None
    return found


def operators(model, values):
    known, forms = shapes(model, values), {}
    for node in model.graph.node:
        if not node.domain or node.domain == "ai.onnx":
            continue
        schema = SCHEMAS[node.domain, node.op_type]
        form = {
            "attributes": {a.name: plain(helper.get_attribute_value(a)) for a in sorted(node.attribute, key=lambda a: a.name)},
            "inputs": arguments([i.name for i in schema.inputs], node.input, known),
            "outputs": arguments([o.name for o in schema.outputs], node.output, known),
        }
        same = forms.setdefault(f"{node.domain}:{node.op_type}", [])
        for other in same:
            if {**other, "nodes": 0} == {**form, "nodes": 0}:
                other["nodes"] += 1
                break
        else:
            same.append({"nodes": 1, **form})
    return forms


def plain(value):
    return value.decode() if isinstance(value, bytes) else round(value, 12) if isinstance(value, float) else value


def kinds(values):
    found = {}
    for value in values:
        kind = value.type.tensor_type
        shape = [d.dim_param or d.dim_value or "?" for d in kind.shape.dim]
        found[value.name] = [helper.tensor_dtype_to_np_dtype(kind.elem_type).name, *shape]
    return found


def pack(name, model, arrays, path):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for part, content in ((f"{name}.onnx", model.SerializeToString(deterministic=True)), (f"{name}.npz", buffer.getvalue())):
            info = zipfile.ZipInfo(part, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


def make(name, path, exported, work, out):
    family, form = NAMES[name]
    model = clean(FORMS[form](family, path, work))
    arrays, far = {}, 0.0
    for key in LENGTHS:
        values = batch(family, key)
        answers = run(model, values)
        far = max(far, worst(answers, exported[key]))
        arrays |= {f"{key}.{n}": v for n, v in {**values, **answers}.items()}
    assert far <= tolerance(form), f"{far:.1e} from the export"
    padding_is_idle(family, model, tolerance(form))
    assert all(np.isfinite(v).all() for v in arrays.values())
    size = model.ByteSize()
    assert size <= WIDEST, f"{size} bytes"
    pack(name, model, arrays, out / f"{name}.zip")
    counts = Counter(f"{n.domain or 'ai.onnx'}:{n.op_type}" for n in model.graph.node)
    entry = {
        "opsets": {o.domain or "ai.onnx": o.version for o in model.opset_import},
        "inputs": kinds(model.graph.input),
        "outputs": kinds(model.graph.output),
        "shapes": {k: list(v.shape) for k, v in arrays.items()},
        "from_export": float(f"{far:.2g}"),
        "bytes": size,
        "operators": dict(sorted(counts.items())),
        "forms": operators(model, batch(family, "b3")),
    }
    own = ", ".join(f"{n.split(':')[1]} {c}" for n, c in sorted(counts.items()) if not n.startswith("ai.onnx:"))
    norms = counts["ai.onnx:LayerNormalization"]
    print(f"{name}: {far:.1e} from the export, {size // 1000} kB; {own}" + (f"; LayerNormalization {norms}" if norms else ""), flush=True)
    return entry


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    wanted = [n for n in NAMES if not options.names or any(n.startswith(p) for p in options.names)]
    if options.list:
        print("\n".join(wanted))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    listed = options.out / "index.json"
    index = json.loads(listed.read_text()) if listed.exists() else {}
    failed = []
    for family in MADE:
        names = [n for n in wanted if NAMES[n][0] == family]
        if not names:
            continue
        with tempfile.TemporaryDirectory() as work:
            path = Path(work) / "export.onnx"
            try:
                exported = export(family, build(family), path)
            except Exception as e:  # one family that does not export must not hide the others
                failed += names
                print(f"{family}: FAILED: {type(e).__name__}: {' '.join(str(e).split())[:600]}", flush=True)
                continue
            for name in names:
                try:
                    index[name] = make(name, path, exported, Path(work), options.out)
                except Exception as e:
                    failed.append(name)
                    print(f"{name}: FAILED: {type(e).__name__}: {' '.join(str(e).split())[:600]}", flush=True)
        listed.write_text(json.dumps({n: index[n] for n in NAMES if n in index}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
