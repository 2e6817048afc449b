#!/usr/bin/env python3
"""Does a training keep to `--memory`? Prints a table. Run by hand.

Columns: limit, what fits it, its estimate, the peak of the process.

usage: memory_limits.py --bin BIN MODEL DATA LIMIT...
                        [--tokenizer F] [--count N=24] [--threads T=1] [--budget-seconds S=45]
DATA: .npz with x and y, or .tsv of label⇥text; the first N examples are fed back with their labels as new classes or known ones.
"""

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--tokenizer")
    parser.add_argument("--task", default="encoder")
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget-seconds", default="45")
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("limits", nargs="+")
    o = parser.parse_args()

    def run(*arguments):
        done = subprocess.run([o.bin, *map(str, arguments), "--json", "--quiet"], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        return json.loads(done.stdout)

    with tempfile.TemporaryDirectory() as work:
        home, work = Path(work) / "home", Path(work)
        run("init", home, "--model", o.model, "--task", o.task, *(["--tokenizer", o.tokenizer] if o.tokenizer else []))
        if o.data.endswith(".npz"):
            data = np.load(o.data)
            order = np.random.default_rng(0).permutation(len(data["y"]))[: o.count]
            x = data["x"][order]
            x = np.repeat(x[..., None], 3, -1) if x.ndim == 3 and x.dtype == np.uint8 else x
            np.savez(work / "x.npz", x=x)
            answers, labels = run("predict", home, work / "x.npz"), [str(y) for y in data["y"][order]]
        else:
            rows = [line.split("\t") for line in Path(o.data).read_text().splitlines()][: o.count]
            answers, labels = [run("predict", home, text)[0] for _, text in rows], [label for label, _ in rows]
        for answer, label in zip(answers, labels):
            run("feedback", home, answer["id"], "--label", label, *(["--new-class"] if o.task == "encoder" else []))
        for limit in o.limits:
            pid = subprocess.Popen(
                [o.bin, "train", home, "--memory", limit, "--threads", str(o.threads),
                 "--budget-seconds", o.budget_seconds, "--json", "--quiet"],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            out, _ = pid.stdout.read(), pid.stderr.read()
            _, _, usage = os.wait4(pid.pid, 0)
            c = json.loads(out)["choice"]
            fit, twice = c["reason"].split(" layers fit")[0], ", checkpoints" * c["gradient_checkpointing"]
            print(
                f"| {Path(o.model).stem} | {limit} | {fit}, rank {c['rank']}, {c['micro_batch']} at once{twice} "
                f"| {c['memory_bytes'] / 2**20:.0f} MiB | {usage.ru_maxrss / 1024:.0f} MiB |", flush=True
            )


if __name__ == "__main__":
    main()
