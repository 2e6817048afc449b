#!/usr/bin/env python3
"""Writes goldens of the losses of TRL with LoRA by PEFT: OUT/model.onnx, OUT/cases.npz and OUT/index.json.

usage: golden_trl.py [--out out/trl] [--pack DIR]     --pack also writes DIR/trl.zip with the three
needs: lib/golden_trl.txt (Python 3.11), no network

The model is a Llama of two layers, exported by optimum (text-generation-with-past). The adapter is LoRA of rank 4 and
alpha 8 on all seven products of both layers; neither A nor B is zero. The reference is the model with the adapter off.

Each case is one batch of a real trainer: SFTTrainer, DPOTrainer or KTOTrainer prepares the texts by its own code, its
collator makes the batch, and its compute_loss gives the loss. Log-probabilities are those of its own calls of the
model, and all gradients are autograd's through all of that. No formula is repeated here, but for a check. It runs in
eval mode and in float64: TRL's own casts to float32 are kept from narrowing. What is stored is rounded to float32.

Arrays of cases.npz (float32 or int64; numbers alone have the shape [1]). SITE is the ONNX node of a product; LoRA adds
(alpha / rank)·(x·A)·B to x·W there.
  lora.SITE.A [in, 4], lora.SITE.B [4, out]      the adapter
  dpo.prompt_len.N, dpo.chosen_ids.N, dpo.rejected_ids.N           pair N: number of prompt tokens; prompt + completion
  kto.prompt_len.N, kto.ids.N, kto.desirable.N                     rated example N: prompt + completion; 1 or 0
  sft.ids.N, sft.mask.N                                            conversation N; 1 where the token is to be learnt
Of each case:
  CASE.loss, CASE.grad.SITE.A, CASE.grad.SITE.B                    gradients with respect to A and B themselves
  dpo_*: policy_chosen, policy_rejected, ref_chosen, ref_rejected  [pairs] sums of log-probabilities over a completion
         coef_chosen, coef_rejected     [pairs] derivative of the loss with respect to the policy's; that of each token
  kto_*: order [n]                      the batch: which of the rated examples, in which order
         policy, ref, coef [n]          as above, in this order
         kl_ids.N, kl_prompt_len.N      (not for apo_zero) the mismatched pairs: prompt N with the completion before it
         kl_policy, kl_ref [n]          their sums of log-probabilities
         kl_mean, kl                    the mean of the differences, and clamped at zero: what the loss has
  sft_*: policy [4]                     sums of log-probabilities over the learnt tokens of a conversation
         token_logp.N, token_coef.N     by token of conversation N; zero where it is not learnt; coef: the derivative of
                                        the loss with respect to token_logp
Note that KTO's gradient is that with kl held, and DFT's that with the tokens' probabilities held, as TRL does.

Before anything is written: central differences of the loss agree with the gradients at two entries of each A and B;
the derivatives agree with the closed forms of losses.md; TRL as it is, in float32, agrees; and ONNX Runtime, which gets
one sequence at a time without padding, agrees on every log-probability, with W + (alpha / rank)·A·B for the policy.
"""

import argparse
import json
import logging
import os
import tempfile
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TQDM_DISABLE": "1", "CUDA_VISIBLE_DEVICES": ""}
warnings.filterwarnings("ignore")

import datasets
import numpy as np
import onnx
import onnxruntime as ort
import torch
import transformers as t
import trl
from onnx import numpy_helper
from optimum.exporters.onnx import onnx_export_from_model
from peft import LoraConfig
from stay_double import StayDouble
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

torch.set_num_threads(1)
ort.set_default_logger_severity(3)
t.logging.set_verbosity_error()
datasets.disable_progress_bars()
logging.disable(logging.WARNING)

VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, INNER, POSITIONS = 136, 32, 2, 4, 2, 48, 64
RANK, ALPHA = 4, 8
PRODUCTS = [*(f"self_attn/{p}_proj" for p in "qkvo"), *(f"mlp/{p}_proj" for p in ("gate", "up", "down"))]
SITES = [f"/model/layers.{i}/{p}/MatMul" for i in range(LAYERS) for p in PRODUCTS]
SPECIAL = ["<pad>", "<s>", "</s>", "<user>", "<assistant>", "<unk>"]  # ids 0 to 5; then come words
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'user' %}<user> {{ m.content }} </s> {% else %}<assistant> "
    "{% generation %}{{ m.content }} </s>{% endgeneration %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)

# prompt, chosen and rejected: words; TRL adds the end of sequence
PAIRS = [(3, 4, 7), (8, 2, 5), (5, 8, 3), (6, 5, 5), (4, 3, 8)]
# prompt, completion, desirable
RATED = [(4, 6, True), (7, 3, False), (3, 8, True), (8, 2, False), (5, 5, True), (6, 4, False)]
# words of the turns, user and assistant in turn
TALKS = [(4, 5), (3, 2, 2, 6), (2, 3, 1, 2, 3, 4), (7, 8)]

ALL = list(range(len(RATED)))
CASES = {
    "sft_nll": dict(loss_type="nll"),
    "sft_dft": dict(loss_type="dft"),
    "dpo_sigmoid": dict(loss_type=["sigmoid"], beta=0.1),
    "dpo_sigmoid_steep": dict(loss_type=["sigmoid"], beta=0.5),
    "dpo_robust": dict(loss_type=["robust"], beta=0.1, label_smoothing=0.1),
    "dpo_ipo": dict(loss_type=["ipo"], beta=0.1),
    "dpo_apo_zero": dict(loss_type=["apo_zero"], beta=0.1),
    "dpo_sigmoid_sft": dict(loss_type=["sigmoid", "sft"], loss_weights=[1.0, 0.25], beta=0.1),
    "dpo_apo_zero_sft": dict(loss_type=["apo_zero", "sft"], loss_weights=[0.8, 0.2], beta=0.3),
    "kto": dict(loss_type="kto", beta=0.1, order=[0, 3, 2, 5, 4, 1]),
    "kto_weighted": dict(
        loss_type="kto", beta=0.3, desirable_weight=1.0, undesirable_weight=1.5, order=[0, 1, 2, 5, 4, 3]
    ),
    "kto_clamped": dict(loss_type="kto", beta=0.1, order=ALL),
    "kto_undesirable": dict(loss_type="kto", beta=0.1, order=[1, 3, 5]),
    "kto_apo_zero": dict(loss_type="apo_zero_unpaired", beta=0.1, order=ALL),
    "kto_apo_zero_weighted": dict(
        loss_type="apo_zero_unpaired", beta=0.3, desirable_weight=0.75, undesirable_weight=1.25, order=[4, 1, 0]
    ),
}

# ------------------------------------------------------------------------------------------------ model and texts


def build():
    """The model: random weights, with norms away from 1, rounded to bfloat16 to pack better."""
    config = t.LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, max_position_embeddings=POSITIONS,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = t.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").float().eval()
    generator = torch.Generator().manual_seed(21)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            noise = (0.4 if name == "lm_head.weight" else 0.2) * torch.randn(p.shape, generator=generator)
            p.copy_((p + noise if p.dim() == 1 else noise).bfloat16().float())
    return model


def adapter(model):
    """site → (A [in, r], B [r, out]), as float32."""
    generator = torch.Generator().manual_seed(22)
    found = {}
    for site in SITES:
        out, into = linear(model, site).weight.shape
        found[site] = tuple(0.1 * torch.randn(shape, generator=generator) for shape in ((into, RANK), (RANK, out)))
    return found


def linear(model, site):
    return model.get_submodule(site.removeprefix("/").removesuffix("/MatMul").replace("/", "."))


