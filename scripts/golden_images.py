#!/usr/bin/env python3
"""Writes the tests/fixtures/pil_*.png: what PIL makes of a drawn pattern with its antialiased bilinear filter.

    pip install pillow numpy
    python scripts/golden_images.py tests/fixtures
"""
import pathlib
import sys

import numpy as np
from PIL import Image


def pattern(w: int, h: int) -> Image.Image:
    y, x = np.mgrid[0:h, 0:w].astype(np.int64)
    rgb = np.stack([x * 255 // (w - 1), (x // 5 + y // 7) % 2 * 200 + 20, (x * x * 3 + y * 11 + x * y) % 256], -1)
    return Image.fromarray(rgb.astype(np.uint8), "RGB")


def crop_center(picture: Image.Image, height: int, width: int) -> Image.Image:
    w, h = picture.size
    target_w, target_h = width * 8 // 7, height * 8 // 7
    if target_w * h >= target_h * w:
        size = (target_w, max(h * target_w // w, target_h))
    else:
        size = (max(w * target_h // h, target_w), target_h)
    picture = picture.resize(size, Image.BILINEAR)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def main() -> None:
    out = pathlib.Path(sys.argv[1])
    crop_center(pattern(97, 61), 32, 32).save(out / "pil_crop_32.png")
    pattern(97, 61).resize((48, 32), Image.BILINEAR).save(out / "pil_stretch_32x48.png")
    crop_center(pattern(28, 28), 56, 56).save(out / "pil_enlarge_56.png")
    crop_center(pattern(50, 110), 24, 40).save(out / "pil_tall_24x40.png")


if __name__ == "__main__":
    main()
