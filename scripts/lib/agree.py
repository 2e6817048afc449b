"""Compares what two machines computed. Prints the figures; exit code 1 if they differ by more than they may.

    agree.py gradients A.safetensors B.safetensors
    agree.py verdict A.json B.json              # of `train --json`
    agree.py answers A.json B.json              # of `predict --top N --json`
"""

import array
import json
import math
import sys

GRADIENTS, PROBABILITIES = 1e-5, 1e-4


def tensors(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    header.pop("__metadata__", None)
    return {name: array.array("f", data[slice(*t["data_offsets"])]) for name, t in header.items()}


def gradients(a, b):
    a, b = tensors(a), tensors(b)
    if list(a) != list(b) or any(len(a[n]) != len(b[n]) for n in a):
        sys.exit("agree: other tensors")
    if not all(math.isfinite(v) for n in a for v in (*a[n], *b[n])):
        sys.exit("agree: a gradient is no finite number")
    largest = {n: max(map(abs, a[n])) for n in a}
    if not a or not all(0.0 < v < float("inf") for v in largest.values()):
        sys.exit(f"agree: no gradients to compare: {largest}")
    worst = max((max(abs(x - y) for x, y in zip(a[n], b[n])) / largest[n], n) for n in a)
    same = sum(a[n] == b[n] for n in a)
    print(f"      {len(a)} matrices, {same} the same to the bit, largest difference {worst[0]:.1e} ({worst[1]})")
    return worst[0] <= GRADIENTS


def verdict(a, b):
    a, b = (json.load(open(path, encoding="utf-8")) for path in (a, b))
    words = ("promoted", "generation", "depth", "steps", "ignored", "superseded", "contradicting")
    other = [f"{w}: {a[w]} and {b[w]}" for w in words if a[w] != b[w]]
    numbers = [(a["validation"][k], b["validation"][k], k) for k in ("base", "before", "after", "n")]
    other += [f"{k}: {x} and {y}" for x, y, k in numbers if abs(x - y) > 1e-9]
    loss = [(a["loss"][k], b["loss"][k]) for k in ("base", "after")]
    other += [f"loss: {x} and {y}" for x, y in loss if abs(x - y) > 1e-3 * abs(x)]
    print(f"      generation {a['generation']} ({a['depth']}), promoted {a['promoted']},", end=" ")
    print(f"loss {loss[1][0]:.7f} and {loss[1][1]:.7f}")
    for line in other:
        print(f"      {line}")
    return a["promoted"] and not other


def answers(a, b):
    a, b = (json.load(open(path, encoding="utf-8")) for path in (a, b))
    if len(a) != len(b) or not a or any(x["generation"] != y["generation"] for x, y in zip(a, b)):
        sys.exit("agree: other answers, or of another generation")
    pairs = []
    for x, y in zip(a, b):
        p, q = ({t["label"]: t["p"] for t in answer["top"]} for answer in (x, y))
        if p.keys() != q.keys():
            sys.exit(f"agree: other labels: {p} and {q}")
        pairs += [abs(p[label] - q[label]) for label in p]
    if not all(map(math.isfinite, pairs)):
        sys.exit("agree: a probability is no finite number")
    firsts = sum(x["top"][0]["label"] == y["top"][0]["label"] for x, y in zip(a, b))
    print(f"      {len(a)} answers of generation {a[0]['generation']}, {firsts} the same,", end=" ")
    print(f"probabilities within {max(pairs):.1e}")
    return firsts == len(a) and max(pairs) <= PROBABILITIES


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("gradients", "verdict", "answers"):
        sys.exit(__doc__)
    sys.exit(0 if globals()[sys.argv[1]](*sys.argv[2:]) else 1)
