#!/usr/bin/env python3
"""The data of bursts.toml: sentences and digits whose classes arrive in bursts, a class or two at a time.

usage: bursts_data.py DIGITS.npz SENTENCES.tsv MINILM_FOLDER EFFICIENTNET.onnx [OUT=bursts]     (needs numpy; seconds)

DIGITS.npz and SENTENCES.tsv are those of asking_data.py, EFFICIENTNET.onnx is EfficientNet-lite0.

A stream is a sequence of stretches. In each, one class or two that were not there before are met, in turn by chance. After
every second stretch two of the earlier classes come back for a while. The test set has all classes, as often as each other.

  intents{0,1}.tsv    20 intents, 8 sentences each when they are new, 4 when they come back; intents{0,1}_test.tsv, 15 of each
  digits{0,1}.npz     10 digits, 12 pictures each when they are new, 6 when they come back; digits{0,1}_test.npz, 30 of each
"""
import pathlib
import shutil
import sys

import numpy as np

ORDERS = range(2)


def stretches(classes, new, again, rng):
    """Lists of (class, number of items): those of one stretch each."""
    left, met, out = list(rng.permutation(classes)), [], []
    while left:
        here = [left.pop() for _ in range(min(len(left), 1 + len(out) % 2))]
        out.append([(c, new) for c in here])
        if len(out) % 3 == 2 and len(met) >= 2:
            out.append([(c, again) for c in rng.choice(met, 2, replace=False)])
        met += here
    out.append([(c, again) for c in rng.choice(met, 2, replace=False)])
    return out


def stream(y, classes, new, again, tested, seed):
    """Places of the stream's items in order, and of the test's."""
    rng = np.random.default_rng(seed)
    places = {c: list(rng.permutation(np.flatnonzero(y == c))) for c in classes}
    test = [places[c].pop() for c in classes for _ in range(tested)]
    order = []
    for stretch in stretches(classes, new, again, rng):
        order += list(rng.permutation([places[c].pop() for c, n in stretch for _ in range(n)]))
    return np.array(order), np.array(test)


def main():
    out = pathlib.Path(sys.argv[5] if len(sys.argv) > 5 else pathlib.Path(__file__).resolve().parent / "bursts")
    out.mkdir(exist_ok=True)
    digits = np.load(sys.argv[1])
    lines = pathlib.Path(sys.argv[2]).read_text().splitlines()
    intents = np.array([line.split("\t")[0] for line in lines])
    names, counts = np.unique(intents, return_counts=True)
    for k in ORDERS:
        chosen = np.random.default_rng(k).permutation(names[counts >= 90])[:20]
        parts = zip((f"intents{k}.tsv", f"intents{k}_test.tsv"), stream(intents, sorted(chosen), 8, 4, 15, k))
        for name, places in parts:
            (out / name).write_text("".join(lines[i] + "\n" for i in places))
        parts = zip((f"digits{k}.npz", f"digits{k}_test.npz"), stream(digits["y"], range(10), 12, 6, 30, k))
        for name, places in parts:
            np.savez_compressed(out / name, x=digits["x"][places], y=digits["y"][places])
    (out / "digits.txt").write_text("".join(f"{digit}\n" for digit in range(10)))
    for name in "minilm.onnx", "tokenizer.json":
        shutil.copyfile(pathlib.Path(sys.argv[3]) / name, out / name)
    shutil.copyfile(sys.argv[4], out / "efficientnet.onnx")


main()
