#!/usr/bin/env python3
"""Compares what acclimate and PEFT + TRL learn from the same edits of a language model's answers, and the cost.

usage: compare_texts.py [--model DIR|tiny] [--threads 1] [--peers sft:2e-4 …] [--steps N] [--prompts 20] [--seed 0]
                        [--acclimate PATH] [--json OUT]
needs: lib/golden_trl.txt (Python 3.11), no network; the model from scripts/fetch-models.sh smollm2-chat, or `tiny`

The model answers the prompts of `acclimate demo --chat`, and the person of that demo edits the answers. acclimate gets
the edits as feedback, a trainer of TRL the same texts as conversations (prompt and completion; DPO: the edit over the
original), with LoRA of the same rank, alpha and layers, and as many epochs and answers a step. All else are TRL's
defaults, but for float32, and for gradient checkpointing, which it has on. Each learns in a process of its own. One
torch evaluator judges all of them on prompts that were never fed back; acclimate's adapter comes as the merged file
that `export` writes. If acclimate promotes nothing, the base is what it serves.

A peer is LOSS:RATE[:gc]: sft or dpo; a learning rate, `default` (TRL's) or `acclimate` (the one it takes itself); `gc`
leaves gradient checkpointing on. TRL's documentation advises 2e-4 for SFT with LoRA.

  edited, original  mean log-likelihood per token of held-out answers, end of turn included: what the person writes in
                    place of the base model's answer; that answer itself
  wished            held-out prompts whose greedy answer the person would leave as it is
  perplexity        of src/runtime/language/neutral.txt
  wall, cpu         seconds of the process, loading included; processor seconds of all threads
  learning          seconds of the training loop. acclimate: of the fit that serves; its other time is loading and the
                    gate, which has three fits on parts of the edits and judges them
  Rss, Anonymous    peaks in MiB, sampled every 50 ms from /proc/PID/smaps_rollup
"""

import argparse
import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zipfile
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TRANSFORMERS_VERBOSITY": "error"}
warnings.filterwarnings("ignore")

import numpy as np
import torch
from compare_peers import machine
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

REPO = Path(__file__).resolve().parent.parent
PEERS = ["sft:default", "sft:2e-4", "sft:acclimate", "sft:acclimate:gc", "dpo:default"]
# acclimate's recipe (docs/language-models.md): LoRA, answers of a step, steps of a fit, and bounds of its epochs
RANK, ALPHA, BATCH, STEPS, EPOCHS = 8, 16, 2, 64, (3, 20)
NAMES = []  # of the script: what others call a thing, and what the person calls it


def liked(asked, answer, ended):
    """Whether the person of src/cli/demo_chat/person.rs leaves an answer as it is."""
    if "edited" in asked:
        return asked["edited"].strip() == answer.strip()
    holds = lambda text, part: part.lower() in text.lower()  # noqa: E731
    named = all(not holds(answer, x) and (not holds(asked["prompt"], x) or holds(answer, own)) for x, own in NAMES)
    return named and ended and len(answer.split()) <= 14 and "\n" not in answer.strip()


class Measured:
    """Runs a process to its end: times, and peaks of memory. `lines`: (time, line) of its standard error."""

    def __init__(self, command, env):
        begin, self.lines, self.peaks = time.perf_counter(), [], {"Rss": 0, "Anonymous": 0}
        command, pipe = [str(c) for c in command], subprocess.PIPE
        child = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | env)
        done, rollup = threading.Event(), f"/proc/{child.pid}/smaps_rollup"
        listen = lambda: self.lines.extend((time.perf_counter(), x) for x in child.stderr)  # noqa: E731
        threads = [threading.Thread(target=listen), threading.Thread(target=self.sample, args=(rollup, done))]
        [thread.start() for thread in threads]
        self.out = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        self.wall, self.cpu = time.perf_counter() - begin, usage.ru_utime + usage.ru_stime
        done.set()
        [thread.join() for thread in threads]
        if status:
            said = "".join(line for _, line in self.lines)[-3000:]
            sys.exit(f"{' '.join(command)}\nfailed with status {status}: {said}")

    def sample(self, file, done):
        while not done.wait(0.05):
            with contextlib.suppress(OSError):  # it may have just ended
                for name, kib in re.findall(r"(?m)^(Rss|Anonymous): +(\d+)", Path(file).read_text()):
                    self.peaks[name] = max(self.peaks[name], int(kib) / 1024)

    def costs(self, learning):
        return {"wall": self.wall, "learning": learning, "cpu": self.cpu, **self.peaks}


