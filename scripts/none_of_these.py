#!/usr/bin/env python3
"""How often inputs of known and of unknown classes are answered as none of these, and how well probabilities are
calibrated.

    scripts/none_of_these.py intents|activities [--model M.onnx] [--tokenizer T.json] [--runs 3] [--left-out 4]
                             [--program target/release/acclimate] [--threads 2]

intents: all classes of reference/intents but a few are taught, 8 sentences each; test sentences of the taught ones
are known, those of the others are not. activities: every fourth window of each of people 23 to 26 is taught; every
fourth between them is known, and the postural transitions, which nobody names, are not. The familiarity of each
answer is held against several rates; probabilities at a temperature of 1 are computed from those at the one that was
fitted. Needs numpy.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
RATES = [0.02, 0.05, 0.1]


def ece(p, right):
    bins = np.clip(np.ceil(p * 15).astype(int), 1, 15)
    return sum((bins == b).mean() * abs(right[bins == b].mean() - p[bins == b].mean()) for b in set(bins.tolist()))


class Home:
    def __init__(self, args, folder, *flags):
        self.args, self.path = args, str(folder)
        self.run("init", "--model", str(args.model), "--ask-rate", "0", *flags)
        file = folder / "acclimate.toml"
        file.write_text("none_rate = 0.5\n" + file.read_text())

    def run(self, command, *words):
        words = [str(self.args.program), "--json", "-q", command, self.path, *words]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{command}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def ask(self, inputs):
        answers = []
        for at in range(0, len(inputs), 500):
            answers += self.run("predict", "--top", "999", *inputs[at : at + 500])
        return answers

    def teach(self, inputs, labels):
        for answer, label in zip(self.ask(inputs), labels):
            self.run("feedback", answer["id"], "--label", label, "--new-class")
        return self.run("train", "--threads", str(self.args.threads))


def measure(name, trained, known, labels, unknown):
    """Prints one line: `known` and `unknown` are answers, `labels` the right ones of the known."""
    familiar = lambda answers: np.array([1.0 if a["familiarity"] is None else a["familiarity"] for a in answers])
    k, u = familiar(known), familiar(unknown)
    auroc = np.mean(u[:, None] < k[None]) + 0.5 * np.mean(u[:, None] == k[None])
    right = np.array([a["top"][0]["label"] == label for a, label in zip(known, labels)])
    t = trained["calibration"]["temperature"]
    served = np.array([a["top"][0]["p"] for a in known])
    plain = [np.array([s["p"] for s in a["top"]], dtype=float) ** t for a in known]
    before = np.array([p[0] / p.sum() for p in plain])
    rates = "  ".join(f"{r}: {np.mean(k <= r):.3f} known {np.mean(u <= r):.3f} unknown" for r in RATES)
    print(
        f"{name}: {trained['depth']}, accuracy {right.mean():.3f}; {rates}; AUROC {auroc:.3f}; temperature {t:.2f}, "
        f"ECE on the test {ece(before, right):.3f} -> {ece(served, right):.3f}",
        flush=True,
    )
    row = [np.mean(k <= r) for r in RATES] + [np.mean(u <= r) for r in RATES]
    return row + [auroc, ece(before, right), ece(served, right)]


def intents(args, folder):
    rows = []
    for run in range(args.runs):
        read = lambda part: [
            line.split("\t")
            for line in (ROOT / f"reference/intents/seed{run % 3}_{part}.tsv").read_text(encoding="utf8").splitlines()
        ]
        train, test = read("train"), read("test")
        classes = sorted({label for label, _ in train})
        left = set(random.Random(run).sample(classes, args.left_out))
        home = Home(args, folder / str(run), "--tokenizer", str(args.tokenizer))
        taught = [(label, text) for label, text in train if label not in left]
        trained = home.teach([text for _, text in taught], [label for label, _ in taught])
        known = [(label, text) for label, text in test if label not in left]
        unknown = [text for label, text in test if label in left]
        answers = home.ask([text for _, text in known])
        rows.append(measure(f"without {', '.join(sorted(left))}", trained, answers, [l for l, _ in known], home.ask(unknown)))
    return rows


def activities(args, folder):
    data = np.load(ROOT / "models/hapt_users_23_26.npz")
    x, y, user = data["x"].astype(np.float32), data["y"], data["user"]
    rows = []
    for person in [23, 24, 25, 26][: args.runs]:
        home = Home(args, folder / str(person))
        own = np.flatnonzero((user == person) & (y < 6))
        other = np.flatnonzero((user == person) & (y >= 6))
        files = {}
        for what, which in [("taught", own[::4]), ("known", own[2::4]), ("unknown", other)]:
            files[what] = folder / f"{person}_{what}.npy"
            np.save(files[what], x[which])
        trained = home.teach([str(files["taught"])], [str(c) for c in y[own[::4]]])
        known, unknown = home.ask([str(files["known"])]), home.ask([str(files["unknown"])])
        rows.append(measure(f"person {person}", trained, known, [str(c) for c in y[own[2::4]]], unknown))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["intents", "activities"])
    parser.add_argument("--model")
    parser.add_argument("--tokenizer", default=ROOT / "models/intents_tokenizer.json")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--left-out", type=int, default=4)
    parser.add_argument("--program", default=ROOT / "target/release/acclimate")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    bundled = {"intents": "models/intents_encoder.onnx", "activities": "models/har_cnn.onnx"}
    args.model = args.model or ROOT / bundled[args.what]
    with tempfile.TemporaryDirectory() as folder:
        rows = np.array({"intents": intents, "activities": activities}[args.what](args, pathlib.Path(folder)))
    mean = rows.mean(0)
    n = len(RATES)
    for at, rate in enumerate(RATES):
        print(f"rate {rate}: known {mean[at]:.3f} (most {rows[:, at].max():.3f}), unknown {mean[n + at]:.3f}")
    print(f"AUROC {mean[2 * n]:.3f}; ECE on the test {mean[2 * n + 1]:.3f} -> {mean[2 * n + 2]:.3f}")


if __name__ == "__main__":
    main()
