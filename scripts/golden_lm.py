#!/usr/bin/env python3
"""Writes a zoo of tiny causal language models, OUT/NAME.onnx, with ONNX Runtime's answers, OUT/NAME.npz, and
OUT/index.json.

usage: golden_lm.py [NAME...] [--out out] [--list] [--pack DIR] [--greedy DIR]
       NAME is a name or a prefix of one: `llama`, `llama_past`
needs: lib/golden_lm.txt (Python 3.11) for the forms by optimum, lib/golden_lm_genai.txt, with a newer torch and
transformers,
       for the others: run it once with each; what the environment cannot make is left out. Then --pack tests/goldens/lm
       writes those that are kept, a zip each. --greedy tests/goldens/lm makes the greedy tokens of the zips anew and
       leaves the models and all other answers as they are; a zip stays whose tokens differ from the start (products of
       8-bit integers are not the same on every processor). It writes tests/goldens/lm_exact_greedy.json, the tokens of
       copies as for exact_ below

Every model has two layers and random weights (seeded, rounded to bfloat16 but kept as float32, which halves a packed
file).
A name is FAMILY_FORM:
  plain, plain_dynamo  input_ids, attention_mask[, position_ids] → logits; optimum's text-generation (torchscript
                       exporter,
                       opset 17), and torch's dynamo exporter
  past[_KIND]          optimum's text-generation-with-past: past_key_values.N.key/value in, present.N.key/value out
  merged[_KIND]        the same in one file for both phases: an If on use_cache_branch, made by optimum's merge_decoders,
                       quantised as transformers.js does
  genai_KIND           ONNX Runtime GenAI's model builder, for the CPU where KIND does not say otherwise

Files of answers (ids and masks int64, logits float32 [batch, tokens, vocabulary]), all by ONNX Runtime on the very
file:
  with a cache:  prefill_ids [1, 12] → prefill_logits, on an empty cache; decode_ids [1, 4], fed one by one →
  decode_logits;
                 turn_ids [1, 7], at once on the cache of 16 → turn_logits (not where the graph cannot: `second_turn`
                 in the index)
  plain:         full_ids [1, 23], these three in one → full_logits
  greedy_ids [1, 64] after the prefill, by arg max; greedy_margin [64]: how far the second best logit lay below; fewer
                 than 64 where the next margin is below 1e-3, which rounding may turn round (phi3: 42)
  SIDE_ids, SIDE_mask [2, 12] → SIDE_logits, SIDE in left, right: where the padding lies in a batch of two, on an
  empty cache (of the texts alone where ONNX Runtime takes no padding);
  SIDE_valid [2, 12]: tokens that are not padding and whose logits are those of the row alone (1e-3)
  exact_KEY for KEY in the logits above: where MatMulNBits asks for products with activations in 8 bits
  (accuracy_level 4), the answers of a copy that does not ask for it

Products of 8-bit integers saturate on some processors. A copy that computes them in floats, exactly, must give the same
answers as the file, or the model is not made.

Before anything is written: each float32 model equals torch to 1e-4 of the largest logit (1e-3 for genai_f32 of phi
and gemma, whose constants the builder changes a little).
"""

import argparse
import copy
import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import onnx
import onnxruntime as ort
import torch
import transformers as t
from onnx import numpy_helper

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
ort.set_default_logger_severity(3)
t.logging.set_verbosity_error()
logging.disable(logging.WARNING)

# The vocabulary is no other layer's width: GenAI's builder takes the first linear layer of that width for the output
# layer.
VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, INNER, POSITIONS = 136, 32, 2, 4, 2, 16, 64, 128
PREFILL, DECODE, TURN, GREEDY, CLEAR = 12, 4, 7, 64, 1e-3
WINDOW_ROWS = 20  # of a cache of a window, which is 8

# ------------------------------------------------------------------------------------------------------ models


