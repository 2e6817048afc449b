#!/usr/bin/env python3
"""Writes tests/goldens/training/{bert2,har_cnn}: the first 20 losses of a training run in torch + PEFT. Run by hand.

usage: make_training_golden.py [--har-data hapt_users_1_26.npz] [--out tests/goldens/training]
needs: torch, transformers, peft, onnx, safetensors, numpy, and tests/goldens/bert2 (make_goldens.py)

Both runs: LoRA r 8, alpha 16 (scale 2.0) on every site, B = 0 at the start, no dropout; cross-entropy (mean over the batch of 8);
gradients of all trained tensors together clipped to norm 1; AdamW, with weight decay on every trained tensor; the learning rate of
step t = 0, 1, … is lr · min(1, (t + 1) / 5).
  bert2    masked mean of last_hidden_state over the real tokens → linear head of 5 classes (weight and bias trained too)
  har_cnn  the model's own 6 logits, 64 windows of person 23, whom the model never saw
Files: data.npz (the samples, their labels, order [20, 8]: the samples of each step), initial.safetensors and
final.safetensors (SITE.lora_A, SITE.lora_B in ONNX orientation; bert2: head.weight [in, classes], head.bias),
losses.npz (loss before each step's update, grad_norm before clipping, lr), meta.json (hyper-parameters).
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import golden_models as gm

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
STEPS, BATCH, CLASSES = 20, 8, 5
HYPER = dict(rank=8, alpha=16, lr=1e-3, weight_decay=0.01, betas=[0.9, 0.999], eps=1e-8, clip_norm=1.0, warmup_steps=5)


def shuffled_batches(samples, seed):
    """[STEPS, BATCH] sample numbers: whole shuffled epochs, one after the other."""
    rng = np.random.default_rng(seed)
    epochs = -(-STEPS * BATCH // samples)
    return np.concatenate([rng.permutation(samples) for _ in range(epochs)])[: STEPS * BATCH].reshape(STEPS, BATCH)


def bert2_task():
    rng = np.random.default_rng(41)
    samples, width = 40, 12
    labels = rng.integers(0, CLASSES, samples)
    lengths = rng.integers(4, width + 1, samples)
    ids = rng.integers(1, 120, (samples, width))
    ids[:, 2] = 10 + labels  # something to learn
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    data = {"input_ids": ids * mask, "attention_mask": mask, "labels": labels, "order": shuffled_batches(samples, 43)}

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = gm.TextModel(gm.bert2(), "last_hidden_state", own_mask=True)
            self.head = nn.Linear(32, CLASSES)

        def forward(self, input_ids, attention_mask):
            hidden = self.encoder(input_ids, attention_mask)
            mask = attention_mask[..., None].to(hidden.dtype)
            return self.head((hidden * mask).sum(1) / mask.sum(1))

    return Classifier().eval(), data, gm.REPO / "tests/goldens/bert2/model.onnx"


def har_task(path):
    archive = np.load(path)
    mine = np.flatnonzero((archive["user"] == 23) & (archive["y"] < 6))
    chosen = mine[np.linspace(0, len(mine) - 1, 64).astype(int)]  # over the whole record, so that every activity occurs
    data = {
        "imu": archive["x"][chosen].astype(np.float32),
        "labels": archive["y"][chosen].astype(np.int64),
        "order": shuffled_batches(64, 47),
    }
    path = gm.REPO / "models/har_cnn.onnx"
    return gm.har_cnn(path), data, path


def train(name, model, data, onnx_path, out):
    base = model.encoder if hasattr(model, "encoder") else model
    sites = gm.find_sites(onnx.load(onnx_path), base)
    prefix = "encoder." if hasattr(model, "encoder") else ""
    modules = [prefix + s.parameter.removesuffix(".weight") for s in sites]
    config = LoraConfig(
        r=HYPER["rank"], lora_alpha=HYPER["alpha"], lora_dropout=0.0, target_modules=modules,
        modules_to_save=["head"] if prefix else None,
    )  # fmt: skip
    torch.manual_seed(53)
    model = get_peft_model(model, config).eval()  # eval: no dropout in the base

    def tensors():
        found = {}
        for site, module in zip(sites, modules, strict=True):
            layer = model.get_submodule(f"base_model.model.{module}")
            a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
            a, b = (a.T, b.T) if site.kind == "linear" else (a, b.flatten(1))
            found[f"{site.name}.lora_A"], found[f"{site.name}.lora_B"] = a, b
        if prefix:
            head = model.base_model.model.head.modules_to_save["default"]
            found["head.weight"], found["head.bias"] = head.weight.detach().T, head.bias.detach()
        return {k: np.ascontiguousarray(v.float().numpy()).copy() for k, v in found.items()}

    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    inputs = [torch.tensor(v) for k, v in data.items() if k not in ("labels", "order")]
    labels, order = torch.tensor(data["labels"]), data["order"]

    def run(dtype):
        model.load_state_dict(start)
        model.to(dtype)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(
            trained, lr=HYPER["lr"], betas=HYPER["betas"], eps=HYPER["eps"], weight_decay=HYPER["weight_decay"]
        )
        log = {"loss": [], "grad_norm": [], "lr": []}
        for step, batch in enumerate(order):
            rate = HYPER["lr"] * min(1.0, (step + 1) / HYPER["warmup_steps"])
            for group in optimiser.param_groups:
                group["lr"] = rate
            x = [v[batch].to(dtype) if v.is_floating_point() else v[batch] for v in inputs]
            loss = nn.functional.cross_entropy(model(*x), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            norm = nn.utils.clip_grad_norm_(trained, HYPER["clip_norm"])
            optimiser.step()
            for key, value in zip(log, (loss.item(), norm.item(), rate), strict=True):
                log[key].append(value)
        return {k: np.array(v) for k, v in log.items()}, sum(p.numel() for p in trained)

    exact, _ = run(torch.float64)
    model.float().load_state_dict(start)
    scale = HYPER["alpha"] / HYPER["rank"]
    gm.save_tensors(folder / "initial.safetensors", tensors(), scale, HYPER["rank"])
    log, count = run(torch.float32)
    gm.save_tensors(folder / "final.safetensors", tensors(), scale, HYPER["rank"])
    np.savez(folder / "data.npz", **data)
    np.savez(folder / "losses.npz", **log)
    meta = {
        "model": str(Path(onnx_path).relative_to(gm.REPO)),
        "made_with": f"torch {torch.__version__.split('+')[0]} + peft, float32",
        "trained_values": count,
        **HYPER,
        "sites": [s.describe() for s in sites],
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    apart = np.abs(log["loss"] / exact["loss"] - 1).max()
    print(f"{name}: {len(sites)} sites, {count} values, loss {log['loss'][0]:.5f} → {log['loss'][-1]:.5f}, norms {log['grad_norm'].min():.2f}–{log['grad_norm'].max():.2f}, float32 from float64 {apart:.1e}")
    print("  ", " ".join(f"{v:.5f}" for v in log["loss"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--har-data", type=Path, default=gm.REPO / "models/hapt_users_1_26.npz")
    parser.add_argument("--out", type=Path, default=gm.REPO / "tests/goldens/training")
    options = parser.parse_args()
    train("bert2", *bert2_task(), options.out)
    train("har_cnn", *har_task(options.har_data), options.out)
