#!/usr/bin/env python3
"""Writes tests/fixtures/pictures.npz: small picture files of many forms, and the pixels that PIL decodes them to.

`FORM` is a file's bytes, `FORM.rgb` its pixels, u8 of shape [height, width, 3]. Needs numpy, pillow, and cjpeg of
libjpeg-turbo-progs. Made with pillow 13.0.0 (libjpeg-turbo 3.2.0) and cjpeg 2.1.5.
"""

import io
import pathlib
import struct
import subprocess
import tempfile
import zlib

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 35, 18
OUT = pathlib.Path(__file__).resolve().parent.parent / "tests/fixtures/pictures.npz"


def pattern():
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    a = np.stack([x * 6 + 20, 220 - y * 8, (x + y) * 3 + 10], -1)
    a[4:9, 20:30] = [230, 40, 30]
    return Image.fromarray(a.clip(0, 255).astype(np.uint8))


def cjpeg(picture, *arguments, scans=None):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        picture.save(folder / "in.ppm")
        if scans:
            (folder / "scans").write_text(scans)
            arguments = (*arguments, "-scans", folder / "scans")
        command = ["cjpeg", "-quality", "90", *arguments, folder / "in.ppm"]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def saved(picture, kind, **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def with_ids(jpeg, ids):
    """The component identifiers replaced, in the frame and in its one scan."""
    jpeg = bytearray(jpeg)
    frame, scan = jpeg.index(b"\xff\xc0"), jpeg.index(b"\xff\xda")
    for i, value in enumerate(ids):
        jpeg[frame + 10 + 3 * i] = value
        jpeg[scan + 5 + 2 * i] = value
    return bytes(jpeg)


def without_jfif(jpeg):
    at = jpeg.index(b"\xff\xe0")
    return jpeg[:at] + jpeg[at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big") :]


def png(array, interlaced=False):
    """A PNG of u8 or u16 pixels, which PIL does not write interlaced or with 16 bits a colour."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = b""
    for x, y, across, down in adam7 if interlaced else ((0, 0, 1, 1),):
        part = array[y::down, x::across]
        if part.size:
            rows += b"".join(b"\0" + row.astype(array.dtype.newbyteorder(">")).tobytes() for row in part)
    height, width, _ = array.shape
    header = struct.pack(">IIBBBBB", width, height, 8 * array.dtype.itemsize, 2, 0, 0, int(interlaced))
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def forms():
    im = pattern()
    separate = "0;\n1;\n2;\n"
    for sample in ("1x1", "2x1", "1x2", "2x2", "4x1"):
        s = ("-sample", sample)
        yield f"jpeg-baseline-{sample}", cjpeg(im, *s)
        yield f"jpeg-progressive-{sample}", cjpeg(im, *s, "-progressive")
        yield f"jpeg-separate-{sample}", cjpeg(im, *s, scans=separate)
    yield "jpeg-two-scans", cjpeg(im, "-sample", "2x2", scans="0;\n1 2;\n")
    yield "jpeg-luma-shared", cjpeg(im, "-sample", "2x1", scans="0 1;\n2;\n")
    yield "jpeg-chroma-larger", cjpeg(im, "-sample", "1x1,2x2,2x2")
    yield "jpeg-thirds", cjpeg(im, "-sample", "3x1")
    yield "jpeg-restart", cjpeg(im, "-sample", "2x2", "-restart", "1B")
    yield "jpeg-restart-separate", cjpeg(im, "-sample", "2x2", "-restart", "2B", scans=separate)
    yield "jpeg-restart-progressive", cjpeg(im, "-progressive", "-restart", "2B")
    yield "jpeg-optimised", cjpeg(im, "-optimize")
    yield "jpeg-grey", cjpeg(im, "-grayscale")
    yield "jpeg-grey-progressive", cjpeg(im, "-grayscale", "-progressive")
    yield "jpeg-grey-2x2", cjpeg(im, "-grayscale", "-sample", "2x2")
    yield "jpeg-rgb", cjpeg(im, "-rgb")
    rgb = saved(im, "jpeg", quality=90, keep_rgb=True)
    yield "jpeg-rgb-by-adobe", with_ids(rgb, (1, 2, 3))
    plain = saved(im, "jpeg", quality=90)
    yield "jpeg-ids-of-rgb-in-jfif", with_ids(plain, (82, 71, 66))
    yield "jpeg-ids-of-wide-gamut", with_ids(without_jfif(plain), (1, 34, 35))
    cmyk = saved(im.convert("CMYK"), "jpeg", quality=90)
    yield "jpeg-cmyk", cmyk
    yield "jpeg-cmyk-progressive", saved(im.convert("CMYK"), "jpeg", quality=90, progressive=True)
    ycck = bytearray(cmyk)
    ycck[cmyk.index(b"Adobe") + 11] = 2
    yield "jpeg-ycck", bytes(ycck)

    yield "png-rgb", saved(im, "png")
    yield "png-palette", saved(im.quantize(16), "png")
    yield "png-palette-transparent", saved(im.quantize(16), "png", transparency=3)
    yield "png-rgba", saved(Image.merge("RGBA", (*im.split(), im.split()[0])), "png")
    yield "png-grey", saved(im.convert("L"), "png")
    yield "png-grey-alpha", saved(im.convert("LA"), "png")
    yield "png-1-bit", saved(im.convert("1"), "png")
    yield "png-transparent-colour", saved(im, "png", transparency=(230, 40, 30))

    pixels = np.asarray(im)
    yield "png-interlaced", png(pixels, interlaced=True)
    # PIL keeps the upper byte of 16 bits; rounding is one level off where the lower one is large.
    yield "png-16-bit", png(pixels.astype(np.uint16) * 256 + 200 - (pixels // 2))
    yield "png-16-bit-interlaced", png(pixels.astype(np.uint16) * 257, interlaced=True)

    yield "webp-lossy", saved(im, "webp", quality=90)
    yield "webp-lossless", saved(im, "webp", lossless=True)
    yield "webp-alpha", saved(Image.merge("RGBA", (*im.split(), im.split()[0])), "webp", quality=90)


def main():
    arrays = {}
    for name, data in forms():
        arrays[name] = np.frombuffer(data, np.uint8)
        arrays[name + ".rgb"] = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    # Forms that are refused: PIL decodes it, acclimate does not.
    arrays["refused-arithmetic"] = np.frombuffer(cjpeg(pattern(), "-arithmetic"), np.uint8)
    arrays["refused-quarters"] = np.frombuffer(
        cjpeg(pattern(), "-sample", "4x1,2x1,1x1", scans="0;\n1;\n2;\n"), np.uint8
    )
    np.savez_compressed(OUT, **arrays)
    print(OUT, OUT.stat().st_size, "bytes,", len(arrays), "arrays")


if __name__ == "__main__":
    main()
