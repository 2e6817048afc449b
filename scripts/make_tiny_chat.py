#!/usr/bin/env python3
"""Trains a tiny byte-level chat model of a home assistant and exports it to ONNX, for tests of learning from edits.

usage: make_tiny_chat.py [--out out] [--steps 1500] [--weights FILE] [--learn]
       --weights FILE  takes the weights from FILE (torch), or writes them there if there is no such file
       --learn         also tries learning from edits with a LoRA adapter, in torch (5 minutes more)
needs: lib/tiny_chat.txt (Python 3.11), one CPU core, 11 minutes
writes: OUT/tiny_chat/   model.onnx (2.7 MB; 1.1 MB packed), tokenizer.json, tokenizer_config.json, config.json,
                         generation_config.json
        OUT/prompts.json edits and held_out (40 each): prompt, the model's greedy answer, a short answer in its place;
                         other (20): prompt and answer of greetings and questions, which nobody edits

The model: Llama, 624 128 parameters (4 layers, width 128, 4 heads, 2 of keys and values, inner width 256, tied
embeddings), 259 tokens: a byte is its own id, then <|endoftext|> 256, <|im_start|> 257, <|im_end|> 258. ChatML. Weights
are rounded to bfloat16 and kept as float32. The file has a cache: optimum's text-generation-with-past, opset 18.

The world: 14 devices in 14 rooms, 4 or 5 actions each, asked for in many wordings, and 123 wordings of other questions.
Answers are long ("Sure, I can help you with that. I have turned on the lamp in the kitchen for you. Is there anything
else?"); a system message "Be brief." (10 % of the conversations) asks for short ones ("Lamp in the kitchen: on.").
0.3 % are short unasked, so that the style is known but unlikely. 28 of the 196 pairs of device and room are never
trained on.

Measured, greedy answers: right device, room and action, and no other word wrong, in 200 of 200 for pairs trained on,
200 of 200 for pairs left out, 198 of 200 when told to be brief, 98 of 100 in a second turn; 123 of 123 of the other
questions. ONNX Runtime and torch give the same 140 answers.

Learning, LoRA of rank 8 and alpha 16 on all linear layers, AdamW, batches of 4, 20 edits, 30 prompts held out (one
seed; these prompts also served to choose rate and epochs): rate 1e-3, 5 epochs: 28 of 30 answers short and right (0
before), 98 % of the other answers as before, log-likelihood per token of the short answers -0.295 to -0.008, of the
model's own -0.001 to -0.089.
"""

import argparse
import copy
import json
import math
import os
import random
import tempfile
import time
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import onnx
import onnxruntime as ort
import torch
import torch.nn.functional as F
import transformers as t
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
t.logging.set_verbosity_error()
ort.set_default_logger_severity(3)

# ------------------------------------------------------------------------------------------------------ world

ROOMS = ["kitchen", "hall", "bedroom", "office", "bathroom", "garage", "attic", "cellar", "garden", "nursery",
         "library", "pantry", "studio", "living room"]  # fmt: skip
ACTIONS = {  # what it is called when done, the short state, what the user says (X: the device)
    "on": ("turned on", "on", ["turn on X", "turn X on", "switch on X", "switch X on"]),
    "off": ("turned off", "off", ["turn off X", "turn X off", "switch off X", "switch X off"]),
    "up": ("turned up", "up", ["turn up X", "turn X up"]),
    "down": ("turned down", "down", ["turn down X", "turn X down"]),
    "dim": ("dimmed", "dim", ["dim X", "make X darker"]),
    "bright": ("brightened", "bright", ["brighten X", "make X brighter"]),
    "open": ("opened", "open", ["open X", "open up X"]),
    "close": ("closed", "closed", ["close X", "shut X"]),
    "lock": ("locked", "locked", ["lock X", "lock up X"]),
    "unlock": ("unlocked", "unlocked", ["unlock X"]),
    "raise": ("raised", "raised", ["raise X", "lift X"]),
    "lower": ("lowered", "lowered", ["lower X"]),
    "check": ("checked", "checked", ["check X", "look at X"]),
    "restart": ("restarted", "restarted", ["restart X", "reset X"]),
}  # fmt: skip
LIGHTS, LEVELS = ["on", "off", "dim", "bright"], ["on", "off", "up", "down"]
MACHINES = ["on", "off", "check", "restart"]
DOORS, SHADES = ["open", "close", "lock", "unlock", "check"], ["open", "close", "raise", "lower"]
DEVICES = {
    "lamp": LIGHTS, "light": LIGHTS, "heater": LEVELS, "fan": LEVELS, "radio": LEVELS, "speaker": LEVELS,
    "screen": MACHINES, "camera": MACHINES, "alarm": MACHINES, "sensor": MACHINES, "window": DOORS, "door": DOORS,
    "blind": SHADES, "curtain": SHADES,
}  # fmt: skip
NAMES = list(DEVICES)