def decoder(kind, **more):
    return kind(
        **{
            "vocab_size": VOCAB, "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
            "max_position_embeddings": POSITIONS, "initializer_range": 0.2, "tie_word_embeddings": False,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **more,
        }
    )  # fmt: skip


FAMILIES = {
    "llama": lambda: decoder(t.LlamaConfig),
    "smollm2": lambda: decoder(t.LlamaConfig, tie_word_embeddings=True, rope_theta=100000.0),
    "qwen2": lambda: decoder(t.Qwen2Config, tie_word_embeddings=True, rope_theta=1000000.0),
    "qwen3": lambda: decoder(t.Qwen3Config, tie_word_embeddings=True, rope_theta=1000000.0),
    "gemma2": lambda: decoder(  # caps low enough to matter, and a scale that is not that of its heads
        t.Gemma2Config, tie_word_embeddings=True, sliding_window=8, query_pre_attn_scalar=2 * HEAD_DIM,
        attn_logit_softcapping=2.0, final_logit_softcapping=5.0, layer_types=["sliding_attention", "full_attention"],
    ),
    "gemma3": lambda: decoder(
        t.Gemma3TextConfig, tie_word_embeddings=True, sliding_window=8, query_pre_attn_scalar=HEAD_DIM, rope_theta=1000000.0,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "gpt2": lambda: t.GPT2Config(
        vocab_size=VOCAB, n_positions=POSITIONS, n_embd=HIDDEN, n_inner=INNER, n_layer=LAYERS, n_head=HEADS,
        initializer_range=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    ),
    "phi3": lambda: decoder(t.Phi3Config, original_max_position_embeddings=POSITIONS),
    "phi": lambda: decoder(  # 16 of 32 numbers are rotated: the kernel of GroupQueryAttention wants multiples of 16
        t.PhiConfig, partial_rotary_factor=0.5, num_attention_heads=2, num_key_value_heads=2, head_dim=2 * HEAD_DIM
    ),
}  # fmt: skip
def local(config):
    config.layer_types = ["sliding_attention"] * LAYERS
    return config


SEEDS = {"llama": 5, "smollm2": 11, "qwen2": 4, "qwen3": 8, "gemma2": 3, "gemma3": 7, "gpt2": 2, "phi3": 12, "phi": 13}  # clear choices, few repeated


def build(family):
    """The model: random weights, with norms and biases away from their neutral start, in bfloat16."""
    attention = "eager" if family == "gemma2" else "sdpa"  # torch's fused attention caps no scores
    model = t.AutoModelForCausalLM.from_config(FAMILIES[family](), attn_implementation=attention).float().eval()
    generator = torch.Generator().manual_seed(SEEDS[family])
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):  # by name: no version's own order of drawing
            noise = 0.2 * torch.randn(p.shape, generator=generator)
            if family.startswith("gemma") and "embed" in name:  # it scales them up; the output layer, the same, would repeat its input
                noise = 0.25 * noise
            p.copy_((p + noise if p.dim() == 1 else noise).bfloat16().float())
    return model