def export(model):
    """The graph, without a word about where it was made."""
    with tempfile.TemporaryDirectory() as work, torch.no_grad():
        onnx_export_from_model(model, work, task="text-generation-with-past", do_validation=False)
        graph = onnx.load(Path(work) / "model.onnx")
    for node in graph.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    del graph.metadata_props[:], graph.graph.value_info[:]
    for i, tensor in enumerate(graph.graph.initializer):
        graph.graph.initializer[i].CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    return graph


def tokenizer():
    words = SPECIAL + [f"w{i}" for i in range(len(SPECIAL), VOCAB)]
    plain = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = Whitespace()
    plain.add_special_tokens(SPECIAL)
    made = t.PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    made.chat_template = TEMPLATE
    return made


class Writer:
    """Draws words; after a prompt, about half of them are the likeliest of the model: not all are improbable."""

    def __init__(self, model):
        self.model, self.rng, self.tokenizer = model, np.random.default_rng(23), tokenizer()

    def prompt(self, n):
        return " ".join(f"w{i}" for i in self.rng.integers(len(SPECIAL), VOCAB, n))

    def answer(self, before, n):
        ids = self.tokenizer(before)["input_ids"]
        new = []
        for drawn, likely in zip(self.rng.integers(len(SPECIAL), VOCAB, n), self.rng.random(n) < 0.5, strict=True):
            if likely:
                with torch.no_grad():
                    drawn = self.model(torch.tensor([ids + new])).logits[0, -1, len(SPECIAL) :].argmax() + len(SPECIAL)
            new.append(int(drawn))
        return " ".join(f"w{i}" for i in new)

    def talk(self, turns):
        messages = []
        for i, n in enumerate(turns):
            if i % 2:
                before = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                messages.append({"role": "assistant", "content": self.answer(before, n)})
            else:
                messages.append({"role": "user", "content": self.prompt(n)})
        return {"messages": messages}


def texts(model):
    """The examples of the three trainers, as text."""
    writer = Writer(model)
    pairs, rated = [], []
    for p, c, r in PAIRS:
        prompt = writer.prompt(p) + " "
        pairs.append({"prompt": prompt, "chosen": writer.answer(prompt, c), "rejected": writer.answer(prompt, r)})
    for p, c, good in RATED:
        prompt = writer.prompt(p) + " "
        rated.append({"prompt": prompt, "completion": writer.answer(prompt, c), "label": good})
    return {"dpo": pairs, "kto": rated, "sft": [writer.talk(turns) for turns in TALKS]}


# ------------------------------------------------------------------------------------------------ trainers


