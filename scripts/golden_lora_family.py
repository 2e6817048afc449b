#!/usr/bin/env python3
"""Writes tests/goldens/lora_family: starts, gradients and the first 20 losses of members of the LoRA family, by PEFT itself. Run by hand.

usage: golden_lora_family.py [--out tests/goldens/lora_family]
needs: torch, transformers, peft, onnx, safetensors, numpy, and tests/goldens/training (make_training_golden.py)

Models, data, order of the samples, rates and clipping are those of make_training_golden.py. What differs is PEFT's own code:

  rslora   LoraConfig(use_rslora=True)                                            har_cnn (convolutions and linear layers)
  loraplus peft.optimizers.create_loraplus_optimizer, ratio 4                     har_cnn
  lorafa   peft.optimizers.create_lorafa_optimizer, on its path without bfloat16  bert2 with a head
  pissa    LoraConfig(init_lora_weights="pissa"); A and B are not decayed         bert2 with a head

B starts at random small values, not at zero, so that the gradient of A says something; with PiSSA, A and B start where PEFT puts
them. One folder a member: initial.safetensors, gradients.safetensors (of the first batch, before clipping), final.safetensors,
losses.npz (loss before each step's update). No data: that is in tests/goldens/training.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import onnx
import peft.optimizers.lorafa
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_lorafa_optimizer, create_loraplus_optimizer
from torch import nn

import golden_models as gm
from make_training_golden import HYPER, bert2_task

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
# Its products of gradients would be rounded to 8 bits otherwise.
peft.optimizers.lorafa.is_bf16_available = lambda *_: False
RATIO = 4.0


def har_model():
    path = gm.REPO / "models/har_cnn.onnx"
    return gm.har_cnn(path), path


def bert_model():
    model, _, path = bert2_task()
    return model, path


MEMBERS = {
    "rslora": (har_model, dict(use_rslora=True)),
    "loraplus": (har_model, {}),
    "lorafa": (bert_model, {}),
    "pissa": (bert_model, dict(init_lora_weights="pissa")),
}


def optimiser_of(member, model, trained):
    if member == "loraplus":
        return create_loraplus_optimizer(
            model, torch.optim.AdamW, lr=HYPER["lr"], loraplus_lr_ratio=RATIO, loraplus_weight_decay=HYPER["weight_decay"]
        )
    if member == "lorafa":
        optimiser = create_lorafa_optimizer(model, r=HYPER["rank"], lora_alpha=HYPER["alpha"], lr=HYPER["lr"], weight_decay=0.0)
        for group in optimiser.param_groups:
            group["eps"] = HYPER["eps"]
        return optimiser
    is_lora = lambda n: ".lora_" in n  # noqa: E731
    factors = [p for n, p in trained if is_lora(n)]
    others = [p for n, p in trained if not is_lora(n)]
    decay = 0.0 if member == "pissa" else HYPER["weight_decay"]
    groups = [dict(params=factors, weight_decay=decay), dict(params=others, weight_decay=HYPER["weight_decay"])]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=HYPER["lr"], betas=HYPER["betas"], eps=HYPER["eps"])


def write(member, out):
    make, options = MEMBERS[member]
    model, onnx_path = make()
    base = model.encoder if hasattr(model, "encoder") else model
    sites = gm.find_sites(onnx.load(onnx_path), base)
    prefix = "encoder." if hasattr(model, "encoder") else ""
    data = np.load(gm.REPO / "tests/goldens/training" / ("bert2" if prefix else "har_cnn") / "data.npz")
    modules = [prefix + s.parameter.removesuffix(".weight") for s in sites]
    config = LoraConfig(
        r=HYPER["rank"], lora_alpha=HYPER["alpha"], lora_dropout=0.0, target_modules=modules,
        modules_to_save=["head"] if prefix else None, **options,
    )  # fmt: skip
    torch.manual_seed(59)
    model = get_peft_model(model, config).eval()
    if member != "pissa":
        for name, p in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(p, std=0.02)
    layers = [model.get_submodule(f"base_model.model.{module}") for module in modules]
    scale = layers[0].scaling["default"]

    def tensors(value):
        found = {}
        for site, layer in zip(sites, layers, strict=True):
            for factor in "AB":
                t = value(getattr(layer, f"lora_{factor}")["default"].weight)
                if t is not None:
                    found[f"{site.name}.lora_{factor}"] = t.T if site.kind == "linear" else t.flatten(1) if factor == "B" else t
        if prefix:
            head = model.base_model.model.head.modules_to_save["default"]
            found["head.weight"], found["head.bias"] = value(head.weight).T, value(head.bias)
        return {k: np.ascontiguousarray(v.float().numpy()).copy() for k, v in found.items()}

    folder = out / member
    folder.mkdir(parents=True, exist_ok=True)
    save = lambda name, value: gm.save_tensors(folder / name, tensors(value), scale, HYPER["rank"])  # noqa: E731
    save("initial.safetensors", lambda p: p.detach())
    inputs = [torch.tensor(data[k]) for k in data.files if k not in ("labels", "order")]
    labels, order = torch.tensor(data["labels"]), data["order"]
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    optimiser = optimiser_of(member, model, trained)
    trained = [(n, p) for n, p in trained if p.requires_grad]
    rates = [group["lr"] for group in optimiser.param_groups]
    losses = []
    for step, batch in enumerate(order):
        factor = min(1.0, (step + 1) / HYPER["warmup_steps"])
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        loss = nn.functional.cross_entropy(model(*[v[batch] for v in inputs]), labels[batch])
        optimiser.zero_grad()
        loss.backward()
        if step == 0:
            save("gradients.safetensors", lambda p: p.grad)
        nn.utils.clip_grad_norm_([p for _, p in trained], HYPER["clip_norm"])
        optimiser.step()
        losses.append(loss.item())
    save("final.safetensors", lambda p: p.detach())
    np.savez(folder / "losses.npz", loss=np.array(losses))
    print(f"{member}: {len(sites)} sites, scale {scale:.4f}, loss {losses[0]:.5f} → {losses[-1]:.5f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=gm.REPO / "tests/goldens/lora_family")
    options = parser.parse_args()
    for member in MEMBERS:
        write(member, options.out)