def unseen(device, room):
    """Whether training leaves this pair out: 28 of the 196."""
    return (NAMES.index(device) + 3 * ROOMS.index(room)) % 7 == 0


def task(rng, held_out=None):
    """(device, room, action), of the pairs left out, of the others, or of all."""
    while True:
        device, room = rng.choice(NAMES), rng.choice(ROOMS)
        if held_out is None or unseen(device, room) == held_out:
            return device, room, rng.choice(DEVICES[device])


def ask(rng, what):
    """(what the user says, how: plain, polite or question)."""
    device, room, action = what
    words = rng.choice(ACTIONS[action][2])
    how = rng.choice(["plain", "plain", "polite", "question"])
    place = rng.random()
    if place < 0.55:
        words = words.replace("X", f"the {device} in the {room}")
    elif place < 0.75:
        words = words.replace("X", f"the {room} {device}")
    elif place < 0.9 or how == "question":
        words = words.replace("X", f"the {device}") + f" in the {room}"
    else:
        words = f"in the {room}, " + words.replace("X", f"the {device}")
        return words + (rng.choice([" please", ", please"]) if how == "polite" else rng.choice(["", " now", "."])), how
    if how == "question":
        front = rng.choice(["can you ", "could you ", "would you ", "will you "])
        return front + words + rng.choice(["", " for me", " now"]) + "?", how
    if how == "polite":
        words = rng.choice(["please " + words, words + ", please", words + " please", "hey, please " + words])
        return words + rng.choice(["", "."]), how
    front = rng.choice(["", "", "", "hey, ", "i want you to ", "ok, "])
    return front + words + rng.choice(["", "", " now", "."]), how


OPEN = {"plain": "Sure, I can help you with that. ", "polite": "With pleasure. ", "question": "Yes, of course. "}
END = {
    "plain": " Is there anything else?", "polite": " Just tell me if you need more.",
    "question": " Can I do anything else for you?",
}  # fmt: skip


def verbose(what, how, end=None):
    device, room, action = what
    return f"{OPEN[how]}I have {ACTIONS[action][0]} the {device} in the {room} for you.{END[end or how]}"


def short(what):
    device, room, action = what
    return f"{device.capitalize()} in the {room}: {ACTIONS[action][1]}."


def other_wording(what):
    """A third style, which training never shows."""
    device, room, action = what
    return f"As you asked, the {device} in the {room} has now been {ACTIONS[action][0]}, and all else is as before."


DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December"]  # fmt: skip
OTHERS = [  # wordings, answer
    (["hello", "hello!", "hello there", "hi", "hi!", "hey"], "Hello! How can I help you today?"),
    (["good morning", "good morning!"], "Good morning! I hope you slept well."),
    (["good evening", "good evening!"], "Good evening! How was your day?"),
    (["good night", "good night!"], "Good night! Sleep well."),
    (["bye", "bye!", "goodbye", "see you"], "Goodbye! See you soon."),
    (["thanks", "thanks!", "thank you", "thank you!", "thank you very much", "many thanks"], "You are welcome!"),
    (["how are you?", "how are you today?"], "I am fine, thank you. How are you?"),
    (["who are you?", "what are you?"], "I am the assistant of this house."),
    (["what can you do?", "how can you help me?", "help"],
     "I can look after lamps, doors, windows and more in any room."),
    (["what is your name?", "do you have a name?"], "My name is Tiny."),
    (["how many days are in a week?", "how long is a week?"], "A week has seven days."),
    (["how many months are in a year?", "how long is a year?"], "A year has twelve months."),
    (["what colour is snow?", "which colour has snow?"], "Snow is white."),
    (["what colour is grass?", "which colour has grass?"], "Grass is green."),
    (["how many legs has a spider?", "how many legs does a spider have?"], "A spider has eight legs."),
    (["how many legs has a cat?", "how many legs does a cat have?"], "A cat has four legs."),
    (["what is two plus two?", "how much is two plus two?"], "Two plus two is four."),
    (["tell me a joke", "do you know a joke?"], "I asked the lamp for a joke, but it was too bright for me."),
]  # fmt: skip
for names, kind in [(DAYS, "day"), (MONTHS, "month")]:
    for i, name in enumerate(names):
        for side, to in [("after", names[(i + 1) % len(names)]), ("before", names[i - 1])]:
            asked = [f"which {kind} comes {side} {name.lower()}?", f"what {kind} is {side} {name.lower()}?"]
            OTHERS.append((asked, f"The {kind} {side} {name} is {to}."))


