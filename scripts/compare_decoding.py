#!/usr/bin/env python3
"""ONNX Runtime and acclimate on one language model: prefill, one token after it, and a training step.

    scripts/compare_decoding.py --home HOME [--seq 256] [--threads 1,2] [--rounds 2] [--acclimate PATH]

`--home` is a home of an export with a KV cache (optimum, transformers.js). Both programs run in turn, `--rounds` times,
each in a process of its own; a line is the median over the rounds of the medians within them. The ratio is ONNX
Runtime's time over acclimate's, so above 1 acclimate is faster. *rate* is acclimate's prefill over its training step
(all sites, rank 8), the part of the speed of reading that training reaches.

needs: numpy, onnxruntime
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import time


def onnx_runtime(model, threads, length, repeats):
    import numpy as np
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    inputs = {i.name: i for i in session.get_inputs()}
    rng = np.random.default_rng(0)

    def feed(count, past, cache):
        fed = {}
        for name, info in inputs.items():
            kind = np.float16 if "float16" in info.type else np.float32
            if name == "input_ids":
                fed[name] = rng.integers(5, 90, (1, count)).astype(np.int64)
            elif name == "attention_mask":
                fed[name] = np.ones((1, count + past), np.int64)
            elif name == "position_ids":
                fed[name] = np.arange(past, past + count, dtype=np.int64)[None]
            elif name == "use_cache_branch":
                fed[name] = np.array([past > 0])
            elif name in cache:
                fed[name] = cache[name]
            else:
                heads, size = info.shape[1], info.shape[3]
                fed[name] = np.zeros((1, heads, 0, size), kind)
        return fed

    def timed(fed, times):
        taken = []
        for _ in range(times):
            start = time.perf_counter()
            found = session.run(None, fed)
            taken.append(1e3 * (time.perf_counter() - start))
        return statistics.median(taken), found

    prefill, found = timed(feed(length, 0, {}), repeats)
    named = dict(zip((o.name for o in session.get_outputs()), found))
    cache = {name.replace("present", "past_key_values"): value for name, value in named.items() if "present" in name}
    token, _ = timed(feed(1, length, cache), 4 * repeats)
    return {"prefill": prefill, "token": token}


def acclimate(program, home, threads, length, repeats):
    line = [program, "bench", home, "--batch", "1", "--seq", str(length), "--rank", "8", "--threads", str(threads)]
    line += ["--repeats", str(repeats), "--json"]
    text = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)["text"]
    return {name: text[f"{key}_ms"]["median"] for name, key in
            [("prefill", "prefill"), ("token", "token"), ("step", "train_step")]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", required=True)
    parser.add_argument("--model", help="what ONNX Runtime reads; the home's model where it is not given")
    parser.add_argument("--acclimate", default="target/release/acclimate")
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    model = pathlib.Path(given.model or pathlib.Path(given.home) / "base.onnx")
    if given.only:
        print(json.dumps(onnx_runtime(model, given.only, given.seq, given.repeats)))
        return
    print("| threads | | ONNX Runtime, ms | acclimate, ms | ratio |\n|---|---|---|---|---|")
    for threads in map(int, given.threads.split(",")):
        theirs, ours = [], []
        for _ in range(given.rounds):
            line = [sys.executable, __file__, *sys.argv[1:], "--only", str(threads)]
            theirs.append(json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout))
            ours.append(acclimate(given.acclimate, given.home, threads, given.seq, given.repeats))
        median = lambda rows, name: statistics.median(row[name] for row in rows)
        for name, what in [("prefill", f"prefill of {given.seq} tokens"), ("token", "one token after it")]:
            a, b = median(theirs, name), median(ours, name)
            print(f"| {threads} | {what} | {a:.1f} | {b:.1f} | {a / b:.2f} |")
        step, prefill = median(ours, "step"), median(ours, "prefill")
        print(f"| {threads} | training step; rate | | {step:.0f} | {prefill / step:.2f} |", flush=True)


if __name__ == "__main__":
    main()
