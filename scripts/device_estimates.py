#!/usr/bin/env python3
"""Estimates of times on boards, from a suite measured here: the estimates in docs/devices.md. Prints its tables.

usage: device_estimates.py --bin ACCLIMATE --models DIR RESULTS.json

RESULTS.json is of `acclimate bench --suite` on any machine, with DIR as its folder of models: the estimates need
times on one thread, the least of all runs, and memory. ACCLIMATE counts floating-point operations (`bench --profile`).

How: a work that takes t seconds on one thread here, where a plain product runs at G FLOP/s, takes t·G/g on a core
whose products run at g = share · FLOP a cycle · clock. The share that products of `gemm` reach of the peak is not
known for these cores: LOW and HIGH are assumed, and give the two ends of an estimate. n cores do it 1/((1 - p) + p/n)
times as fast, where p is the part that is shared among cores: as two threads have it on x86-64 (docs/performance.md),
and nothing of a small model's. No work is faster than memory: an answer to one example reads every weight once, a
training step twice. A token is nothing but such a read.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

# Board: cores, FLOP a cycle and core (FMA of 32 bits: twice the lanes of all pipes), GHz, GB/s that all cores read
# together (assumed: half to two thirds of what the chips could), memory in MB.
BOARDS = {
    "Pi Zero 2 W (A53)": (4, 8, 1.0, 1.8, 512),
    "Pi 3B+ (A53)": (4, 8, 1.4, 2.2, 1024),
    "Pi 4 (A72)": (4, 8, 1.8, 4.5, 4096),
    "Pi 5 (A76)": (4, 16, 2.4, 10.0, 8192),
    "Orin Nano (A78AE)": (6, 16, 1.5, 34.0, 8192),
}
LOW, HIGH = 0.45, 0.75
# The part of a work that cores share: EfficientNet-lite0 takes 14.6 ms on one thread and 9.1 on two, MiniLM 12.2 and
# 7.7, so 0.75; and the weights below which nothing is shared.
SHARED, SMALL = 0.75, 4 << 20
# A token waits for memory: what it takes of that time at most (assumed).
TOKEN = 1.5
# What the system and other programs take, MB.
SYSTEM = 150
# Shapes that the tables have, by kind.
SHAPES = {"arrays": (1, None), "sequences": (1, 32), "language-model": (1, 128)}


class Suite:
    def __init__(self, path):
        self.results = json.loads(Path(path).read_text(encoding="utf-8"))
        if self.results.get("kind") != "acclimate-bench":
            sys.exit(f"device_estimates: {path} is no result of `acclimate bench --suite`")
        self.lines = {}
        for l in self.results["figures"]:
            key = (l["model"], l["batch"], l["sequence"], l["threads"], l["measure"])
            # Other work on the machine only makes times longer.
            self.lines[key] = l["min"] if l["unit"] == "ms" else l["median"]
        gemm = sorted(v for k, v in self.lines.items() if k[4] == "gemm" and k[3] == 1)
        self.gemm = gemm[len(gemm) // 2]

    def models(self):
        for model in self.results["models"]:
            batch, sequence = SHAPES.get(model.get("shapes"), (None, None))
            shapes = [k for k in self.lines if k[0] == model["name"] and k[1] == batch]
            if shapes:
                yield model, batch, min(k[2] for k in shapes)

    def get(self, model, shape, measure):
        """On one thread; of memory, on any number of them."""
        keys = (k for k in self.lines if k[:3] == (model["name"], *shape) and k[4] == measure)
        return next((self.lines[k] for k in sorted(keys) if k[3] == 1 or measure.endswith("anonymous")), None)


def count(binary, models, name, shape):
    """FLOP of a prediction of one example (GFLOP); none where the file is not there."""
    bundled = Path(__file__).resolve().parent.parent / "models" / f"{name}.onnx"
    places = [models / f"{name}.onnx", models / name / "model.onnx", bundled]
    file = next((p for p in places if p.is_file()), None)
    if file is None:
        return None
    flags = ["--batch", str(shape[0]), "--seq", str(max(shape[1], 1)), "--repeats", "1", "--profile", "--json"]
    done = subprocess.run([binary, "bench", str(file), *flags], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"device_estimates: {binary} bench {file}: {done.stderr.strip()}")
    return sum(row["flop"] for row in json.loads(done.stdout)["profile"]["prediction"]) / 1e9


def estimate(suite, model, shape, measure, board, reads=1.0):
    """The least and the most milliseconds that it takes, or none."""
    cores, flop, ghz, gb, _ = board
    one = suite.get(model, shape, measure)
    if one is None:
        return None
    p = SHARED if model["weight_bytes"] > SMALL else 0.0
    speedup = 1 / ((1 - p) + p / cores)
    floor = reads * model["weight_bytes"] / gb / 1e6
    if measure == "token":
        return [floor, TOKEN * floor]
    return [max(one * suite.gemm / (share * flop * ghz) / speedup, floor) for share in (HIGH, LOW)]


def shown(span):
    if span is None:
        return ""
    unit, scale = ("s", 1e-3) if span[0] >= 1000 else ("ms", 1.0)
    low, high = (f"{v * scale:.2g}" if v * scale < 10 else f"{v * scale:.0f}" for v in span)
    return f"{low} {unit}" if low == high else f"{low}–{high} {unit}"


def table(head, rows):
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("results")
    o = parser.parse_args()
    suite = Suite(o.results)
    models = list(suite.models())

    print("Counted and measured here:\n")
    rows = []
    for model, *shape in models:
        get = lambda measure: suite.get(model, shape, measure)
        first = "prefill" if get("prefill") else "predict"
        flop = count(o.bin, o.models, model["name"], shape)
        # Reading scores one position, and all were counted.
        rate = flop and first == "predict" and flop / get(first) * 1e3
        memory = [get("predict_anonymous"), get("train_anonymous")]
        rows.append([
            model["name"],
            f"{shape[0]} × {shape[1]}" if shape[1] else f"{shape[0]}",
            f"{flop:.3g}" if flop else "",
            f"{model['weight_bytes'] / 2**20:.1f}",
            f"{100 * rate / suite.gemm:.0f} %" if rate else "",
            f"{get('train_step') / get(first):.1f}" if get("train_step") else "",
            *(f"{v / 2**20:.0f}" if v is not None else "" for v in memory),
        ])
    table(["Model", "Shape", "GFLOP", "weights, MiB", "of a product's speed", "step / prediction",
           "predicting, MiB", "training, MiB"], rows)
    print(f"A plain product: {suite.gemm:.0f} GFLOP/s on one thread.\n")

    works = [
        ("Prediction", "predict", 1), ("Reading of 128 tokens", "prefill", 1), ("One token", "token", 1),
        ("Training step", "train_step", 2),
    ]
    for name, measure, reads in works:
        rows = []
        for model, *shape in models:
            cells = [shown(estimate(suite, model, shape, measure, b, reads)) for b in BOARDS.values()]
            if any(cells):
                needs = suite.get(model, shape, "predict_anonymous") or 0
                trains = suite.get(model, shape, "train_anonymous") or 0
                bytes_ = model["weight_bytes"] + (trains if measure == "train_step" else needs)
                room = [(b[4] - SYSTEM) * 1e6 for b in BOARDS.values()]
                cells = [c if bytes_ <= r else f"too big ({c})" for c, r in zip(cells, room)]
                rows.append([model["name"], *cells])
        if rows:
            print(f"{name}, all cores (estimates):\n")
            table(["Model", *BOARDS], rows)

    print("The same rule for 0.60 GFLOP of MobileNetV2 at the efficiency of EfficientNet-lite0:\n")
    for model, *shape in models:
        if model["name"].startswith("efficientnet"):
            flop = count(o.bin, o.models, model["name"], shape)
            for board in ("Pi 3B+ (A53)", "Pi 4 (A72)"):
                span = estimate(suite, model, shape, "predict", BOARDS[board])
                print(f"- {board}: {shown([v * 0.60 / flop for v in span])}")


if __name__ == "__main__":
    main()
