#!/usr/bin/env python3
"""Lives of unseen people in PyTorch: a LoRA trained from the base after every 24 answers with feedback, at strength alpha.

usage: torch_lives.py FOLD SEEDS     (beside har_foldN.onnx; needs torch, onnx, numpy; a minute a fold and two seeds)

Wrong answers of the base model are corrected, a quarter of the right ones accepted, over the first half of the recording;
the later half judges. One JSON line a life: accuracy of the base model, and after each training at alpha .25, .5, .75, 1.
"""
import json
import pathlib
import sys

import numpy as np, onnx, torch
from onnx import numpy_helper

HERE = pathlib.Path(__file__).resolve().parent
torch.set_num_threads(1)
FOLD, SEEDS = int(sys.argv[1]), int(sys.argv[2])
MODEL = onnx.load(HERE / f"har_fold{FOLD}.onnx")
WEIGHTS = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in MODEL.graph.initializer}
LAYERS = [(n.op_type, WEIGHTS[n.input[1]], WEIGHTS[n.input[2]]) for n in MODEL.graph.node if n.op_type in ("Conv", "Gemm")]
STRIDE, PADDING, RANK, ALPHAS = (2, 2, 2), (2, 2, 1), 4, (0.25, 0.5, 0.75, 1.0)


def forward(x, lora, alpha=1.0):
    h = x
    for j, (kind, w, b) in enumerate(LAYERS):
        if kind == "Conv":
            y = torch.nn.functional.conv1d(h, w, b, STRIDE[j], PADDING[j])
            if lora:
                t = torch.nn.functional.conv1d(h, lora[j][0], None, STRIDE[j], PADDING[j])
                y = y + 2 * alpha * torch.nn.functional.conv1d(t, lora[j][1])
        else:
            h = h.mean(-1) if h.dim() == 3 else h
            y = h @ w.T + b
            if lora:
                y = y + 2 * alpha * (h @ lora[j][0]) @ lora[j][1]
        h = torch.relu(y) if j < len(LAYERS) - 1 else y
    return h


def fresh():
    out = []
    for kind, w, _ in LAYERS:
        if kind == "Conv":
            a, b = torch.randn(RANK, *w.shape[1:]) / np.sqrt(np.prod(w.shape[1:])), torch.zeros(w.shape[0], RANK, 1)
        else:
            a, b = torch.randn(w.shape[1], RANK) / np.sqrt(w.shape[1]), torch.zeros(RANK, w.shape[0])
        out.append((a.requires_grad_(), b.requires_grad_()))
    return out


def train(x, y, index, half):
    lora = fresh()
    optimiser = torch.optim.AdamW([p for pair in lora for p in pair], lr=2e-3, weight_decay=0)
    index = torch.tensor(index)
    for _ in range(30):
        for batch in index[torch.randperm(len(index))].split(16):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(forward(x[batch], lora), y[batch]).backward()
            optimiser.step()
    with torch.no_grad():
        return [float((forward(x[half:], lora, a).argmax(1) == y[half:]).float().mean()) for a in ALPHAS]


def life(data, user, seed):
    keep = (data["user"] == user) & (data["y"] < 6)
    x, y = torch.tensor(data["x"][keep].astype(np.float32)), torch.tensor(data["y"][keep].astype(np.int64))
    half = len(x) // 2
    with torch.no_grad():
        answer = forward(x, None).argmax(1)
    base = float((answer[half:] == y[half:]).float().mean())
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    told, after = [], []
    for i in range(half - 2):
        if answer[i] == y[i] and rng.random() >= 0.25:
            continue
        told.append(i)
        if len(told) % 24 == 0:
            after.append(train(x, y, told, half))
    after.append(train(x, y, told, half))
    return base, np.array(after)


data = np.load(HERE / "hapt_users_1_26.npz")
for user in range(1, 27):
    if user % 5 != FOLD:
        continue
    for seed in range(SEEDS):
        base, after = life(data, user, seed)
        print(json.dumps({"user": user, "seed": seed, "base": base, "after": after.tolist()}), flush=True)
