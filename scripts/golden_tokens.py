#!/usr/bin/env python3
"""Writes tests/fixtures/golden_tokens.json: token ids from the Python `tokenizers` package.

    pip install tokenizers
    python scripts/golden_tokens.py ASSETS > tests/fixtures/golden_tokens.json

ASSETS is the folder with text/tokenizer.json (BERT WordPiece), text/text_ha_intents_en.tsv and lm/tokenizer.json
(byte-level BPE): the folder that the tests find through ACCLIMATE_ASSETS.
"""
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
    assets = pathlib.Path(sys.argv[1])
    lines = (assets / "text/text_ha_intents_en.tsv").read_text(encoding="utf-8").splitlines()
    sentences = [line.split("\t", 1)[1] for line in lines]
    sentences = sentences[:: len(sentences) // 40][:40]
    cases = []
    for name, max_length in [("text/tokenizer.json", 128), ("text/tokenizer.json", 6), ("lm/tokenizer.json", 128), ("lm/tokenizer.json", 5)]:
        tokenizer = Tokenizer.from_file(str(assets / name))
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length)
        rows = [{"text": t, "ids": tokenizer.encode(t).ids} for t in sentences + HARD]
        cases.append({"tokenizer": name, "max_length": max_length, "rows": rows})
    json.dump({"generator": "scripts/golden_tokens.py", "cases": cases}, sys.stdout, ensure_ascii=False, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