def shape_of(model):
    c = model.config
    heads = c.num_attention_heads
    return {
        "vocab": c.vocab_size, "layers": c.num_hidden_layers, "heads": heads,
        "kv_heads": getattr(c, "num_key_value_heads", heads),
        "head_dim": getattr(c, "head_dim", None) or c.hidden_size // heads,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------ exporters


def by_optimum(model, work, task, opset=None):
    from optimum.exporters.onnx import model_configs, onnx_export_from_model

    # Phi's example cache has heads of hidden / heads, and Phi 3's of head_dim.
    for name in ("DUMMY_INPUT_GENERATOR_CLASSES", "DUMMY_PKV_GENERATOR_CLASS", "NORMALIZED_CONFIG_CLASS"):
        setattr(model_configs.PhiOnnxConfig, name, getattr(model_configs.Phi3OnnxConfig, name))
    onnx_export_from_model(copy.deepcopy(model), work, opset=opset, task=task, do_validation=False)
    return onnx.load(Path(work) / "model.onnx")


def plain(model, work):
    return by_optimum(model, work, "text-generation", opset=17)


def past(model, work):
    return by_optimum(model, work, "text-generation-with-past")


def merged(model, work, change=None):
    """Both decoders apart, as optimum exported them up to 1.13 and for merged files since, `change`d, then merged by optimum."""
    from optimum.exporters.onnx import export
    from optimum.exporters.tasks import TasksManager
    from optimum.onnx import merge_decoders

    make = TasksManager.get_exporter_config_constructor("onnx", model, task="text-generation", library_name="transformers")
    files = []
    for with_past in (False, True):
        config = make(model.config, use_past=True, use_past_in_inputs=with_past, float_dtype="fp32")
        file = Path(work) / f"decoder_{with_past}.onnx"
        export(copy.deepcopy(model), config, file, opset=config.DEFAULT_ONNX_OPSET)
        if change:
            onnx.save(change(onnx.load(file)), file)
        files.append(file)
    merge_decoders(*files, save_path=Path(work) / "merged.onnx", strict=False)
    return onnx.load(Path(work) / "merged.onnx")


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids=None):
        more = {} if position_ids is None else {"position_ids": position_ids}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **more).logits


