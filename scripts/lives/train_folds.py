#!/usr/bin/env python3
"""Five activity models, each of which has never seen a fifth of the people: har_fold0.onnx to har_fold4.onnx.

usage: train_folds.py [OUT_FOLDER]     (needs torch 2.15, onnx, numpy; five minutes on one core)

Model k leaves out people k, k + 5, k + 10 ... of 1 to 26 (person 26 is in fold 1). The network and the recipe are those of
models/har_cnn.onnx. Another version of torch, or another processor, gives other bits: sha256sum.txt has those of the files
that are checked in.
"""
import pathlib
import sys

import numpy as np
import torch
from torch import nn

HERE = pathlib.Path(__file__).resolve().parent
OUT = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
FOLDS, PEOPLE, KNOWN = 5, range(1, 27), 6


def network():
    return nn.Sequential(
        nn.Conv1d(6, 32, 5, 2, 2), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 5, 2, 2), nn.BatchNorm1d(64), nn.ReLU(),
        nn.Conv1d(64, 128, 3, 2, 1), nn.BatchNorm1d(128), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, KNOWN))


def main():
    torch.set_num_threads(1)
    data = np.load(HERE / "hapt_users_1_26.npz")
    keep = data["y"] < KNOWN
    x = torch.from_numpy(data["x"][keep].astype(np.float32))
    y = torch.from_numpy(data["y"][keep].astype(np.int64))
    user = data["user"][keep]
    for fold in range(FOLDS):
        left_out = [p for p in PEOPLE if p % FOLDS == fold]
        torch.manual_seed(0)
        train = torch.from_numpy(np.where(~np.isin(user, left_out))[0])
        model = network()
        optimiser = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-4)
        for _ in range(8):
            model.train()
            for batch in train[torch.randperm(len(train))].split(64):
                optimiser.zero_grad()
                nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
                optimiser.step()
        model.eval()
        with torch.no_grad():
            right = (model(x).argmax(1) == y).numpy()
        print(fold, {p: round(float(right[user == p].mean()), 3) for p in left_out})
        torch.onnx.export(
            model, (x[:2],), OUT / f"har_fold{fold}.onnx", opset_version=17, dynamo=False,
            input_names=["imu"], output_names=["logits"],
            dynamic_axes={"imu": {0: "batch"}, "logits": {0: "batch"}})


main()
