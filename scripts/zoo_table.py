#!/usr/bin/env python3
"""Writes docs/architectures.md: every architecture of the goldens, who exported it, its sites, and how far its gradients are from the reference.

usage: zoo_table.py [FILE]
needs: nothing but Python; FILE is what `cargo nextest run --release --test goldens --test quantised --no-capture` printed, else it is run
"""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GRADIENT = re.compile(r"^(\w+) (b\w+) fused (true|false): (\d+) sites, worst (\S+) at (.+)$")
APART = re.compile(r"^(\w+) (b\w+): fused and composed (\S+) apart$")
ANSWER = re.compile(r"^(\w+): (\d+) sites, answers off by (\S+)$")
KINDS = {"linear": "linear", "conv": "convolution", "conv_transpose": "transposed convolution"}


def meta(name):
    for folder in ["zoo", "half", "quantised"]:
        file = ROOT / f"tests/goldens/{folder}/{name}.zip"
        if file.exists():
            return folder, json.loads(zipfile.ZipFile(file).read("meta.json"))
    return "zoo", json.loads((ROOT / f"tests/goldens/{name}/meta.json").read_text())


def printed():
    if len(sys.argv) > 1:
        return Path(sys.argv[1]).read_text()
    tests = ["--test", "goldens", "--test", "quantised"]
    run = ["cargo", "nextest", "run", "--release", "--locked", *tests, "--no-capture"]
    return subprocess.run(run, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main():
    worst, apart, answers, sites = {}, {}, {}, {}
    for line in printed().splitlines():
        line = line.strip()
        if match := GRADIENT.match(line):
            name, _, _, count, error, _ = match.groups()
            sites[name] = int(count)
            worst[name] = max(worst.get(name, 0.0), float(error))
        elif match := APART.match(line):
            apart[match[1]] = max(apart.get(match[1], 0.0), float(match[3]))
        elif match := ANSWER.match(line):
            answers[match[1]] = float(match[3])
            sites[match[1]] = int(match[2])
    rows = {"zoo": [], "half": [], "quantised": []}
    for name in sorted(sites):
        folder, about = meta(name)
        exporter = about.get("exporter") or f"{about['float']}, quantised by onnxruntime"
        opset = about.get("opset")
        kinds = [s["kind"] for s in about.get("sites", [])]
        of = ", ".join(f"{kinds.count(k)} {word}" for k, word in KINDS.items() if k in kinds) or str(sites[name])
        exporter += f", opset {opset}" if opset else ""
        error = worst.get(name, answers.get(name))
        last = f"{apart[name]:.0e}" if name in apart else ""
        rows[folder].append(f"| {name} | {exporter} | {of} | {error:.0e} | {last} |")
    counted = {name.split("_dynamo")[0] for name in worst if meta(name)[0] == "zoo"}
    head = "| Golden | Exporter | Sites | Worst error | Fused and composed |\n|---|---|---|---|---|\n"
    text = f"""# Architectures

Written by `scripts/zoo_table.py` from what the tests `goldens` and `quantised` print; not edited by hand. {len(sites)} exports, {len(counted)} networks of them in
single precision. Each is a real network at a tiny width with random weights, exported as its users would, with adapters on every site.

*Sites* are those that `acclimate inspect` finds, and a test fails if one is missed. *Worst error* is that of the gradient of any site's A or B, over a batch of three and
a single example of another length, against the framework's own gradients in double precision: `|got - want| / |want|`. *Fused and composed* is how far the two forms
of the backward pass are from each other.

{head}{chr(10).join(rows["zoo"])}

## Weights of 16 bits

The reference computes in double precision with the rounded weights. What is left is that exporters round numbers of the graph, too: a scale, an epsilon.

{head}{chr(10).join(rows["half"])}

## Quantised

The error is that of the answers, against ONNX Runtime's; a value on the edge between two steps may fall on either side. Gradients are taken straight through, and are
compared with the float model's by their direction (`tests/quantised.rs`).

| Golden | Made of | Sites | Worst error of an answer | |
|---|---|---|---|---|
{chr(10).join(rows["quantised"])}
"""
    (ROOT / "docs/architectures.md").write_text(text)
    print(f"docs/architectures.md: {len(sites)} exports")


if __name__ == "__main__":
    main()