class Acclimate:
    def __init__(self, options, folder, work):
        self.binary, self.work, self.home = options.acclimate, work, work / "home"
        self.run("init", self.home, "--model", folder / "model.onnx", "--rank", RANK)

    def run(self, command, *arguments):
        call = [str(self.binary), command, *map(str, arguments), "--json", "--quiet"]
        done = subprocess.run(call, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(call)}\nfailed with exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        return json.loads(done.stdout)

    def ask(self, script, most, profile):
        """Rows of what is asked, the greedy answer, whether it ended, and what the person makes of it."""
        file, rows = self.work / "prompts.jsonl", []
        talks = [json.dumps({"messages": [{"role": "user", "content": asked["prompt"]}]}) for asked in script]
        file.write_text("\n".join(talks))
        flags = ["--temperature", 0, "--max-tokens", most, "--profile", profile]
        for asked, got in zip(script, self.run("generate", self.home, "--file", file, *flags), strict=True):
            answer, ended = got["text"], got["finish_reason"] == "stop"
            wanted = asked.get("edited", asked.get("example"))
            rows.append({"asked": asked, "id": got["id"], "answer": answer, "ended": ended, "edited": wanted})
        return rows

    def learn(self, rows, options):
        """What `train` says and costs, and the epochs of the fit that serves."""
        for row in rows:
            self.run("feedback", self.home, row["id"], "--edit", row["edited"])
        command = [self.binary, "train", self.home, "--json", "--threads", options.threads, "--seed", options.seed]
        steps = ["--steps", options.steps] if options.steps else []
        ran = Measured(command + steps, {"ACCLIMATE_LOG": "acclimate=debug"})
        report, ends = json.loads(ran.out), [(t, line) for t, line in ran.lines if "epoch of a language fit" in line]
        # Each fit tells the end of each epoch. The last one began an epoch before its first end.
        first = max((i for i, (_, line) in enumerate(ends) if "epoch=0 " in line), default=0)
        times = [t for t, _ in ends[first:]] if report["promoted"] else []
        learning = (times[-1] - times[0]) * len(times) / (len(times) - 1) if len(times) > 1 else None
        return report, ran.costs(learning), len(times)


def peer_learn(spec):
    """One fit by a trainer of TRL, in a process of its own; prints the seconds of its loop."""
    import datasets
    import trl
    from peft import LoraConfig

    torch.set_num_threads(spec["threads"])
    model = AutoModelForCausalLM.from_pretrained(spec["folder"], dtype="float32")
    lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=spec["targets"], task_type="CAUSAL_LM")
    kinds = {"sft": (trl.SFTConfig, trl.SFTTrainer), "dpo": (trl.DPOConfig, trl.DPOTrainer)}
    settings, trainer = kinds[spec["loss"]]
    args = settings(
        output_dir=spec["out"], use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, save_strategy="no",
        per_device_train_batch_size=BATCH, num_train_epochs=spec["epochs"], seed=spec["seed"],
        max_steps=spec["steps"], gradient_checkpointing=spec["checkpointing"],
        **({"learning_rate": spec["rate"]} if spec["rate"] else {}),
    )  # fmt: skip
    data, tokenizer = datasets.Dataset.from_list(spec["rows"]), AutoTokenizer.from_pretrained(spec["folder"])
    trainer = trainer(model=model, args=args, train_dataset=data, processing_class=tokenizer, peft_config=lora)
    begin = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begin
    trainer.save_model(spec["out"])
    print("\n" + json.dumps({"learning": seconds, "steps": trainer.state.global_step, "rate": args.learning_rate}))


def peer(name, spec, rows, rates, work):
    """(what a peer costs, where its adapter is)."""
    loss, rate, *rest = name.split(":")
    keys = {"completion": "edited"} if loss == "sft" else {"chosen": "edited", "rejected": "answer"}
    turn = lambda role, text: [{"role": role, "content": text}]  # noqa: E731
    texts = [{k: turn("assistant", r[v]) for k, v in keys.items()} for r in rows]
    texts = [{"prompt": turn("user", r["asked"]["prompt"]), **text} for r, text in zip(rows, texts, strict=True)]
    rate, out, file = rates[rate] if rate in rates else float(rate), work / name.replace(":", "-"), work / "spec.json"
    spec = spec | {"loss": loss, "rate": rate, "checkpointing": "gc" in rest, "rows": texts, "out": str(out)}
    file.write_text(json.dumps(spec))
    ran = Measured([sys.executable, __file__, "--learn", file], {"OMP_NUM_THREADS": str(spec["threads"])})
    said = json.loads(ran.out.strip().splitlines()[-1])
    return said | ran.costs(said["learning"]), out


