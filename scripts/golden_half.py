#!/usr/bin/env python3
"""Writes tests/goldens/half/NAME.zip: models with weights of 16 bits, and what torch finds with the same weights. Run by hand.

usage: golden_half.py [NAME...] [--out tests/goldens/half]
needs: what golden_zoo.py needs

Every file is a golden of the zoo's kind (golden_zoo.py) whose model.onnx holds floats of 16 bits. Weights are rounded to that type first; outputs
and gradients are those of the rounded weights, in float64: a runtime that computes in float32 must find them to float32's precision.
  *_f16        converted from the float32 export by onnxruntime.transformers, inputs and outputs of float32 behind Casts
  *_f16_whole  the same without Casts: inputs and outputs of float16
  *_half, *_bf16, *_bf16_dynamo  exported by torch from module.half() and module.bfloat16()
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import onnx
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16

import golden_models as gm
import golden_zoo as zoo
import make_goldens as mg


def converted(keep):
    def run(recipe, folder, float_model):
        return convert_float_to_float16(float_model, keep_io_types=keep, disable_shape_infer=True, op_block_list=[])

    return run


def exported(dtype, exporter):
    def run(recipe, folder, float_model):
        recipe.module.to(dtype)
        recipe.exporter = exporter
        cast = lambda v: torch.tensor(v).to(dtype) if v.dtype.kind == "f" else torch.tensor(v)  # noqa: E731
        recipe.variants = {k: {n: Tensor(cast(v)) for n, v in i.items()} for k, i in recipe.variants.items()}
        return mg.export(recipe, str(folder / "export.onnx"))

    return run


class Tensor:
    """Lets torch.tensor(value) of the export pass a tensor of its own type through."""

    def __init__(self, value):
        self.value = value


def forms():
    import transformers as t

    wide = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=1, vocab_size=100)
    bert = lambda a="eager": zoo.text(t.BertModel(zoo.encoder_config(t.BertConfig, a, **wide), add_pooling_layer=False))  # noqa: E731
    qwen = lambda: zoo.text(  # noqa: E731
        t.Qwen2Model(zoo.decoder_config(t.Qwen2Config, "sdpa", layers=1)), exporter="dynamo", own_mask=False
    )
    known = {**zoo.vision_transformers(), **zoo.cnns(), **zoo.others()}
    f16, bf16 = torch.float16, torch.bfloat16
    return {
        "bert_wide_f16": (bert, f16, converted(True)),
        "bert_wide_bf16_dynamo": (lambda: zoo.text(t.BertModel(zoo.encoder_config(t.BertConfig, "sdpa", **wide), add_pooling_layer=False), exporter="dynamo"), bf16, exported(bf16, "dynamo")),
        "qwen2_bf16_dynamo": (qwen, bf16, exported(bf16, "dynamo")),
        "ds_cnn_f16_whole": (known["ds_cnn"], f16, converted(False)),
        "squeezenet_half": (known["squeezenet"], f16, exported(f16, "torchscript")),
        "vit_half": (known["vit"], f16, exported(f16, "torchscript")),
        "crnn_f16": (known["crnn"], f16, converted(True)),
        "kernels_f16": (known["kernels"], f16, converted(True)),
    }  # fmt: skip


def make(name, recipe, dtype, form, out):
    with torch.no_grad():
        for value in [*recipe.module.parameters(), *recipe.module.buffers()]:
            if value.is_floating_point():
                value.copy_(value.to(dtype).float())
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        summary = mg.make(name, recipe, work)
        folder = work / name
        recipe.module.float()
        model = form(recipe, folder, onnx.load(folder / "model.onnx"))
        for extra in folder.glob("export.onnx*"):
            extra.unlink()
        meta = json.loads((folder / "meta.json").read_text())
        names = {n.name or n.output[0] for n in model.graph.node}
        missing = [s["name"] for s in meta["sites"] if s["name"].split(":")[0] not in names]
        assert not missing, f"the exports name their nodes differently: {missing}"
        kinds = {t.data_type for t in model.graph.initializer}
        half = onnx.TensorProto.FLOAT16 if dtype == torch.float16 else onnx.TensorProto.BFLOAT16
        assert half in kinds and onnx.TensorProto.FLOAT not in {t.data_type for t in model.graph.initializer if len(t.dims) > 1}
        meta["exporter"] += f", {name.split('_', 1)[1]}"
        (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
        onnx.save(model, folder / "model.onnx")
        return f"{summary}, {mg.pack(folder, out / f'{name}.zip') // 1024} KiB packed"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=gm.REPO / "tests/goldens/half")
    options = parser.parse_args()
    plain = torch.tensor
    torch.tensor = lambda v, *a, **k: v.value if isinstance(v, Tensor) else plain(v, *a, **k)
    failed, known = [], forms()
    for name in options.names or known:
        torch.manual_seed(0)
        recipe, dtype, form = known[name]
        try:
            print(make(name, recipe(), dtype, form, options.out), flush=True)
        except Exception as e:  # one form that does not export must not hide the others
            failed.append(name)
            print(f"{name}: FAILED: {type(e).__name__}: {' '.join(str(e).split())[:400]}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
