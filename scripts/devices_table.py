#!/usr/bin/env python3
"""Turns reports of `acclimate bench --report` into the table of docs/devices.md. Prints it.

usage: devices_table.py REPORT.json...
"""

import json
import sys
from pathlib import Path

# Measures of the columns, in order; the first that a model has is taken.
COLUMNS = [
    ("answer", ["predict", "prefill"]),
    ("adapted", ["adapted_predict"]),
    ("a token", ["token"]),
    ("training step", ["train_step"]),
    ("memory: predicting", ["predict_anonymous"]),
    ("training", ["train_anonymous"]),
]


def read(path):
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        sys.exit(f"devices_table: cannot read {path}: {e}")
    if not isinstance(report, dict) or report.get("kind") != "acclimate-bench" or report.get("format") != 1:
        sys.exit(f"devices_table: {path} is no report of `acclimate bench --report`, or one of another format")
    return report


def clean(text):
    """Reports come from others: nothing in them is markup."""
    plain = "".join(c for c in str(text) if c.isprintable())
    return "".join("/" if c == "|" else c for c in plain if c not in "\\<>`[]!*&#~")[:80]


def figure(line):
    value, unit = line["median"], line["unit"]
    if unit == "bytes":
        return f"{value / 2**20:.0f} MiB"
    return f"{value:.3g} {clean(unit)}" if value < 1000 else f"{value:.0f} {clean(unit)}"


def heat(report):
    before, after = (report.get(k, {}).get("temperature_c") for k in ("before", "after"))
    words = f"{before:.0f} → {after:.0f} °C" if before is not None and after is not None else "not known"
    throttled = report.get("after", {}).get("throttled")
    if throttled is not None:
        words += ", ".join(["", *map(clean, throttled)]) if throttled else ", not throttled"
    return words


def device(report):
    machine, program = report["machine"], report["program"]
    name = machine.get("board") or " and ".join(machine["cpu"]) or "unknown"
    memory = machine["memory_bytes"] / 2**30
    cpu = clean(" and ".join(machine["cpu"]))
    return (
        f"**{clean(name)}**: {cpu}, {machine['cores']} cores, {memory:.1f} GiB, "
        f"Linux {clean(machine['kernel'])}, governor {clean(machine.get('governor') or 'not known')}; "
        f"acclimate {clean(program['version'])} for {clean(program['target'])}, {clean(program['libc'])}; "
        f"{heat(report)}"
    )


def rows(report):
    lines = {(l["model"], l["batch"], l["sequence"], l["threads"], l["measure"]): l for l in report["figures"]}
    shapes = sorted({k[:3] for k in lines})
    for model, batch, sequence in shapes:
        threads = max(k[3] for k in lines if k[:3] == (model, batch, sequence))
        cells = []
        for _, measures in COLUMNS:
            found = (lines.get((model, batch, sequence, threads, m)) for m in measures)
            cells.append(next((figure(l) for l in found if l), ""))
        if any(cells):
            shape = f"{batch} × {sequence}" if sequence else str(batch)
            yield f"| {clean(model)} | {shape} | {threads} | " + " | ".join(cells) + " |"


def main():
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        sys.exit(__doc__)
    for path in sys.argv[1:]:
        report = read(path)
        try:
            print(f"{device(report)}\n")
            print("| Model | Shape | Threads | " + " | ".join(name for name, _ in COLUMNS) + " |")
            print("|" + "---|" * (3 + len(COLUMNS)))
            print("\n".join(rows(report)) + "\n")
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            sys.exit(f"devices_table: {path} is damaged: {e!r}")


if __name__ == "__main__":
    main()
