#!/usr/bin/env python3
"""Which answers should ask: scores compared offline, with a linear probe as the learner.

usage: asking_study.py TASK RATES SEEDS [SCORES]  (TASK: people, turned, digits, intents; numpy, scipy, onnxruntime, tokenizers)
       asking_study.py digits 0.05,0.1,0.2 4
       asking_study.py digits 0.05,0.1,0.2,1 4 "random;least, balanced"

SCORES are all of them when not given. Where the last rate is 1, the number of labels that reach 95 % of its gain follows.

Features are those of the models of people.toml, turned.toml and asking.toml (asking_data.py makes the latter). Streams are answered one by one;
an answer asks by the rule of src/runtime/asking.rs with the score of the row; the probe, drawn to the base model's classifier,
is solved anew after every 24 labels (people: 12). One row a score: labels, and accuracy on held-out data, for each rate.
"""
import collections
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime
from scipy.optimize import minimize

HERE = pathlib.Path(__file__).resolve().parent
BLOCK = 64
SCORES = ["random", "least", "margin", "entropy", "least, balanced", "margin, balanced", "entropy, balanced",
          "least, balanced, a quarter by chance", "novelty", "least x novelty, balanced"]


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def features_of(model, inputs, node):
    """The tensor `node`, and the first output, of each input."""
    model = onnx.load(model)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    last = [n for n in model.graph.node if n.op_type == "Gemm"][-1]
    model.graph.output.append(onnx.helper.make_tensor_value_info(last.input[0], 1, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    features = session.run([last.input[0]], {node: inputs.astype(np.float32)})[0]
    return features, weights[last.input[1]], weights[last.input[2]]


def streams(task, seed):
    """(features, labels, test features, test labels, weights and bias of the base model or None) of each stream."""
    rng = np.random.default_rng(seed)
    if task in ("people", "turned"):
        data = np.load(HERE / ("hapt_users_1_26.npz" if task == "people" else "turned/turned.npz"))
        for person in range(1, 27):
            mine = (data["user"] == person) & (data["y"] < 6)
            f, w, b = features_of(HERE / f"har_fold{person % 5}.onnx", data["x"][mine], "imu")
            y, half = data["y"][mine].astype(int), int(mine.sum()) // 2
            yield f[:half], y[:half], f[half + 2:], y[half + 2:], (w, b)
    elif task == "digits":
        parts = [np.load(HERE / "asking" / f"digits0{end}.npz") for end in ("", "_test")]
        x, y = (np.concatenate([p[k] for p in parts]) for k in "xy")
        f, w, b = features_of(HERE / "asking" / "digits.onnx", x, "picture")
        order = rng.permutation(len(y))
        s, t = order[:1200], order[1200:]
        yield f[s], y[s].astype(int), f[t], y[t].astype(int), (w, b)
    else:
        f, y = sentences()
        order = rng.permutation(len(y))
        s, t = order[:1600], order[1600:]
        yield f[s], y[s], f[t], y[t], None


def sentences():
    cache = HERE / "asking" / "features.npz"
    if not cache.exists():
        from tokenizers import Tokenizer
        tokenizer = Tokenizer.from_file(str(HERE / "asking" / "tokenizer.json"))
        tokenizer.no_padding()
        session = onnxruntime.InferenceSession(HERE / "asking" / "minilm.onnx")
        rows = [line.split("\t") for end in ("", "_test")
                for line in (HERE / "asking" / f"intents0{end}.tsv").read_text().splitlines()]
        names, found = sorted({label for label, _ in rows}), []
        for _, text in rows:
            ids = np.array([tokenizer.encode(text).ids])
            feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
            mean = session.run(None, feed)[0][0].mean(0)
            found.append(6 * mean / np.linalg.norm(mean))
        np.savez(cache, f=np.array(found), y=np.array([names.index(label) for label, _ in rows]))
    data = np.load(cache)
    return data["f"], data["y"]


def solve(x, y, base, penalty):
    """Classes, weights and bias of a probe drawn to the base model's, by `penalty`."""
    known = list(range(len(base[1]))) if base else []
    classes = known + sorted(set(y) - set(known))
    start = np.zeros((len(classes), x.shape[1] + 1))
    if base:
        start[:len(known)] = np.c_[base]
        start[len(known):, -1] = np.median((x @ base[0].T + base[1]).mean(1))
    rows, target = np.c_[x, np.ones(len(x))], np.eye(len(classes))[[classes.index(c) for c in y]]

    def loss(flat):
        v = flat.reshape(start.shape)
        p = softmax(rows @ v.T)
        value = -np.log((p * target).sum(1) + 1e-30).sum() + penalty / 2 * ((v - start) ** 2).sum()
        return value, ((p - target).T @ rows + penalty * (v - start)).ravel()

    v = minimize(loss, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 60}).x.reshape(start.shape)
    return np.array(classes), v[:, :-1], v[:, -1]


def live(stream, kind, rate, seed, every, penalty):
    f, y, test, right, base = stream
    rng = np.random.default_rng(seed + 77)
    probe = (np.arange(len(base[1])), *base) if base else None
    taught, labels, trained, past, used, alike = [], [], 0, [], 0, collections.Counter()
    for i in range(len(y)):
        block, at = divmod(i, BLOCK)
        if at == 0:
            used, alike = 0, collections.Counter()
        left = int(rate * BLOCK * (block + 1) + 1e-9) - int(rate * BLOCK * block + 1e-9) - used
        share, answer = left / (BLOCK - at), None
        if probe:
            p = softmax(f[i] @ probe[1].T + probe[2])
            answer, top = int(p.argmax()), np.sort(p)
            score = {"margin": 1 - top[-1] + (top[-2] if len(top) > 1 else 0), "novelty": 1.0,
                     "entropy": -(p * np.log(p + 1e-12)).sum()}.get(kind.split(",")[0], 1 - top[-1])
            if "novelty" in kind:
                near = max((f[i] @ t / np.linalg.norm(f[i]) / np.linalg.norm(t) for t in taught), default=0)
                score *= 1 - near + 1e-3
        if left <= 0:
            ask = False
        elif kind == "random" or ("chance" in kind and rng.random() < 0.25):
            ask = rng.random() < share
        elif probe is None:
            ask = True
        else:
            shown = score / (1 + alike[answer]) if "balanced" in kind else score
            recent = np.array(past[-(BLOCK + at):])
            rank = (recent > shown).sum() + rng.random() * (1 + (recent == shown).sum())
            ask = rank / (len(recent) + 1) < share
        if probe:
            past.append(score)
        if ask:
            used, alike[answer] = used + 1, alike[answer] + 1
            taught.append(f[i])
            labels.append(int(y[i]))
            if len(labels) - trained >= every:
                probe, trained = solve(np.array(taught), labels, base, penalty), len(labels)
    if len(labels) > trained:
        probe = solve(np.array(taught), labels, base, penalty)
    return len(labels), (probe[0][np.argmax(test @ probe[1].T + probe[2], 1)] == right).mean()


def main():
    task, rates, seeds = sys.argv[1], [float(r) for r in sys.argv[2].split(",")], int(sys.argv[3])
    every, penalty = (12 if task in ("people", "turned") else 24), (0.1 if task == "intents" else 5)
    all_streams = [(seed, s) for seed in range(seeds) for s in streams(task, seed)]
    base = np.mean([base_accuracy(s) for _, s in all_streams])
    print(f"{len(all_streams)} streams, base model {base:.3f}")
    for kind in sys.argv[4].split(";") if len(sys.argv) > 4 else SCORES:
        curve = [(0.0, base)]
        for rate in rates:
            curve.append(np.mean([live(s, kind, rate, seed, every, penalty) for seed, s in all_streams], 0))
        row = "   ".join(f"{labels:4.0f} {accuracy:.3f}" for labels, accuracy in curve[1:])
        print(f"{kind:38}", row, f"  95 %: {needed(curve):.0f}" if rates[-1] == 1 else "", flush=True)


def base_accuracy(stream):
    _, _, test, right, base = stream
    return (np.argmax(test @ base[0].T + base[1], 1) == right).mean() if base else 0.0


def needed(curve):
    """Labels until 95 % of the last gain, by straight lines between the points."""
    goal = curve[0][1] + 0.95 * (curve[-1][1] - curve[0][1])
    for (n, low), (m, high) in zip(curve, curve[1:]):
        if high >= goal:
            return n + (m - n) * (goal - low) / (high - low)
    return float("nan")


main()
