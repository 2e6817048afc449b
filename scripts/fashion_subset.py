#!/usr/bin/env python3
"""Writes small subsets of Fashion-MNIST for few-shot image tests.

usage: fashion_subset.py OUT_DIR [--data FOLDER]
needs: numpy. The data is Debian's `dataset-fashion-mnist` (MIT): apt install dataset-fashion-mnist; or, without root,
       apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb X, and --data X/usr/share/datasets/fashion-mnist

For seeds 0 and 1: OUT_DIR/fashion_seed{S}_{5,20}perclass.npz from the training set and fashion_seed{S}_test1000.npz (100 of each
class) from the test set; x u8 [n, 28, 28], y u8 [n], classes mixed; labels.txt. The 5 per class are among the 20.
"""

import argparse
import gzip
import hashlib
from pathlib import Path

import numpy as np

LABELS = "T-shirt/top Trouser Pullover Dress Coat Sandal Shirt Sneaker Bag Ankle-boot".split()
HASHES = {  # of the files of version 0.0~git20200523
    "t10k-images-idx3-ubyte.gz": "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    "t10k-labels-idx1-ubyte.gz": "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    "train-images-idx3-ubyte.gz": "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    "train-labels-idx1-ubyte.gz": "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
}


def read(folder, name, header):
    data = (folder / name).read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != HASHES[name]:
        raise SystemExit(f"{folder / name}: sha256 {found}, expected {HASHES[name]}")
    return np.frombuffer(gzip.decompress(data), np.uint8, offset=header)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    options = parser.parse_args()
    if not options.data.is_dir():
        raise SystemExit(f"{options.data} is not there: apt install dataset-fashion-mnist, or see --help")
    x, tx = (read(options.data, f"{p}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28) for p in ("train", "t10k"))
    y, ty = (read(options.data, f"{p}-labels-idx1-ubyte.gz", 8) for p in ("train", "t10k"))

    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "labels.txt").write_text("\n".join(LABELS) + "\n")
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        rows = np.stack([rng.permutation(np.flatnonzero(y == c))[:20] for c in range(10)])
        test = np.stack([rng.permutation(np.flatnonzero(ty == c))[:100] for c in range(10)])
        for shots in (5, 20):
            chosen = rng.permutation(rows[:, :shots].ravel())
            np.savez_compressed(options.out / f"fashion_seed{seed}_{shots}perclass.npz", x=x[chosen], y=y[chosen])
        chosen = rng.permutation(test.ravel())
        np.savez_compressed(options.out / f"fashion_seed{seed}_test1000.npz", x=tx[chosen], y=ty[chosen])
    for file in sorted(options.out.glob("fashion_*.npz")):
        print(file.name, *(f"{k}{list(v.shape)}" for k, v in np.load(file).items()), f"{file.stat().st_size // 1024} KiB")


if __name__ == "__main__":
    main()