class Run:
    """One case in its trainer."""

    def __init__(self, name, double):
        self.name, self.kind, self.double = name, name.split("_")[0], double
        options = dict(CASES[name])
        order = options.pop("order", None)
        examples = TEXTS[self.kind]
        if order:
            examples = [examples[i] for i in order]
        if self.kind == "sft":
            options["assistant_only_loss"] = True
        config, trainer = {
            "sft": (trl.SFTConfig, trl.SFTTrainer),
            "dpo": (trl.DPOConfig, trl.DPOTrainer),
            "kto": (trl.KTOConfig, trl.KTOTrainer),
        }[self.kind]
        lora = LoraConfig(
            r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=[p.split("/")[1] for p in PRODUCTS],
            task_type="CAUSAL_LM",
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as work:
            args = config(
                output_dir=work, use_cpu=True, bf16=False, gradient_checkpointing=False, report_to=[],
                disable_tqdm=True, save_strategy="no", per_device_train_batch_size=len(examples), **options,
            )  # fmt: skip
            self.trainer = trainer(
                model=build(), args=args, train_dataset=datasets.Dataset.from_list(examples),
                processing_class=tokenizer(), peft_config=lora,
            )  # fmt: skip
        model = self.trainer.model
        # The adapter that the trainer itself made: an adapter of the caller's would become the reference, as a copy.
        assert list(model.peft_config) == ["default"]
        model.double() if double else model.float()
        self.base = model.get_base_model()
        self.parameters = {}
        for site, values in LORA.items():
            layer = linear(self.base, site)
            self.parameters[site] = (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
            for p, value in zip(self.parameters[site], values, strict=True):
                p.data.copy_(value.T)
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        assert trained == {id(p) for both in self.parameters.values() for p in both}
        model.eval()
        self.rows = [self.trainer.train_dataset[i] for i in range(len(examples))]
        self.batch = self.trainer.data_collator(self.rows)
        self.calls = []  # of the model: log-probabilities, with the adapter or without
        inner = self.base.forward

        def forward(*args, **kwargs):
            output = inner(*args, **kwargs)
            if output.log_probs.requires_grad:
                output.log_probs.retain_grad()
            on = not linear(self.base, SITES[0]).disable_adapters
            self.calls.append((output.log_probs, on, kwargs["input_ids"]))
            return output

        self.base.forward = forward

    def loss(self):
        self.calls.clear()
        if not self.double:
            return self.trainer.compute_loss(self.trainer.model, dict(self.batch))
        with StayDouble():
            return self.trainer.compute_loss(self.trainer.model, dict(self.batch))

    def gradients(self):
        """All results, as float64: the loss, gradients, and per token log-probabilities and derivatives."""
        loss = self.loss()
        if self.double:
            assert loss.dtype == torch.float64
            with StayDouble():
                loss.backward()
        else:
            loss.backward()
        found = {"loss": np.array([loss.item()])}
        for site, both in self.parameters.items():
            for part, p in zip("AB", both, strict=True):
                found[f"grad.{site}.{part}"] = p.grad.T.double().numpy().copy()
                p.grad = None
        found |= getattr(self, self.kind)(*self.calls)
        self.held = [call[0].detach() for call in self.calls]
        return found

    def sft(self, policy):
        mask = self.batch["labels"][:, 1:] != -100
        logp, derivative = ((x * mask).detach().double().numpy() for x in (policy[0], policy[0].grad))
        found = {"policy": logp.sum(1)}
        for i, row in enumerate(self.rows):
            for what, values in (("logp", logp), ("coef", derivative)):
                found[f"token_{what}.{i}"] = np.append(0.0, values[i, : len(row["input_ids"]) - 1])
        return found

    def dpo(self, policy, reference):
        assert policy[1] and not reference[1]
        n = len(self.rows)
        lengths = [len(row[f"{side}_ids"]) for side in ("chosen", "rejected") for row in self.rows]
        found = {}
        for what, values in (
            ("policy", policy[0].sum(1)), ("ref", reference[0].sum(1)), ("coef", self.by_sequence(policy[0], lengths)),
        ):  # fmt: skip
            values = values.detach().double().numpy()
            found |= {f"{what}_chosen": values[:n], f"{what}_rejected": values[n:]}
        return found

    def kto(self, *calls):
        divergence = len(calls) == 4
        policies, references = (calls[0:2], calls[2:4]) if divergence else (calls[0:1], calls[1:2])
        assert all(c[1] for c in policies) and not any(c[1] for c in references)
        sums = lambda call: call[0].sum(1).detach().double().numpy()  # noqa: E731
        coef = self.by_sequence(policies[-1][0], [len(row["completion_ids"]) for row in self.rows])
        found = {"order": np.array(CASES[self.name]["order"]), "policy": sums(policies[-1])}
        found |= {"ref": sums(references[-1]), "coef": coef.double().numpy()}
        if divergence:
            assert torch.equal(policies[0][2], self.batch["KL_input_ids"])
            found |= {"kl_policy": sums(policies[0]), "kl_ref": sums(references[0])}
            found["kl_mean"] = np.array([(found["kl_policy"] - found["kl_ref"]).mean()])
            found["kl"] = np.array([self.trainer._metrics["eval"]["kl"][-1]])
            for i, row in enumerate(self.rows):
                found[f"kl_ids.{i}"] = np.array(row["prompt_ids"] + row["KL_completion_ids"])
                found[f"kl_prompt_len.{i}"] = np.array([len(row["prompt_ids"])])
        return found

    def by_sequence(self, logp, lengths):
        """The derivative of the loss with respect to a sequence's log-probability: the same at each token of it."""
        mask = self.batch["completion_mask"][:, 1:]
        coef = (logp.grad * mask).sum(1) / torch.tensor(lengths)
        assert torch.allclose(logp.grad * mask, coef[:, None] * mask, rtol=1e-5, atol=1e-12)
        return coef

    def differences(self, found):
        """How far central differences of the loss lie from the gradients, at two entries of each A and B."""
        if self.kind == "kto" and len(self.held) == 4:  # kl is held
            fixed = [self.held[0].sum(1), self.held[2].sum(1)]
            self.trainer._compute_kl_logps = lambda *_: fixed[len(self.calls) > 0]
        rng, step, worst = np.random.default_rng(24), 1e-4, 0.0
        for site, both in self.parameters.items():
            for part, p in zip("AB", both, strict=True):
                gradient = found[f"grad.{site}.{part}"]
                largest = np.abs(gradient).max()
                assert largest > 1e-7, f"{self.name}: no gradient at {site}.{part}"
                for place in (np.abs(gradient).argmax(), rng.integers(gradient.size)):
                    at = np.unravel_index(place, gradient.shape)
                    values = []
                    for sign in (1, -1):
                        with torch.no_grad():
                            p[at[::-1]] += sign * step
                            values.append(self.value())
                            p[at[::-1]] -= sign * step
                    worst = max(worst, abs((values[0] - values[1]) / (2 * step) - gradient[at]) / largest)
        assert worst < 1e-5, f"{self.name}: {worst:.1e} from central differences"
        return worst

    def value(self):
        loss = self.loss().item()
        if CASES[self.name]["loss_type"] == "dft":  # the probabilities are held
            before, now = self.held[0], self.calls[0][0]
            loss = -(now * before.exp()).sum().item() / int((self.batch["labels"][:, 1:] != -100).sum())
        return loss


# ------------------------------------------------------------------------------------------------ checks


def closed_form(name, found, lengths):
    """(the loss, the derivatives) by losses.md; lengths: tokens of the completions, a list for each side."""
    case = CASES[name]
    beta, kind = case.get("beta"), name.split("_")[0]
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    if kind == "sft":
        logp = np.concatenate([found[f"token_logp.{i}"] for i in range(len(TALKS))])
        weight = np.where(logp != 0, np.exp(logp) if case["loss_type"] == "dft" else 1.0, 0.0)
        n = (logp != 0).sum()
        return -(weight * logp).sum() / n, [-weight / n]
    if kind == "kto":
        good = np.array([RATED[i][2] for i in case["order"]])
        weight = np.where(good, case.get("desirable_weight", 1.0), case.get("undesirable_weight", 1.0))
        sign = np.where(good, 1, -1)
        kl = max(found["kl_mean"][0], 0.0) if "kl_mean" in found else 0.0
        s = sigmoid(beta * sign * (found["policy"] - found["ref"] - kl))
        return (weight * (1 - s)).mean(), [-weight * sign * beta * s * (1 - s) / len(s)]
    c, r = (found[f"policy_{s}"] - found[f"ref_{s}"] for s in ("chosen", "rejected"))
    n, loss, dc, dr = len(c), 0.0, 0.0, 0.0
    for kind, weight in zip(case["loss_type"], case.get("loss_weights", [1.0]), strict=True):
        if kind in ("sigmoid", "robust"):
            e, z = case["label_smoothing"] if kind == "robust" else 0.0, beta * (c - r)
            up, down = -np.log(sigmoid(z)), -np.log(sigmoid(-z))
            each = ((1 - e) * up - e * down) / (1 - 2 * e)
            each_c = -beta * ((1 - e) * sigmoid(-z) + e * sigmoid(z)) / (1 - 2 * e)
            each_r = -each_c
        elif kind == "ipo":
            lc, lr = lengths
            far = c / lc - r / lr - 1 / (2 * beta)
            each, each_c, each_r = far**2, 2 * far / lc, -2 * far / lr
        elif kind == "apo_zero":
            sc, sr = sigmoid(beta * c), sigmoid(beta * r)
            each, each_c, each_r = 1 - sc + sr, -beta * sc * (1 - sc), beta * sr * (1 - sr)
        else:
            tokens = lengths[0].sum()
            each, each_c, each_r = -found["policy_chosen"].sum() / tokens, np.full(n, -n / tokens), 0.0
        loss, dc, dr = loss + weight * np.mean(each), dc + weight * each_c / n, dr + weight * each_r / n
    return loss, [dc, dr]


def check_closed_form(name, found, rows):
    kind = name.split("_")[0]
    lengths = None
    if kind == "dpo":
        lengths = [np.array([len(row[f"{side}_ids"]) for row in rows]) for side in ("chosen", "rejected")]
        got = [found["coef_chosen"], found["coef_rejected"]]
    elif kind == "kto":
        got = [found["coef"]]
    else:
        got = [np.concatenate([found[f"token_coef.{i}"] for i in range(len(rows))])]
    loss, derivatives = closed_form(name, found, lengths)
    near(f"{name}: the loss", found["loss"][0], loss, 1e-9)
    for a, b in zip(got, derivatives, strict=True):
        near(f"{name}: the derivatives", a, b, 1e-9)


def near(what, got, expected, tolerance):
    error = float(np.abs(np.asarray(got) - expected).max() / max(np.abs(expected).max(), 1e-12))
    assert error < tolerance, f"{what}: {error:.1e}"
    return error


class Onnx:
    """Log-probabilities by ONNX Runtime, one sequence at a time."""

    def __init__(self, graph, adapted):
        graph = onnx.ModelProto.FromString(graph.SerializeToString())
        tensors = {i.name: i for i in graph.graph.initializer}
        for node in graph.graph.node if adapted else []:
            if node.name in LORA:
                tensor = tensors[node.input[1]]
                a, b = (x.double().numpy() for x in LORA[node.name])
                weight = numpy_helper.to_array(tensor) + ALPHA / RANK * (a @ b)
                tensor.CopyFrom(numpy_helper.from_array(weight.astype(np.float32), tensor.name))
        self.session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    def tokens(self, ids):
        """By token; that of the first is zero."""
        ids = np.array([ids])
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "position_ids": np.arange(ids.size)[None]}
        empty = np.zeros((1, KV_HEADS, 0, HIDDEN // HEADS), np.float32)
        feeds |= {i.name: empty for i in self.session.get_inputs() if i.name.startswith("past")}
        logits = torch.tensor(self.session.run(["logits"], feeds)[0][0]).double().log_softmax(-1).numpy()
        return np.append(0.0, logits[np.arange(ids.size - 1), ids[0, 1:]])

    def completion(self, ids, prompt):
        return self.tokens(ids)[prompt:].sum()


def check_onnx(name, found, rows, policy, reference):
    if name.startswith("sft"):
        for i, row in enumerate(rows):
            keep = np.array(row["labels"]) != -100
            near(f"{name}: ONNX", policy.tokens(row["input_ids"]) * keep, found[f"token_logp.{i}"], 1e-4)
        return
    if name.startswith("dpo"):
        wanted = [(f"{side}_ids", f"policy_{side}", f"ref_{side}") for side in ("chosen", "rejected")]
    else:
        wanted = [("completion_ids", "policy", "ref")]
    wanted += [("KL_completion_ids", "kl_policy", "kl_ref")] if "kl" in found else []
    for column, *both in wanted:
        for what, runner in zip(both, (policy, reference), strict=True):
            got = [runner.completion(row["prompt_ids"] + row[column], len(row["prompt_ids"])) for row in rows]
            near(f"{name}: ONNX, {what}", got, found[what], 1e-4)


# ------------------------------------------------------------------------------------------------ main


def batches(runs):
    """The arrays of the three sets of examples, as the trainers prepared them."""
    found = {}
    for i, row in enumerate(runs["dpo_sigmoid"].rows):
        found[f"dpo.prompt_len.{i}"] = [len(row["prompt_ids"])]
        for side in ("chosen", "rejected"):
            found[f"dpo.{side}_ids.{i}"] = row["prompt_ids"] + row[f"{side}_ids"]
    for i, row in enumerate(runs["kto_apo_zero"].rows):
        found[f"kto.prompt_len.{i}"] = [len(row["prompt_ids"])]
        found[f"kto.ids.{i}"] = row["prompt_ids"] + row["completion_ids"]
        found[f"kto.desirable.{i}"] = [int(row["label"])]
    for i, row in enumerate(runs["sft_nll"].rows):
        found[f"sft.ids.{i}"] = row["input_ids"]
        found[f"sft.mask.{i}"] = [int(label != -100) for label in row["labels"]]
    return {name: np.array(values, np.int64) for name, values in found.items()}


def main(out):
    graph = export(build())
    nodes = {n.name: n.op_type for n in graph.graph.node}
    assert all(nodes.get(site) == "MatMul" for site in SITES)
    policy, reference = Onnx(graph, True), Onnx(graph, False)
    arrays, entries, runs = {}, [], {}
    for site, both in LORA.items():
        arrays |= {f"lora.{site}.{part}": value.numpy() for part, value in zip("AB", both, strict=True)}
    for name, options in CASES.items():
        run = runs[name] = Run(name, double=True)
        found = run.gradients()
        check_closed_form(name, found, run.rows)
        check_onnx(name, found, run.rows, policy, reference)
        single = Run(name, double=False).gradients()
        rounding = max(near(f"{name} in float32, {k}", single[k], found[k], 2e-4) for k in found)
        differences = run.differences(found)
        if name in ("kto", "kto_weighted", "kto_clamped"):
            assert (found["kl_mean"][0] < 0) == (name == "kto_clamped"), f"{name}: {found['kl_mean']}"
        arrays |= {f"{name}.{key}": value for key, value in found.items()}
        entry = {"name": name, "trainer": type(run.trainer).__name__, **options}
        entry |= {key: round(found[key].item(), 7) for key in ("loss", "kl") if key in found}
        entries.append(entry)
        print(f"{name}: loss {entry['loss']}, differences {differences:.0e}, float32 {rounding:.0e}", flush=True)
    arrays = batches(runs) | arrays
    out.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, out / "model.onnx")
    kinds = {"f": np.float32, "i": np.int64}
    np.savez_compressed(out / "cases.npz", **{k: v.astype(kinds[v.dtype.kind]) for k, v in arrays.items()})
    tools = ("trl", "peft", "transformers", "torch", "optimum-onnx")
    head = {
        "made_with": {tool: version(tool).split("+")[0] for tool in tools},
        "rank": RANK, "alpha": ALPHA, "sites": SITES,
        "pairs": len(PAIRS), "rated": len(RATED), "conversations": len(TALKS),
    }  # fmt: skip
    lines = ",\n".join("  " + json.dumps(e) for e in entries)
    head = "".join(f"{json.dumps(k)}: {json.dumps(v)},\n" for k, v in head.items())
    (out / "index.json").write_text("{\n" + head + '"cases": [\n' + lines + "\n]\n}\n")


def pack(out, to):
    to.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(to / "trl.zip", "w") as archive:
        for part in ("model.onnx", "cases.npz", "index.json"):
            entry = zipfile.ZipInfo(part, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (out / part).read_bytes(), compresslevel=9)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/trl"))
    parser.add_argument("--pack", type=Path)
    options = parser.parse_args()
    TEXTS, LORA = texts(build()), adapter(build())
    main(options.out)
    if options.pack:
        pack(options.out, options.pack)
