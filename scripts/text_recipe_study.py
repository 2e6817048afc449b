#!/usr/bin/env python3
"""Fits a language model on the demo's edits by other recipes, in PyTorch: what docs/language-models.md says was tried.

usage: text_recipe_study.py --model DIR --acclimate PATH RECIPE…
needs: lib/golden_trl.txt (Python 3.11), no network; the model from scripts/fetch-models.sh smollm2-chat

A recipe is NAME=VALUE,…; what is not named is as in acclimate before averages and margins:

  lr         peak learning rate (6.4e-4)
  margin     nats at which a token of an edit is known, and pulls no more (0)
  dropout    of LoRA's inputs (0)
  smoothing  of labels, over the whole vocabulary (0)
  focal      exponent of the focal loss (0)
  last       averages over so many last steps that are judged as well, with `/` between them; 0 for the last step (0)
  scale      times the factors that the fit ends with (1)
  seed       of the start and of the order (0)

The fit is that of `train` on all edits: LoRA of rank 8 on all layers but the output layer, two edits a step, 64 steps,
tokens that were left as they were at 0.3, and a rehearsal of prose whose weight follows its divergence. The judge and
the columns are those of compare_texts.py.
"""

import argparse
import json
import math
import sys
import tempfile
from difflib import SequenceMatcher
from pathlib import Path

import compare_texts as texts
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

STEPS, BATCH, UNCHANGED, DIVERGENCE = 64, 2, 0.3, 0.015
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
USUAL = {"lr": 6.4e-4, "margin": 0.0, "dropout": 0.0, "smoothing": 0.0, "focal": 0.0, "scale": 1.0, "seed": 0.0}


def weights(edited, original):
    """As LanguageExample::chosen_tokens: 1 where a token, or the one before it, is not the original's."""
    found = [1.0] * len(edited)
    for from_, to, n in SequenceMatcher(None, original, edited, autojunk=False).get_matching_blocks():
        first = min(int(from_ + to > 0), n)
        found[to + first : to + n] = [UNCHANGED] * (n - first)
    return found


def rate(step):
    warm = math.ceil(0.1 * STEPS)
    if step < warm:
        return (step + 1) / warm
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (STEPS - warm)))


def supervised(recipe, scores, tokens, weight):
    """The mean of the batch's tokens is taken by who adds them up."""
    log_probs = scores.log_softmax(-1)
    loss = -log_probs.gather(1, tokens[:, None])[:, 0]
    if recipe["smoothing"]:
        loss = (1 - recipe["smoothing"]) * loss - recipe["smoothing"] * log_probs.mean(-1)
    if recipe["focal"]:
        loss = loss * (1 - (-loss).exp()).detach() ** recipe["focal"]
    return (weight * torch.relu(loss - recipe["margin"])).sum()


def fit(recipe, folder, data, prose):
    """(the model with its factors, their values after each step)."""
    torch.manual_seed(int(recipe["seed"]))
    lora = {"r": texts.RANK, "lora_alpha": texts.ALPHA, "lora_dropout": recipe["dropout"], "target_modules": MODULES}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(**lora, task_type="CAUSAL_LM")).train()
    factors = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(factors, lr=recipe["lr"], weight_decay=0.01)
    order, pull, base, steps = [], 4.0, {}, []
    generator = torch.Generator().manual_seed(int(recipe["seed"]) + 1)
    scores = lambda ids: model(torch.tensor([ids])).logits[0]  # noqa: E731
    for step in range(STEPS):
        order = order if len(order) >= BATCH else torch.randperm(len(data), generator=generator).tolist()
        batch = [data[order.pop()] for _ in range(BATCH)]
        optimiser.param_groups[0]["lr"] = recipe["lr"] * rate(step)
        optimiser.zero_grad()
        count = sum(len(weight) for _, _, weight in batch)
        for ids, start, weight in batch:
            found = scores(ids)[start - 1 : -1]
            (supervised(recipe, found, torch.tensor(ids[start:]), torch.tensor(weight)) / count).backward()
        at = step % len(prose)
        if at not in base:
            with torch.no_grad(), model.disable_adapter():
                base[at] = scores(prose[at]).log_softmax(-1)
        divergence = (base[at].exp() * (base[at] - scores(prose[at]).log_softmax(-1))).sum(-1).mean()
        (pull * divergence).backward()
        error = max(-0.5, min(0.5, divergence.item() / DIVERGENCE - 1))
        pull = min(50.0, max(1.0, pull * (1 + 0.1 * error)))
        torch.nn.utils.clip_grad_norm_(factors, 1.0)
        optimiser.step()
        steps.append([p.detach().clone() for p in factors])
    return model, factors, steps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--acclimate", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("recipes", nargs="+", metavar="RECIPE")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    sys.stdout.reconfigure(line_buffering=True)
    with tempfile.TemporaryDirectory() as work:
        study(options, Path(work))


def study(options, work):
    script = json.loads((texts.REPO / "models/chat_demo.json").read_text())
    texts.NAMES[:] = script["names"]
    ours = texts.Acclimate(options, options.model, work)
    held, rows = ours.ask(script["held_out"], 64, "held-out"), ours.ask(script["edits"], 64, "default")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    judge = texts.Judge(tokenizer, held, 64)
    base = texts.from_onnx(options.model / "model.onnx", options.model, judge.tokens("Hello", "Hello.")[0])
    base.save_pretrained(work / "torch")
    data = []
    for row in rows:
        original, at = judge.tokens(row["asked"]["prompt"], row["answer"], row["ended"])
        ids, start = judge.tokens(row["asked"]["prompt"], row["edited"])
        data.append((ids, start, weights(ids[start:], original[at:])))
    prose = (texts.REPO / "src/runtime/language/rehearsal.txt").read_text().strip().split("\n\n")
    prose = [tokenizer(p.strip().replace("\n", " "))["input_ids"] for p in prose]
    print(f"{'recipe':<40} {'last':>4} {'edited':>8} {'original':>8} {'wished':>6} {'perplexity':>10}")
    for spec in options.recipes:
        named = dict(part.split("=") for part in spec.split(","))
        lasts = [int(n) for n in named.pop("last", "0").split("/")]
        if unknown := set(named) - set(USUAL):
            sys.exit(f"{spec}: no such part of a recipe: {', '.join(sorted(unknown))}")
        recipe = USUAL | {name: float(value) for name, value in named.items()}
        model, factors, steps = fit(recipe, work / "torch", data, prose)
        for last in lasts:
            with torch.no_grad():
                for at, (name, p) in enumerate((n, p) for n, p in model.named_parameters() if p.requires_grad):
                    mean = sum(step[at] for step in steps[-max(last, 1) :]) / max(last, 1)
                    p.copy_(mean * (recipe["scale"] if "lora_B" in name else 1.0))
            found = judge(model)
            figures = f"{found['edited']:8.3f} {found['original']:8.3f} {found['wished']:6} {found['perplexity']:10.2f}"
            print(f"{spec:<40} {last:>4} {figures}")


if __name__ == "__main__":
    main()
