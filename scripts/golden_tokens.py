#!/usr/bin/env python3
"""Writes tests/fixtures/golden_tokens.json: token ids from the Python `tokenizers` package.

    pip install tokenizers
    python scripts/golden_tokens.py > tests/fixtures/golden_tokens.json

The tokenizers are models/intents_tokenizer.json (WordPiece) and scripts/skeletons/smollm2_tokenizer.json.gz (byte-level
BPE); the sentences are from reference/intents.
"""
import gzip
import json
import pathlib
import sys

from tokenizers import Tokenizer

HARD = [
    "Schalte das Licht im Büro über dem Flügel aus!",
    "naïve café — “quotes”… and a dash–dash",
    "价格是 3.50 元，请打开客厅的灯",
    "emoji 🎉🔥 and 👩‍👩‍👧 families",
    "  leading, trailing\tand\n\nnewlines  ",
    "call 0123456789 at 12:34, 1e-5 or 99.99%",
    "don't can't won't I'll they've it's",
    "antidisestablishmentarianism " + "x" * 120,
    "def f(x):\n    return x**2  # code",
    "İstanbul ŞIŞLI ǅ ﬁ ½ ①",
    "combining e\u0301 a\u0308 and zero\u200bwidth\u00a0space",
    "[SEP] <|im_start|> literal specials [MASK]",
]


def main() -> None:
    root = pathlib.Path(__file__).resolve().parent.parent
    lines = (root / "reference/intents/seed0_test.tsv").read_text(encoding="utf-8").splitlines()
    sentences = [line.split("\t", 1)[1] for line in lines]
    sentences = sentences[:: len(sentences) // 40][:40]
    cases = []
    word_pieces, bpe = "models/intents_tokenizer.json", "scripts/skeletons/smollm2_tokenizer.json.gz"
    for name, max_length in [(word_pieces, 32), (word_pieces, 6), (bpe, 128), (bpe, 5)]:
        content = (root / name).read_bytes()
        tokenizer = Tokenizer.from_buffer(gzip.decompress(content) if name.endswith(".gz") else content)
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        rows = [{"text": t, "ids": tokenizer.encode(t).ids} for t in sentences + HARD]
        cases.append({"tokenizer": name, "max_length": max_length, "rows": rows})
    json.dump({"generator": "scripts/golden_tokens.py", "cases": cases}, sys.stdout, ensure_ascii=False, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