def from_onnx(path, folder, ids):
    """The torch model of an ONNX file by the names of its weights and products. ONNX Runtime must agree with it."""
    import onnx
    import onnxruntime

    graph = onnx.load(path).graph
    known = {t.name: t for t in graph.initializer}
    made = {output: node for node in graph.node for output in node.output}
    product = {n.name[1:-7].replace("/", "."): n for n in graph.node if n.name.endswith("/MatMul")}

    def value(name):
        if name in known:
            return onnx.numpy_helper.to_array(known[name])
        assert made[name].op_type == "Transpose", f"{name} is made by {made[name].op_type}"
        return value(made[name].input[0]).T

    def named(names, key):
        return next((name for name in names if f".{name}".endswith(f".{key}")), None)

    def find(key):
        at = named(product, key.removesuffix(".weight"))
        return torch.tensor(value(product[at].input[1]).T if at else value(named(known, key)))

    config = AutoConfig.from_pretrained(folder)
    model = AutoModelForCausalLM.from_config(config).float().eval()
    model.load_state_dict({key: find(key) for key in model.state_dict()})
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    row = np.array([ids])
    feeds = {"input_ids": row, "attention_mask": np.ones_like(row), "position_ids": np.arange(len(ids))[None]}
    empty = np.zeros((1, config.num_key_value_heads, 0, config.head_dim), np.float32)
    scores = session.run(["logits"], {i.name: feeds.get(i.name, empty) for i in session.get_inputs()})[0]
    with torch.no_grad():
        apart = np.abs(scores - model(torch.tensor(row)).logits.numpy()).max()
    assert apart < 1e-3, f"{path}: torch and ONNX Runtime are {apart:.1e} apart"
    return model


class Judge:
    def __init__(self, tokenizer, held, most):
        self.tokenizer, self.held, self.most, self.end = tokenizer, held, most, tokenizer.eos_token_id

    def tokens(self, prompt, answer, ended=True):
        """(tokens, where the answer begins); with the token that ends the answer if it ended."""
        talk = [{"role": "user", "content": prompt}]
        before = self.tokenizer.apply_chat_template(talk, add_generation_prompt=True)
        ids = self.tokenizer.apply_chat_template([*talk, {"role": "assistant", "content": answer}])
        assert ids[: len(before)] == before, "the template renders a prompt otherwise where an answer follows"
        return ids[: ids.index(self.end, len(before)) + ended], len(before)

    @torch.no_grad()
    def likelihood(self, model, texts):
        """Mean log-likelihood of a token; texts: (tokens, where those that count begin)."""
        total = count = 0
        for ids, start in texts:
            scores = model(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1)
            total += scores.gather(1, torch.tensor(ids[start:])[:, None]).sum().item()
            count += len(ids) - start
        return total / count

    def answers(self, model):
        """Greedy answers to the held-out prompts, and whether each came to its end."""
        asked = [ids[:start] for ids, start in (self.tokens(row["asked"]["prompt"], "") for row in self.held)]
        asked = self.tokenizer.pad({"input_ids": asked}, padding_side="left", return_tensors="pt")
        how = {"do_sample": False, "eos_token_id": self.end, "pad_token_id": self.end, "max_new_tokens": self.most}
        out = model.generate(**asked, **how)[:, asked["input_ids"].shape[1] :].tolist()
        return [(self.tokenizer.decode(row, skip_special_tokens=True), self.end in row) for row in out]

    def __call__(self, model):
        neutral = (REPO / "src/runtime/language/neutral.txt").read_text().strip().split("\n\n")
        prose = [(self.tokenizer(p.strip().replace("\n", " "))["input_ids"], 1) for p in neutral]
        answers = self.answers(model.eval())
        texts = [self.tokens(row["asked"]["prompt"], row["edited"]) for row in self.held]
        originals = [self.tokens(row["asked"]["prompt"], row["answer"], row["ended"]) for row in self.held]
        found = {"edited": self.likelihood(model, texts), "original": self.likelihood(model, originals)}
        found["wished"] = sum(liked(row["asked"], *got) for row, got in zip(self.held, answers, strict=True))
        found["perplexity"] = math.exp(-self.likelihood(model, prose))
        return found | {"answers": [text for text, _ in answers]}