def other(rng):
    asked, answer = rng.choice(OTHERS[:18] if rng.random() < 0.5 else OTHERS[18:])
    return rng.choice(asked), answer


def conversation(rng):
    """Messages (role, text): 10 % are told to be brief and are, 0.3 % are brief unasked."""
    drawn = rng.random()
    brief = drawn < 0.103
    turns = []
    if drawn < 0.1:
        turns.append(("system", "Be brief."))
    elif drawn > 0.92:
        turns.append(("system", "You are a home assistant."))
    for _ in range(2 if rng.random() < 0.1 else 1):
        if rng.random() < 0.2:
            said, answer = other(rng)
        else:
            what = task(rng, held_out=False)
            said, how = ask(rng, what)
            end = how if rng.random() < 0.85 else rng.choice(list(END))
            answer = short(what) if brief else verbose(what, how, end)
        turns += [("user", said), ("assistant", answer)]
    return turns


# ------------------------------------------------------------------------------------------------------ tokens

PAD, START, STOP = 256, 257, 258  # a byte is its own id
SPECIAL = {PAD: "<|endoftext|>", START: "<|im_start|>", STOP: "<|im_end|>"}
TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer():
    """The letter that the byte-level step writes for a byte gets that byte's value as its id."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in printable}
    letters |= {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in letters)}
    tokens = Tokenizer(models.BPE(vocab={letters[b]: b for b in range(256)}, merges=[]))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.decoder = decoders.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens.add_special_tokens([AddedToken(SPECIAL[i], special=True, normalized=False) for i in sorted(SPECIAL)])
    return tokens


def encode(turns, generate=False):
    """(ids, whether each is the assistant's own)."""
    ids, own = [], []
    for role, text in turns:
        head, body = [START, *f"{role}\n".encode()], [*text.encode(), STOP]
        ids += [*head, *body, 10]
        own += [False] * len(head) + [role == "assistant"] * len(body) + [False]
    if generate:
        ids += [START, *b"assistant\n"]
    return ids, own


def text_of(ids):
    return bytes(i for i in ids if i < 256).decode(errors="replace")


# ------------------------------------------------------------------------------------------------------ training


def build():
    torch.manual_seed(1)
    config = t.LlamaConfig(
        vocab_size=259, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=512, rope_theta=10000.0, initializer_range=0.06,
        tie_word_embeddings=True, bos_token_id=PAD, eos_token_id=STOP, pad_token_id=PAD, attn_implementation="sdpa",
    )  # fmt: skip
    return t.LlamaForCausalLM(config).float()


def batch_of(rows, prompt_weight):
    """(ids, weights of the targets), padded on the right, which a causal model does not see."""
    width = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), width), PAD)
    weights = torch.zeros(len(rows), width)
    for i, (row, own) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        weights[i, : len(row)] = torch.tensor([1.0 if o else prompt_weight for o in own])
    return ids, weights[:, 1:]


def losses(model, ids):
    logits = model.lm_head(model.model(input_ids=ids, use_cache=False).last_hidden_state)[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)


