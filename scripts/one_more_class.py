#!/usr/bin/env python3
"""What one more class costs the others: 38 intents of 8 sentences each are taught, then one more from 8 sentences.

    scripts/one_more_class.py [--model M.onnx] [--tokenizer T.json] [--split 0] [--classes A,B,... | --choices 5]
                              [--program target/release/acclimate] [--out FILE.json]

For each choice of the last class it prints the recall of the new class, the accuracy on the other 38 before and
after, and which of them lost how many points of recall, on the test sentences of reference/intents. No package is
needed. The model is the bundled encoder if not given; scripts/fetch-models.sh has MiniLM.
"""

import argparse
import collections
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
AT_ONCE = 500


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=ROOT / "models/intents_encoder.onnx")
    parser.add_argument("--tokenizer", default=ROOT / "models/intents_tokenizer.json")
    parser.add_argument("--split", type=int, default=0)
    parser.add_argument("--classes", help="the last class, each in turn")
    parser.add_argument("--choices", type=int, default=5, help="as many, evenly over the alphabet")
    parser.add_argument("--program", default=ROOT / "target/release/acclimate")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--out")
    args = parser.parse_args()

    def run(*words, home=None):
        words = [str(w) for w in (words[0], *([home] if home else []), *words[1:])]
        done = subprocess.run([str(args.program), "--json", "-q", *words], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(words[:3])}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def read(part):
        text = (ROOT / f"reference/intents/seed{args.split}_{part}.tsv").read_text(encoding="utf8")
        return [line.split("\t") for line in text.splitlines()]

    taught, test = read("train"), read("test")
    classes = sorted({label for label, _ in taught})
    if args.classes:
        chosen = args.classes.split(",")
    else:
        chosen = [classes[(2 * i + 1) * len(classes) // (2 * args.choices)] for i in range(args.choices)]

    def ask(home, sentences):
        answers = []
        for at in range(0, len(sentences), AT_ONCE):
            answers += run("predict", *sentences[at : at + AT_ONCE], home=home)
        return answers

    def teach(home, rows):
        answers = ask(home, [sentence for _, sentence in rows])
        for (label, _), answer in zip(rows, answers):
            run("feedback", answer["id"], "--label", label, "--new-class", home=home)
        return [answer["id"] for answer in answers]

    def recall(home):
        right, of = collections.Counter(), collections.Counter()
        for (label, _), answer in zip(test, ask(home, [sentence for _, sentence in test])):
            of[label] += 1
            right[label] += bool(answer["top"]) and answer["top"][0]["label"] == label
        return {label: right[label] / of[label] for label in of}, {label: of[label] for label in of}

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        whole = folder / "whole"
        run("init", "--model", args.model, "--tokenizer", args.tokenizer, home=whole)
        ids = teach(whole, taught)
        for label in chosen:
            home = folder / label
            shutil.copytree(whole, home)
            run("forget", *[i for i, (l, _) in zip(ids, taught) if l == label], "--no-train", home=home)
            first = run("train", "--threads", args.threads, home=home)
            before, _ = recall(home)
            teach(home, [row for row in taught if row[0] == label])
            second = run("train", "--threads", args.threads, home=home)
            after, count = recall(home)
            old = [c for c in before if c != label]
            mean = lambda recalls: sum(recalls[c] * count[c] for c in old) / sum(count[c] for c in old)
            lost = sorted(((100 * (before[c] - after[c]), c) for c in old), reverse=True)
            row = {
                "class": label,
                "new": after[label],
                "before": mean(before),
                "after": mean(after),
                "lost": [(round(points, 1), c, count[c]) for points, c in lost if points > 2],
                "worst": round(lost[0][0], 1),
                "depths": [first["depth"], second["depth"]],
                "promoted": [first["promoted"], second["promoted"]],
                "calibration": second["calibration"],
                "reason": second["reason"],
            }
            rows.append(row)
            more = ", ".join(f"{c} {points:.1f} of {n}" for points, c, n in row["lost"])
            print(
                f"{label:30} new {row['new']:.3f}  others {row['before']:.3f} -> {row['after']:.3f}  "
                f"worst -{row['worst']:.1f}  {len(row['lost'])} of 38 lost more than 2 points: {more}  {row['depths']}",
                flush=True,
            )
            shutil.rmtree(home)
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