def show(results, n):
    columns = {"edited": ".3f", "original": ".3f", "wished": "", "perplexity": ".2f"}
    columns |= {"wall": ".1f", "learning": ".1f", "cpu": ".1f", "Rss": ".0f", "Anonymous": ".0f"}
    print(f"\n{'':<18}" + "".join(f"{title:>11}" for title in columns))
    for name, r in results.items():
        cells = [f"{r[k]:{f}}" if r.get(k) is not None else "–" for k, f in columns.items()]
        cells[2] += f" of {n}"
        print(f"{name:<18}" + "".join(f"{cell:>11}" for cell in cells))


def compare(options, work):
    from peft import PeftModel

    sys.stdout.reconfigure(line_buffering=True)
    torch.set_num_threads(options.threads)
    folder, most, script = options.model, 64, REPO / "models/chat_demo.json"
    if str(folder) == "tiny":
        folder, most, script = work / "tiny", 160, work / "tiny/prompts.json"
        zipfile.ZipFile(REPO / "models/tiny_chat.zip").extractall(folder)
    script = json.loads(script.read_text())
    NAMES[:] = script.get("names", [])
    print(f"{folder.name}, {options.threads} thread{'s' * (options.threads > 1)}; machine: {machine()}")
    ours = Acclimate(options, folder, work)
    held = ours.ask(script["held_out"][: options.prompts], most, "held-out")
    rows = ours.ask(script["edits"][: options.prompts], most, "default")
    rows = [row for row in rows if row["edited"] not in ("", row["answer"].strip())]
    report, costs, epochs = ours.learn(rows, options)
    print(f"acclimate: {len(rows)} edits, {'promoted' if report['promoted'] else 'not promoted'}: {report['reason']}")
    a_pass = math.ceil(len(rows) / BATCH)
    epochs = epochs or min(max(math.ceil(STEPS / a_pass), EPOCHS[0]), EPOCHS[1])
    width = AutoConfig.from_pretrained(folder).hidden_size
    rates = {"default": None, "acclimate": min(max(7.2e-4 * (576 / width) ** 1.5, 1e-4), 4e-3)}
    adapts = [s["name"] for s in ours.run("inspect", folder / "model.onnx")["sites"] if s["adapts"]]
    targets = [re.search(r"model/layers.*(?=/MatMul)", name)[0].replace("/", ".") for name in adapts]
    spec = {"folder": str(work / "torch"), "targets": targets, "epochs": epochs, "steps": options.steps or -1}
    spec |= {"threads": options.threads, "seed": options.seed}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    judge = Judge(tokenizer, held, most)
    sample = judge.tokens(held[0]["asked"]["prompt"], held[0]["edited"])[0]
    base = from_onnx(folder / "model.onnx", folder, sample)
    base.save_pretrained(work / "torch")
    tokenizer.save_pretrained(work / "torch")
    results = {"base": judge(base)}
    same = sum(row["answer"].strip() == got.strip() for row, got in zip(held, results["base"]["answers"], strict=True))
    print(f"torch gives {same} of {len(held)} answers of acclimate's base; {options.steps or epochs * a_pass} steps")
    results["acclimate"] = costs | results["base"]
    if report["promoted"]:
        ours.run("export", ours.home, "--merged", work / "merged.onnx")
        results["acclimate"] |= judge(from_onnx(work / "merged.onnx", folder, sample))
    for name in options.peers:
        costs, adapter = peer(name, spec, rows, rates, work)
        model = AutoModelForCausalLM.from_pretrained(work / "torch", dtype="float32")
        results[name] = costs | judge(PeftModel.from_pretrained(model, adapter))
    show(results, len(held))
    found = {"machine": machine(), "model": folder.name, "threads": options.threads, "epochs": epochs}
    return found | {"train": report, "edits": rows, "held_out": held, "results": results}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=REPO / "models/fetched/smollm2-chat", help="a folder, or tiny")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peers", nargs="*", default=PEERS, metavar="PEER", help=f"default: {' '.join(PEERS)}")
    parser.add_argument("--steps", type=int, help="most steps of a fit, for a quick try")
    parser.add_argument("--prompts", type=int, default=20, help="most edits, and most prompts that are held out")
    parser.add_argument("--seed", type=int, default=0)
    found = shutil.which(REPO / "target/release/acclimate") or shutil.which("acclimate")
    parser.add_argument("--acclimate", type=Path, default=found, help="default: target/release/acclimate or in PATH")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--learn", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.learn:
        return peer_learn(json.loads(options.learn.read_text()))
    if not options.acclimate:
        parser.error("no acclimate binary found: cargo build --release, or --acclimate PATH")
    with tempfile.TemporaryDirectory() as work:
        found = json.dumps(compare(options, Path(work)), indent=1)
    if options.json:
        options.json.write_text(found + "\n")


if __name__ == "__main__":
    main()
