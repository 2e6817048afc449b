#!/usr/bin/env python3
"""DoRA beside LoRA in torch + PEFT, on the tasks of lora_family_study.py that have a small network. Run by hand; minutes.

usage: lora_family_peft.py STUDY_FOLDER [--seeds 3]        (the folder that lora_family_study.py wrote its data to)
needs: torch, peft, onnx, numpy

The recipe is acclimate's: AdamW, warm-up over a tenth of the steps, cosine to a tenth, clipping at 1, batches of 16, 20 epochs; rank 8,
alpha 16 on every layer but the last, which is trained in full. DoRA trains one value an output more.
"""
import argparse
import json
import pathlib
import re
import time
import warnings

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from peft import LoraConfig, get_peft_model
from torch import nn

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
REPO = pathlib.Path(__file__).resolve().parent.parent


def network(path, classes, set_aside):
    graph = onnx.load(path).graph
    weights = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in graph.initializer}
    pairs = [(weights[n.input[1]], weights[n.input[2]]) for n in graph.node if n.op_type in ("Conv", "Gemm")]
    if "har" in pathlib.Path(path).name:
        body = [nn.Conv1d(6, 32, 5, 2, 2), nn.ReLU(), nn.Conv1d(32, 64, 5, 2, 2), nn.ReLU(), nn.Conv1d(64, 128, 3, 2, 1), nn.ReLU(),
                nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(128, 64), nn.ReLU()]  # fmt: skip
        head = nn.Linear(64, classes)
    else:
        body = [nn.Conv2d(1, 12, 5, 2, 2), nn.ReLU(), nn.Conv2d(12, 24, 5, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 49, 32), nn.ReLU()]
        head = nn.Linear(32, classes)
    layers = [layer for layer in body if hasattr(layer, "weight")]
    with torch.no_grad():
        for layer, (w, b) in zip([*layers, head], pairs, strict=True):
            if layer is head:
                head.weight.zero_(), head.bias.zero_()
                if not set_aside:
                    head.weight[: len(w)], head.bias[: len(b)] = w, b
                    head.bias[len(b):] = -4.0
            else:
                layer.weight.copy_(w), layer.bias.copy_(b)
    return nn.Sequential(*body, head)


def fit(path, classes, set_aside, train, test, dora, seed):
    torch.manual_seed(seed)
    model = network(path, classes, set_aside)
    last = str(len(model) - 1)
    inner = [n for n, m in model.named_modules() if hasattr(m, "weight") and n != last]
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=inner, modules_to_save=[last], use_dora=dora)
    model = get_peft_model(model, config).eval()
    corrects = not set_aside and classes == 6
    lr, head, smoothing = (5e-3, 0.1, 0.1) if corrects else (2e-3, 2.5, 0.0)
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [dict(params=[p for n, p in named if "lora_" in n], rate=lr), dict(params=[p for n, p in named if "lora_" not in n], rate=lr * head)]
    optimiser = torch.optim.AdamW(groups, lr=lr, weight_decay=0.01)
    (x, y), steps = train, 20 * -(-len(train[1]) // 16)
    warmup, step = -(-steps // 10), 0
    started = time.process_time()
    while step < steps:
        for batch in torch.randperm(len(y)).split(16):
            factor = (step + 1) / warmup if step < warmup else 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * min(1, (step - warmup) / (steps - warmup))))
            for group in optimiser.param_groups:
                group["lr"] = group["rate"] * factor
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch], label_smoothing=smoothing).backward()
            nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
            optimiser.step()
            step += 1
    with torch.no_grad():
        right = (model(test[0]).argmax(1) == test[1]).float().mean().item()
    return right, time.process_time() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    read = lambda f: (lambda z: (torch.tensor(next(z[k] for k in z.files if k != "labels")), torch.tensor(z["labels"])))(np.load(f))  # noqa: E731
    for task in ("people", "turned", "digits", "fashion"):
        rows = []
        for train in sorted(options.folder.glob(f"{task}_*_train.npz")):
            which = re.match(f"{task}_(.*)_train", train.stem)[1]
            har = task in ("people", "turned")
            path = REPO / (f"scripts/lives/har_fold{int(which) % 5}.onnx" if har else "models/digits_cnn.onnx")
            data = [read(train), read(str(train).replace("_train", "_test"))]
            for seed in range(options.seeds):
                rows.append([fit(path, 6 if har else 10, task == "fashion", *data, dora, seed) for dora in (False, True)])
        if not rows:
            continue
        table = np.array(rows)
        gain = 100 * (table[:, 1, 0] - table[:, 0, 0])
        error = gain.std(ddof=1) / len(gain) ** 0.5
        seconds = table[:, :, 1].mean(0)
        print(json.dumps({"task": task, "lora": round(100 * table[:, 0, 0].mean(), 1), "dora": f"{gain.mean():+.1f} ± {error:.1f}", "fits": len(gain), "seconds": seconds.round(1).tolist()}), flush=True)


main()