def plain_dynamo(model, work):
    names = ["input_ids", "attention_mask"]
    if model.config.model_type == "gpt2":  # learned positions: without them a row padded on the left is another text
        names.append("position_ids")
    ids = torch.ones(2, 6, dtype=torch.int64)
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=POSITIONS)}
    file = Path(work) / "model.onnx"
    torch.onnx.export(
        Logits(copy.deepcopy(model)).eval(), tuple(torch.cumsum(ids, 1) - 1 if n == "position_ids" else ids.clone() for n in names), file,
        input_names=names, output_names=["logits"], dynamic_shapes=tuple(dims for _ in names), opset_version=18,
        dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    return onnx.load(file)


def half(exported, whole=False):
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(exported, keep_io_types=not whole, disable_shape_infer=True)


def dynamic_int8(exported, work):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    onnx.save(exported, Path(work) / "a.onnx")
    options = {"EnableSubgraph": True}
    quantize_dynamic(Path(work) / "a.onnx", Path(work) / "b.onnx", weight_type=QuantType.QInt8, extra_options=options)
    return onnx.load(Path(work) / "b.onnx")


def in_blocks(exported, **options):
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(exported, **{"block_size": 32, "is_symmetric": True, **options})
    quantizer.process()
    return quantizer.model.model


def genai(precision, *options, to="cpu"):
    def run(model, work):
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel

        source, target = Path(work) / "source", Path(work) / "target"
        model.save_pretrained(source)
        words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
        t.PreTrainedTokenizerFast(
            tokenizer_object=words, unk_token="w0", pad_token="w0", bos_token="w1", eos_token="w2"
        ).save_pretrained(source)
        line = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", str(source), "-o", str(target)]
        line += ["-p", precision, "-e", to, "-c", str(Path(work) / "cache"), "--extra_options", "hf_token=false", *options]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError("the builder: " + (done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
        return onnx.load(target / "model.onnx")

    return run


def tool(package, more):
    """A name with versions; None if it isn't installed here."""
    try:
        return f"{package} {version(package)}{more}"
    except PackageNotFoundError:
        return None


TORCH = f"torch {torch.__version__.split('+')[0]}, transformers {t.__version__}"
TORCHSCRIPT = tool("optimum-onnx", f", torchscript exporter, {TORCH}")
GENAI = tool("onnxruntime-genai", f" builder, {TORCH}")
RECENT = int(t.__version__.split(".")[0]) >= 5  # the second environment
DYNAMO = f"dynamo exporter, {TORCH}" if RECENT else None
FORMS = {  # form → how, exporter, precision
    "plain": (plain, TORCHSCRIPT, "f32"),
    "plain_dynamo": (plain_dynamo, DYNAMO, "f32"),
    "past": (past, TORCHSCRIPT, "f32"),
    "merged": (merged, TORCHSCRIPT, "f32"),
    "past_f16": (lambda m, w: half(past(m, w)), TORCHSCRIPT, "f16, float32 inputs and outputs"),
    "past_f16_whole": (lambda m, w: half(past(m, w), whole=True), TORCHSCRIPT, "f16, cache and logits too"),
    "past_int8": (lambda m, w: dynamic_int8(past(m, w), w), TORCHSCRIPT, "dynamic int8"),
    "past_q4": (lambda m, w: in_blocks(past(m, w)), TORCHSCRIPT, "MatMulNBits, 4 bits, symmetric"),
    "past_q4_zero": (lambda m, w: in_blocks(past(m, w), is_symmetric=False), TORCHSCRIPT, "MatMulNBits, 4 bits, zero points"),
    "past_q4f16": (lambda m, w: half(in_blocks(past(m, w))), TORCHSCRIPT, "MatMulNBits, 4 bits, symmetric; the rest f16, float32 inputs and outputs"),
    "past_q8": (lambda m, w: in_blocks(past(m, w), bits=8), TORCHSCRIPT, "MatMulNBits, 8 bits, symmetric"),
    "merged_f16_whole": (lambda m, w: merged(m, w, lambda one: half(one, whole=True)), TORCHSCRIPT, "f16, cache and logits too"),
    "merged_int8": (lambda m, w: dynamic_int8(merged(m, w), w), TORCHSCRIPT, "dynamic int8"),
    "merged_q4": (lambda m, w: in_blocks(merged(m, w)), TORCHSCRIPT, "MatMulNBits, 4 bits, symmetric"),
    "genai_f32": (genai("fp32"), GENAI, "f32"),
    "genai_f32_apart": (genai("fp32", "fuse_qkv=false"), GENAI, "f32; Q, K and V apart"),
    "genai_f16": (genai("fp16"), GENAI, "f16, cache and logits too"),
    "genai_f16_dml": (genai("fp16", to="dml"), GENAI, "f16, cache and logits too; for DirectML: rotary embeddings apart"),
    "genai_int4": (genai("int4"), GENAI, "MatMulNBits, 4 bits, symmetric"),
    "genai_int4_zero": (genai("int4", "is_symmetric=false"), GENAI, "MatMulNBits, 4 bits, zero points"),
    "genai_int4_mixed": (genai("int4", "matmul_mixed_precision=last_matmul:int8"), GENAI, "MatMulNBits, 4 bits, the last 8 bits"),
    "genai_int4_k": (genai("int4", "algo_config=k_quant", "block_size=16"), GENAI, "MatMulNBits, 4 bits, zero points, embeddings too"),
    "genai_int4_k_mixed": (
        genai("int4", "algo_config=k_quant", "block_size=16", "matmul_mixed_precision=last_matmul:int8"), GENAI,
        "MatMulNBits, 4 bits, the last and the embeddings 8 bits, zero points",
    ),
    "genai_int8": (genai("int8"), GENAI, "MatMulNBits, 8 bits, symmetric"),
}  # fmt: skip
EVERY = ["past", "plain", "plain_dynamo", "genai_f32", "genai_int4"]
MORE = {
    "llama": ["merged", "merged_f16_whole", "merged_int8", "merged_q4", "past_f16", "past_f16_whole", "past_int8", "past_q4", "past_q4_zero",
              "past_q4f16", "past_q8", "genai_f32_apart", "genai_f16", "genai_f16_dml", "genai_int8", "genai_int4_zero", "genai_int4_mixed"],
    "smollm2": ["genai_int8", "genai_int4_k", "genai_int4_k_mixed"],
    "gpt2": ["merged"],
}  # fmt: skip
LEAVE = {"gpt2": ["genai_f32", "genai_int4"]}  # the builder does not know GPT-2


def names():
    """All, in the order of the index."""
    return [f"{f}_{k}" for f in FAMILIES for k in EVERY + MORE.get(f, []) if k not in LEAVE.get(f, [])]


def possible(family, form):
    """Whether this environment makes it. The builder's last version without trouble with Gemma 3 is of the first environment."""
    return FORMS[form][1] and (not form.startswith("genai") or RECENT == (family != "gemma3"))


# ------------------------------------------------------------------------------------------------------ graphs


def graphs(graph):
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for g in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                yield from graphs(g)


def strip(model):
    """Without a word about where it was made."""
    for g in [*graphs(model.graph), *model.functions]:
        values = [*g.value_info]
        if isinstance(g, onnx.GraphProto):
            values += [*g.input, *g.output, *g.initializer]
        for item in [g, *g.node, *values]:
            item.ClearField("doc_string")
            if hasattr(item, "metadata_props"):
                del item.metadata_props[:]
    model.ClearField("doc_string")
    del model.metadata_props[:]
    for tensor in (i for g in graphs(model.graph) for i in g.initializer):
        if not tensor.raw_data:  # a list of ints takes more room
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    return model


def operators(model):
    found = Counter()
    for g in [*graphs(model.graph), *model.functions]:
        found.update((n.domain or "ai.onnx") + "::" + n.op_type for n in g.node)
    return dict(sorted(found.items()))


def exact(model):
    """A copy whose products of few bits use activations as they are; None if that is what the model does."""
    copied = copy.deepcopy(model)
    levels = [a for g in graphs(copied.graph) for n in g.node for a in n.attribute if a.name == "accuracy_level" and a.i > 1]
    for a in levels:
        a.i = 1
    return copied if levels else None


def in_floats(model):
    """A copy that computes products of 8-bit integers in floats, which hold them exactly; None without such products."""
    copied = copy.deepcopy(model)
    found = 0
    for g in graphs(copied.graph):
        nodes = []
        for node in g.node:
            if node.op_type != "MatMulInteger":
                nodes.append(node)
                continue
            found += 1
            names = [f"{node.output[0]}_{part}" for part in ("a", "b", "az", "bz", "ad", "bd", "y")]
            a, b, az, bz, ad, bd, y = names
            for source, target in zip((*node.input[:2], *node.input[2:4]), (a, b, az, bz), strict=True):
                nodes.append(onnx.helper.make_node("Cast", [source], [target], to=onnx.TensorProto.FLOAT))
            nodes.append(onnx.helper.make_node("Sub", [a, az], [ad]))
            nodes.append(onnx.helper.make_node("Sub", [b, bz], [bd]))
            nodes.append(onnx.helper.make_node("MatMul", [ad, bd], [y]))
            nodes.append(onnx.helper.make_node("Cast", [y], [node.output[0]], to=onnx.TensorProto.INT32))
        del g.node[:]
        g.node.extend(nodes)
    return copied if found else None


# ------------------------------------------------------------------------------------------------------ answers


class Runner:
    """One ONNX file, and what its inputs want."""

    TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32}

    def __init__(self, model, head_dim):
        self.head_dim = head_dim
        options = ort.SessionOptions()
        options.enable_mem_reuse = False  # the builder gives one name to two lengths (genai_f16)
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.inputs = {i.name: i for i in self.session.get_inputs()}
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.caches = [n for n in self.inputs if n.startswith("past")]

    def step(self, ids, mask, cache=None):
        """(logits of `ids`, the cache after them); `mask` covers the past too."""
        if cache is None:
            cache = {}
            for name in self.caches:
                _, heads, length, _ = self.inputs[name].shape
                rows = WINDOW_ROWS if "sliding" in str(length) else 0  # a buffer of its own, which ONNX Runtime keeps
                cache[name] = np.zeros((len(ids), heads, rows, self.head_dim), self.TYPES[self.inputs[name].type])
        position = np.maximum(np.cumsum(mask, 1) - 1, 0) * mask + (1 - mask)  # optimum's: 1 at padding
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": position[:, -ids.shape[1] :]}
        feeds = {k: v.astype(self.TYPES[self.inputs[k].type]) for k, v in feeds.items() if k in self.inputs} | cache
        if "use_cache_branch" in self.inputs:
            feeds["use_cache_branch"] = np.array([next(iter(cache.values())).shape[2] > 0])
        results = dict(zip(self.outputs, self.session.run(None, feeds), strict=True))
        present = {n: results[n.replace("past_key_values", "present")] for n in self.caches}
        return results["logits"].astype(np.float32), present


def texts():
    rng = np.random.default_rng(7)
    ids = rng.integers(3, VOCAB, (1, PREFILL + DECODE + TURN))
    rows = rng.integers(3, VOCAB, (2, PREFILL))
    return ids, rows


def greedy(runner, prompt):
    chosen, margins, mask = [], [], np.ones_like(prompt)
    logits, cache = runner.step(prompt, mask)
    whole = prompt
    for _ in range(GREEDY):
        best = np.sort(logits[0, -1])
        if best[-1] - best[-2] < CLEAR:
            break
        chosen.append(int(logits[0, -1].argmax()))
        margins.append(best[-1] - best[-2])
        new = np.array([[chosen[-1]]])
        whole = np.concatenate([whole, new], 1)
        mask = np.ones_like(whole)
        logits, cache = runner.step(new if runner.caches else whole, mask, cache if runner.caches else None)
    return {"greedy_ids": np.array([chosen]), "greedy_margin": np.array(margins, np.float32)}


def padded(runner, rows, side, lengths=(PREFILL, 7)):
    ids, mask = np.zeros_like(rows), np.zeros_like(rows)
    at = [slice(0, n) if side == "right" else slice(PREFILL - n, PREFILL) for n in lengths]
    for i, n in enumerate(lengths):
        ids[i, at[i]], mask[i, at[i]] = rows[i, :n], 1
    valid = np.zeros(mask.shape, bool)
    alone = [runner.step(rows[i : i + 1, :n], np.ones((1, n), np.int64))[0] for i, n in enumerate(lengths)]
    try:
        logits, _ = runner.step(ids, mask)
    except ort.capi.onnxruntime_pybind11_state.InvalidArgument:  # an attention with a cache of a window takes no padding
        logits = np.zeros((*ids.shape, alone[0].shape[2]), np.float32)
        for i, one in enumerate(alone):
            logits[i, at[i]] = one[0]
    for i, one in enumerate(alone):
        valid[i, at[i]] = np.abs(one[0] - logits[i, at[i]]).max(1) < 1e-3 * np.abs(one).max()
    return {f"{side}_ids": ids, f"{side}_mask": mask, f"{side}_logits": logits, f"{side}_valid": valid}


def answers(runner):
    ids, rows = texts()
    ones = lambda n: np.ones((1, n), np.int64)  # noqa: E731
    first, second = PREFILL, PREFILL + DECODE
    found = {}
    if runner.caches:
        found["prefill_ids"], found["decode_ids"], found["turn_ids"] = np.split(ids, [first, second], 1)
        found["prefill_logits"], cache = runner.step(found["prefill_ids"], ones(first))
        steps = []
        for i in range(first, second):
            logits, cache = runner.step(ids[:, i : i + 1], ones(i + 1), cache)
            steps.append(logits)
        found["decode_logits"] = np.concatenate(steps, 1)
        try:
            found["turn_logits"], _ = runner.step(found["turn_ids"], ones(ids.shape[1]), cache)
        except ort.capi.onnxruntime_pybind11_state.InvalidArgument:  # the masks of genai_f16 are for one new token
            del found["turn_ids"]
    else:
        found["full_ids"] = ids
        found["full_logits"], _ = runner.step(ids, ones(ids.shape[1]))
    found |= greedy(runner, ids[:, :first])
    for side in ("left", "right"):
        found |= padded(runner, rows, side)
    return found


def whole(found):
    """Logits of all 23 tokens, or of those that the graph could do."""
    parts = [f"{k}_logits" for k in ("full", "prefill", "decode", "turn")]
    return np.concatenate([found[k] for k in parts if k in found], 1)


def by_torch(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor(texts()[0]), use_cache=False).logits.numpy()


# ------------------------------------------------------------------------------------------------------ main


def make(name, out):
    family, form = name.split("_", 1)
    how, exporter, precision = FORMS[form]
    model = build(family)
    if family == "gemma3" and form.startswith("genai"):  # the builder's rule, whatever layer_types says: each sixth is global
        FAMILIES[family] = lambda make=FAMILIES[family]: local(make())
        model = build(family)
    with tempfile.TemporaryDirectory() as work, warnings.catch_warnings(), torch.no_grad():
        exported = strip(how(model, work))
    shape = shape_of(model)
    runner = Runner(exported, shape["head_dim"])
    found = answers(runner)
    truth = by_torch(model)
    got = whole(found)
    error = float(np.abs(got - truth[:, : got.shape[1]]).max() / np.abs(truth).max())
    if precision.startswith("f32"):
        # the builder gives Phi an epsilon of 1e-6 instead of 1e-5, and rounds the √32 of Gemma to 5.66
        rounded = form.startswith("genai") and family in ("phi", "gemma2", "gemma3")
        assert error < (1e-3 if rounded else 1e-4), f"{name} is not torch's model: {error:.1e}"
    other = exact(exported)
    if other:
        answered = answers(Runner(other, shape["head_dim"]))
        found |= {f"exact_{k}": v for k, v in answered.items() if k.endswith("_logits")}
    other = in_floats(exported)
    if other:
        difference = np.abs(whole(answers(Runner(other, shape["head_dim"]))) - got).max()
        assert difference < 1e-3, f"{name}: this processor's products of 8-bit integers are not exact: {difference:.1e}"
    size = len(exported.SerializeToString())
    text = exported.SerializeToString()
    assert not re.search(rb"/(tmp|home|root|work|usr)/|site-packages", text), f"{name} holds a path"
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(exported, out / f"{name}.onnx")
    np.savez_compressed(out / f"{name}.npz", **found)
    entry = {
        "name": name, "family": family, "exporter": exporter, "form": form.split("_")[0], "precision": precision,
        "opsets": {o.domain or "ai.onnx": o.version for o in exported.opset_import},
        **shape,
        "inputs": {i.name: [i.type, i.shape] for i in runner.session.get_inputs()},
        "outputs": {o.name: [o.type, o.shape] for o in runner.session.get_outputs()},
        "torch_error": float(f"{error:.1e}"),
        "greedy_least_margin": float(f"{found['greedy_margin'].min():.1e}"),
        "second_turn": "turn_logits" in found or "full_logits" in found,
        "left_padding": bool(np.array_equal(found["left_valid"], found["left_mask"] == 1)),
        "right_padding": bool(np.array_equal(found["right_valid"], found["right_mask"] == 1)),
        "bytes": size,
        "operators": operators(exported),
    }  # fmt: skip
    index = out / "index.json"
    entries = {e["name"]: e for e in json.loads(index.read_text())} if index.exists() else {}
    entries[name] = entry
    entries = [entries[n] for n in sorted(entries, key=lambda n: names().index(n))]
    index.write_text("[\n" + ",\n".join(json.dumps(e) for e in entries) + "\n]\n")
    words = len(set(found["greedy_ids"][0].tolist()))
    return (
        f"{name}: {size // 1024} KiB, from torch {error:.1e} (largest logit {np.abs(truth).max():.1f}), greedy {words} words, "
        f"least margin {entry['greedy_least_margin']:.1e}, padding left {entry['left_padding']}, right {entry['right_padding']}"
    )


def kept(name):
    """Without the forms that tell no more than others, and the one that leaves the width of its cache open."""
    family, form = name.split("_", 1)
    some = {
        "past": set(FAMILIES) - {"gemma2"},
        "plain": {"llama", "phi"},
        "plain_dynamo": {"llama", "gemma3", "qwen3", "gpt2"},
        "genai_int4": {"llama", "smollm2", "qwen2", "qwen3", "gemma3", "phi", "phi3"},
        "genai_f16": set(),
    }
    return family in some.get(form, {family})


def write(file, parts):
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in parts.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content, compresslevel=9)


def pack(out, to):
    to.mkdir(parents=True, exist_ok=True)
    for file in sorted(out.glob("*.onnx")):
        if kept(file.stem):
            parts = (file, file.with_suffix(".npz"))
            write(to / f"{file.stem}.zip", {part.name: part.read_bytes() for part in parts})


def greedy_anew(folder):
    """Replaces the greedy tokens in the zips of `folder` where there are more or fewer than before, and writes those of
    copies without rounded activations beside it."""
    exact_tokens = {}
    for file in sorted(folder.glob("*.zip")):
        with zipfile.ZipFile(file) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        model, answers = f"{file.stem}.onnx", f"{file.stem}.npz"
        with np.load(io.BytesIO(parts[answers])) as arrays:
            found = dict(arrays)
        head_dim = shape_of(build(file.stem.split("_")[0]))["head_dim"]
        exported = onnx.load_from_string(parts[model])
        copied = exact(exported)
        if copied:
            exact_tokens[file.stem] = greedy(Runner(copied, head_dim), found["prefill_ids"])["greedy_ids"][0].tolist()
        runner = Runner(exported, head_dim)
        new = greedy(runner, found["prefill_ids"] if runner.caches else found["full_ids"][:, :PREFILL])
        if np.array_equal(found["greedy_ids"], new["greedy_ids"]):
            continue
        same = min(found["greedy_ids"].size, new["greedy_ids"].size)
        if not np.array_equal(found["greedy_ids"][:, :same], new["greedy_ids"][:, :same]):
            print(f"{file.stem}: left as it is: the processor gives other tokens than before", flush=True)
            continue
        found |= new
        whole = io.BytesIO()
        np.savez_compressed(whole, **found)
        write(file, parts | {answers: whole.getvalue()})
        least = found["greedy_margin"].min()
        print(f"{file.stem}: {found['greedy_ids'].size} tokens, least margin {least:.1e}", flush=True)
    lines = [f"{json.dumps(name)}: {json.dumps(tokens, separators=(',', ':'))}" for name, tokens in exact_tokens.items()]
    folder.with_name(f"{folder.name}_exact_greedy.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--pack", type=Path)
    parser.add_argument("--greedy", type=Path)
    options = parser.parse_args()
    if options.pack:
        sys.exit(pack(options.out, options.pack))
    if options.greedy:
        sys.exit(greedy_anew(options.greedy))
    here = [n for n in names() if possible(*n.split("_", 1))]
    chosen = [n for n in here if not options.names or any(n == o or n.startswith(o + "_") for o in options.names)]
    failed = 0
    for name in chosen:
        try:
            print(name if options.list else make(name, options.out), flush=True)
        except Exception as e:  # one that an exporter refuses keeps no other from being made
            failed += 1
            print(f"{name}: FAILED {type(e).__name__}: {str(e).strip()[:600]}", flush=True)
            if os.environ.get("TRACE"):
                raise
    sys.exit(failed > 0)
