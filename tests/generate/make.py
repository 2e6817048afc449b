"""Probabilities of next tokens as transformers computes them.

usage: make.py

Writes processors.json beside this file: logits, and for each case a configuration, the token ids so far, the
tokens that the logits processors leave, and their probabilities. The processors and their order are those
that `generate` builds. Prints the tokens that a seed samples, for `sampling_tests.rs`. Needs transformers 5
and torch.

The order of equal logits in `torch.sort` is open; here it is stable.
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import GenerationConfig
from transformers.generation.utils import GenerationMixin

SEED = 20
OUT = Path(__file__).with_name("processors.json")


def logits_vectors(rng):
    """Named vectors: of one scale and another, with ties, with -inf, flat, all negative, all positive."""
    normal = lambda size, scale: rng.normal(0, scale, size)
    some_inf = normal(64, 3)
    some_inf[rng.choice(64, 40, replace=False)] = -np.inf
    one_left = np.full(50, -np.inf)
    one_left[17] = -2.5
    zeros = normal(60, 2)
    zeros[::3] = 0.0
    zeros[1::6] = -0.0
    vectors = {
        "small": normal(50, 2),
        "usual": normal(400, 4),
        "large": normal(1000, 3),
        "peaked": normal(200, 1) + 25 * (np.arange(200) == 31),
        "huge": normal(100, 3000),
        "ties": rng.integers(-3, 4, 120).astype(float),
        "equal": np.full(64, 1.25),
        "two values": np.where(np.arange(90) % 7 == 0, 2.0, -1.0),
        "some -inf": some_inf,
        "one left": one_left,
        "zeros": zeros,
        "negative": -np.abs(normal(80, 3)) - 1,
        "positive": np.abs(normal(80, 3)) + 1,
    }
    return {name: torch.tensor(values.round(3), dtype=torch.float32) for name, values in vectors.items()}


def configurations():
    """Each processor alone, at the ends of its range, and together."""
    plain = {"top_k": 0}
    yield from ({**plain, "temperature": t} for t in (1.0, 0.7, 1.9, 0.05, 0.001, 100.0, 1e6))
    yield from ({"top_k": k} for k in (1, 2, 5, 50, 63, 5000))
    yield from ({**plain, "top_p": p} for p in (0.0, 1e-6, 0.1, 0.5, 0.9, 0.95, 0.999999))
    yield from ({**plain, "min_p": p} for p in (0.0, 1e-8, 0.05, 0.3, 1.0))
    yield from ({**plain, "repetition_penalty": r} for r in (1.1, 1.8, 0.6, 30.0))
    yield {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.02, "repetition_penalty": 1.3}
    yield {"temperature": 1.7, "top_k": 7, "top_p": 0.4, "repetition_penalty": 1.1}
    yield {"temperature": 0.2, "top_k": 100, "min_p": 0.1}
    yield {"temperature": 3.0, "top_k": 0, "top_p": 0.8, "min_p": 0.2, "repetition_penalty": 0.9}


def processed(scores, config, ids):
    """The tokens left, and their probabilities."""
    model = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=False))
    model._merge_criteria_processor_list = lambda default, custom: default
    config = GenerationConfig(do_sample=True, **config)
    processors = GenerationMixin._get_logits_processor(model, config, input_ids_seq_length=len(ids))
    scores = processors(torch.tensor([ids], dtype=torch.long), scores[None].clone())[0]
    probabilities = torch.softmax(scores, dim=-1)
    left = torch.nonzero(scores > -torch.inf)[:, 0]
    return left.tolist(), [float(f"{p:.6g}") for p in probabilities[left].tolist()]


def chacha8(key, block):
    """The 64-bit words of one block: RFC 8439 with 8 rounds and a 64-bit counter, the nonce 0."""
    words = lambda data: [int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data), 4)]
    start = words(b"expand 32-byte k" + key + block.to_bytes(8, "little") + bytes(8))
    state = list(start)

    def turn(target, added, mixed, bits):
        state[target] = (state[target] + state[added]) & 0xFFFFFFFF
        word = state[mixed] ^ state[target]
        state[mixed] = (word << bits | word >> (32 - bits)) & 0xFFFFFFFF

    columns = [(i, 4 + i, 8 + i, 12 + i) for i in range(4)]
    diagonals = [(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4) for i in range(4)]
    for a, b, c, d in (columns + diagonals) * 4:
        for target, added, mixed, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            turn(target, added, mixed, bits)
    mixed = [(word + first) & 0xFFFFFFFF for word, first in zip(state, start)]
    return [low | high << 32 for low, high in zip(mixed[::2], mixed[1::2])]


def sampled(seed, count):
    """Tokens sampled without a filter from 40 logits, by inversion of the cumulative distribution."""
    key = b"".join(word.to_bytes(8, "little") for word in (seed, int.from_bytes(b"tokens"), 0, 0))
    logits = np.float32([i * 23 % 40 for i in range(40)]) * np.float32(0.2) - np.float32(3.9)
    probabilities = np.exp(np.float64(logits))
    cumulative = np.cumsum(probabilities / probabilities.sum())
    words = [word for block in range(count // 8 + 1) for word in chacha8(key, block)][:count]
    return [int(np.searchsorted(cumulative, (word >> 11) / 2**53, side="right")) for word in words]


def number(value):
    """A logit as JSON: its shortest text, `null` for -inf."""
    return None if np.isinf(value) else float(str(np.float32(value)))


def main():
    sort = torch.sort
    torch.sort = lambda scores, descending: sort(scores, stable=True, descending=descending)
    rng = np.random.default_rng(SEED)
    vectors = logits_vectors(rng)
    cases = []
    for turn, config in enumerate(configurations()):
        for place, (name, scores) in enumerate(vectors.items()):
            # Every vector meets every second configuration; the largest only some.
            if (turn + place) % 2 or name == "large" and turn % 4:
                continue
            size = len(scores)
            ids = rng.integers(0, size, 12).tolist()
            ids += ids[:5] + [int(scores.argmax())] * 3 + [size, size + 1000]
            tokens, probabilities = processed(scores, config, ids)
            case = {"logits": name, "config": config, "ids": ids}
            cases.append({**case, "tokens": tokens, "probabilities": probabilities})
    logits = {name: [number(v) for v in values.numpy()] for name, values in vectors.items()}
    stored = {"logits": logits, "cases": cases}
    OUT.write_text(json.dumps(stored, separators=(",", ":")) + "\n")
    print(f"{len(cases)} cases, {OUT.stat().st_size} bytes")
    print("seed 7:", sampled(7, 20))


if __name__ == "__main__":
    main()