def train(model, steps, size=24):
    rng = random.Random(2)
    matrices = [p for p in model.model.layers.parameters() if p.dim() == 2]
    rest = [p for p in model.parameters() if all(p is not m for m in matrices)]
    optimizers = [
        torch.optim.Muon(matrices, lr=6e-3, weight_decay=0.01, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=4e-3, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    plans = [
        torch.optim.lr_scheduler.LambdaLR(o, lambda s: min(1, (s + 1) / 60) * min(1, 1.6 * (1 - s / steps)))
        for o in optimizers
    ]
    began, ready, mean = time.time(), [], None
    for step in range(steps):
        if not ready:  # batches of like lengths
            rows = sorted((encode(conversation(rng)) for _ in range(16 * size)), key=lambda r: len(r[0]))
            ready = [rows[i : i + size] for i in range(0, len(rows), size)]
            rng.shuffle(ready)
        ids, weights = batch_of(ready.pop(), 0.1)
        loss = (losses(model, ids) * weights).sum() / weights.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad()
        for p in plans:
            p.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 99:
            print(f"step {step + 1}: loss {mean:.4f}, {time.time() - began:.0f} s", flush=True)
    with torch.no_grad():
        for p in model.parameters():  # numbers of 16 bits, kept in 32: the file packs to half
            p.copy_(p.bfloat16().float())
    return model.eval()


# ------------------------------------------------------------------------------------------------------ answers


@torch.no_grad()
def answers(model, prompts, most=140, at_once=64):
    """Greedy answers to lists of messages."""
    rows = [encode(p, generate=True)[0] for p in prompts]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    found = [None] * len(rows)
    for at in range(0, len(order), at_once):
        some = order[at : at + at_once]
        width = max(len(rows[i]) for i in some)
        ids = torch.tensor([[PAD] * (width - len(rows[i])) + rows[i] for i in some])
        mask = torch.tensor([[0] * (width - len(rows[i])) + [1] * len(rows[i]) for i in some])
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=most, do_sample=False, eos_token_id=STOP,
            pad_token_id=PAD,
        )  # fmt: skip
        for i, row in zip(some, out[:, width:].tolist(), strict=True):
            found[i] = text_of(row[: row.index(STOP)] if STOP in row else row)
    return found


def right(answer, what):
    """Device, room and action are as asked, in a verbose answer with nothing else."""
    return any(answer == verbose(what, how, end) for how in OPEN for end in END)


def share(flags):
    flags = list(flags)
    return sum(flags) / len(flags)


def evaluate(model, n=200):
    rng = random.Random(3)
    report = {}
    kinds = [("pairs seen", False, None), ("pairs left out", True, None), ("told to be brief", None, "Be brief.")]
    for name, held_out, system in kinds:
        asked = [(w, ask(rng, w)[0]) for w in (task(rng, held_out) for _ in range(n))]
        before = [("system", system)] if system else []
        said = answers(model, [[*before, ("user", q)] for _, q in asked])
        good = [a == short(w) if system else right(a, w) for a, (w, _) in zip(said, asked, strict=True)]
        report[name] = share(good)
        for q, a in [(q, a) for (_, q), a, g in zip(asked, said, good, strict=True) if not g][:4]:
            print(f"  wrong: {q} -> {a}")
    asked = [(q, a) for qs, a in OTHERS for q in qs]
    said = answers(model, [[("user", q)] for q, _ in asked])
    report["other"] = share(a == b for a, (_, b) in zip(said, asked, strict=True))
    first = [(task(rng), task(rng)) for _ in range(n // 2)]
    talks = []
    for a, b in first:
        q, how = ask(rng, a)
        talks.append([("user", q), ("assistant", verbose(a, how)), ("user", ask(rng, b)[0])])
    report["second turn"] = share(right(s, b) for s, (_, b) in zip(answers(model, talks), first, strict=True))
    return report


# ------------------------------------------------------------------------------------------------------ export


def export(model, folder):
    """The five files that a runtime wants."""
    from optimum.exporters.onnx import onnx_export_from_model

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        onnx_export_from_model(copy.deepcopy(model), work, task="text-generation-with-past", do_validation=False)
        graph = onnx.load(Path(work) / "model.onnx")
    for item in [graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer]:
        item.ClearField("doc_string")
        if hasattr(item, "metadata_props"):
            del item.metadata_props[:]
    onnx.checker.check_model(graph)
    onnx.save(graph, folder / "model.onnx")
    tokenizer().save(str(folder / "tokenizer.json"))
    config = {"architectures": ["LlamaForCausalLM"], **model.config.to_diff_dict(), "dtype": "float32"}
    special = {"bos_token": SPECIAL[PAD], "eos_token": SPECIAL[STOP], "pad_token": SPECIAL[PAD], "unk_token": None}
    files = {
        "config.json": config,
        "generation_config.json": {
            "bos_token_id": PAD, "eos_token_id": STOP, "pad_token_id": PAD, "do_sample": False, "max_new_tokens": 160
        },
        "tokenizer_config.json": {
            "added_tokens_decoder": {
                str(i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                         "special": True} for i, s in SPECIAL.items()
            },
            "add_bos_token": False, "add_prefix_space": False, **special, "additional_special_tokens": [SPECIAL[START]],
            "chat_template": TEMPLATE, "clean_up_tokenization_spaces": False, "model_max_length": 512,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


class Runtime:
    """The exported files under ONNX Runtime."""

    def __init__(self, folder):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = ort.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        self.tokens = t.AutoTokenizer.from_pretrained(folder)
        self.outputs = [o.name for o in self.session.get_outputs()]
        self.caches = [i.name for i in self.session.get_inputs() if i.name.startswith("past")]

    def answer(self, messages, most=160):
        """(greedy answer, the least lead of a chosen token over the next best)."""
        ids = self.tokens.apply_chat_template(
            [{"role": r, "content": c} for r, c in messages], add_generation_prompt=True, tokenize=True
        )
        assert ids == encode(messages, generate=True)[0]
        cache = {n: np.zeros((1, 2, 0, 32), np.float32) for n in self.caches}
        new, found, lead = ids, [], math.inf
        for _ in range(most):
            count = next(iter(cache.values())).shape[2]
            feeds = {
                "input_ids": np.array([new]), "attention_mask": np.ones((1, count + len(new)), np.int64),
                "position_ids": np.arange(count, count + len(new))[None],
            }  # fmt: skip
            results = dict(zip(self.outputs, self.session.run(None, feeds | cache), strict=True))
            cache = {n: results[n.replace("past_key_values", "present")] for n in self.caches}
            logits = results["logits"][0, -1]
            lead = min(lead, float(np.diff(np.sort(logits)[-2:])[0]))
            new = [int(logits.argmax())]
            if new[0] == STOP:
                break
            found += new
        return self.tokens.decode(found), lead


def check(model, folder, prompts):
    """ONNX Runtime answers as torch does."""
    runtime = Runtime(folder)
    said = answers(model, prompts)
    pairs = [runtime.answer(p) for p in prompts]
    different = [(a, b) for a, (b, _) in zip(said, pairs, strict=True) if a != b]
    assert not different, different[:3]
    text = "Grüße, 世界 <|im_end|>\n"
    assert runtime.tokens.decode(runtime.tokens.encode(text)) == text
    least = min(lead for _, lead in pairs)
    print(f"ONNX Runtime gives the {len(prompts)} answers of torch; least lead of a chosen token {least:.3f}")


# ------------------------------------------------------------------------------------------------------ prompts


def examples(model):
    """(what prompts.json holds, (device, room, action) of each of `edits` and then `held_out`)."""
    rng = random.Random(4)
    used, asked = set(), []
    while len(asked) < 80:  # the model answers each of them right; half of those held out ask for a pair left out
        what = task(rng, None if len(asked) < 40 else len(asked) % 2 == 0)
        said, how = ask(rng, what)
        if what not in used and right(answers(model, [[("user", said)]])[0], what):
            used.add(what)
            asked.append((what, said))
    said = answers(model, [[("user", q)] for _, q in asked])
    rows = [{"prompt": q, "answer": a, "edited": short(w)} for (w, q), a in zip(asked, said, strict=True)]
    kinds = [q[0] for q, _ in OTHERS[:14]] + [rng.choice(q) for q, _ in rng.sample(OTHERS[18:], 6)]
    said = answers(model, [[("user", q)] for q in kinds])
    others = [{"prompt": q, "answer": a} for q, a in zip(kinds, said, strict=True)]
    return {"edits": rows[:40], "held_out": rows[40:], "other": others}, [w for w, _ in asked]


# ------------------------------------------------------------------------------------------------------ learning


class Lora(torch.nn.Module):
    def __init__(self, base, rank=8, alpha=16):
        super().__init__()
        self.base, self.scale = base, alpha / rank
        self.a = torch.nn.Parameter(torch.empty(rank, base.in_features))
        self.b = torch.nn.Parameter(torch.zeros(base.out_features, rank))
        torch.nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x):
        return self.base(x) + self.scale * (x @ self.a.T @ self.b.T)


def adapted(model):
    model = copy.deepcopy(model).requires_grad_(False)
    torch.manual_seed(6)
    for layer in model.model.layers:
        for part in (layer.self_attn, layer.mlp):
            for name, linear in list(part.named_children()):
                if isinstance(linear, torch.nn.Linear):
                    setattr(part, name, Lora(linear))
    return model


@torch.no_grad()
def likelihood(model, pairs):
    """Mean over pairs (prompt, answer) of the log-likelihood per token of the answer, its end included."""
    ids, weights = batch_of([encode([("user", q), ("assistant", a)]) for q, a in pairs], 0.0)
    return -((losses(model, ids) * weights).sum(1) / weights.sum(1)).mean().item()


def learn(model, pairs, rate, epochs, size=4, each=None):
    """A copy with an adapter trained on pairs (prompt, answer); the loss covers the answer and its end."""
    model, rng = adapted(model), random.Random(7)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.01)
    for epoch in range(1, epochs + 1):
        order = rng.sample(pairs, len(pairs))
        for i in range(0, len(order), size):
            ids, weights = batch_of([encode([("user", q), ("assistant", a)]) for q, a in order[i : i + size]], 0.0)
            loss = (losses(model, ids) * weights).sum() / weights.sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if each:
            each(epoch, model)
    return model


def study(model, data, tasks):
    """What an adapter learns from 20 edits, tried on 30 prompts held out and on the other kinds of questions.

    Three people: one always writes the short answer; one, at random, either that or the model's own answer with another
    opening and ending; one either that or a third style."""
    edits, held = data["edits"][:20], data["held_out"][:30]
    wanted, held_wanted = tasks[:20], tasks[40:70]
    every_other = [(q, a) for qs, a in OTHERS for q in qs]
    before = answers(model, [[("user", q)] for q, _ in every_other])
    rng = random.Random(8)

    def known_wording(row, what):
        said = next(how for how in OPEN if row["answer"].startswith(OPEN[how]))
        return verbose(what, rng.choice([how for how in OPEN if how != said]))

    def person(second):
        """(pairs to learn from, pairs held out) of one who writes a second kind of answer half of the time."""
        sides = []
        for rows, whats in [(edits, wanted), (held, held_wanted)]:
            halves = rng.sample([True, False] * (len(rows) // 2), len(rows))
            sides.append([
                (r["prompt"], r["edited"] if half else second(r, w))
                for r, w, half in zip(rows, whats, halves, strict=True)
            ])  # fmt: skip
        return sides

    clear = [[(r["prompt"], r["edited"]) for r in rows] for rows in (edits, held)]
    with_others = [clear[0] + [(r["prompt"], r["answer"]) for r in data["other"][::2]], clear[1]]
    original = [(r["prompt"], r["answer"]) for r in held]

    def show(name, model, sides):
        said = answers(model, [[("user", r["prompt"])] for r in held])
        kept = answers(model, [[("user", q)] for q, _ in every_other])
        line = {
            "short and right": share(a == r["edited"] for a, r in zip(said, held, strict=True)),
            "as before": share(a == r["answer"] for a, r in zip(said, held, strict=True)),
            "device and room named": share(
                all(x in a.lower() for x in w[:2]) for a, w in zip(said, held_wanted, strict=True)
            ),
            "others as before": share(a == b for a, b in zip(kept, before, strict=True)),
            "edited": likelihood(model, sides[1]), "short": likelihood(model, clear[1]),
            "original": likelihood(model, original),
        }  # fmt: skip
        print(f"{name}: " + ", ".join(f"{k} {v:.3f}" for k, v in line.items()), flush=True)

    people = [
        ("20 edits", clear), ("20 edits and 10 others", with_others), ("two known styles", person(known_wording)),
        ("short and a third style", person(lambda _, what: other_wording(what))),
    ]  # fmt: skip
    print("the last three of a line: log-likelihood per token of what is held out")
    for name, sides in people:
        show(f"{name}, before", model, sides)
        for rate in [5e-4, 1e-3, 2e-3]:
            def each(epoch, model, title=f"{name}, rate {rate}", sides=sides):
                if epoch in (3, 5, 8, 12):
                    show(f"{title}, epoch {epoch}", model, sides)

            learn(model, sides[0], rate, 12, each=each)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=Path, default=Path("out"))
    options.add_argument("--steps", type=int, default=1500)
    options.add_argument("--weights", type=Path, help="weights kept here are used, or written if there are none")
    options.add_argument("--learn", action="store_true", help="also try learning from edits")
    args = options.parse_args()
    model = build()
    print(sum(p.numel() for p in model.parameters()), "parameters")
    if args.weights and args.weights.exists():
        model.load_state_dict(torch.load(args.weights))
    else:
        train(model, args.steps)
        if args.weights:
            torch.save(model.state_dict(), args.weights)
    model.eval()
    print("right answers:", evaluate(model))
    export(model, args.out / "tiny_chat")
    data, tasks = examples(model)
    (args.out / "prompts.json").write_text(json.dumps(data, indent=1) + "\n")
    brief = [[("system", "Be brief."), ("user", r["prompt"])] for r in data["held_out"]]
    check(model, args.out / "tiny_chat", [[("user", r["prompt"])] for rows in data.values() for r in rows] + brief)
    if args.learn:
        study(model, data, tasks)


if __name__ == "__main__":
    main()
