#!/usr/bin/env python3
"""Makes tests/golden/picture: small pictures in every format that ddit reads, what Pillow makes of them, and resized ones.

pictures.safetensors: FILE -> [H, W, 3] U8, with alpha mixed over white as 8-bit values (c a + 255 (255 - a) + 127) / 255,
EXIF's orientation applied; "resize W H" -> [H, W, 3] U8: rgb.png scaled to cover and cut by Pillow's Image.resize (BICUBIC,
box), each channel as floats: with 8 bits Pillow clips between its two passes.

Usage: python3 tools/make_picture_goldens.py
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from stable_save import save_stable

OUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "picture"
SIZES = [(60, 45), (16, 16), (7, 30), (33, 8), (128, 128), (100, 40), (61, 45), (1, 1)]


def picture(width, height):
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:height, 0:width]
    planes = [127.5 + 120 * np.sin(x / 4 + k) * np.cos(y / (5 + k)) + rng.normal(0, 6, (height, width)) for k in range(3)]
    rgb = np.stack(planes, -1)
    rgb[10:20, 8:30] = (255, 0, 40)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def over_white(image):
    rgba = np.asarray(image.convert("RGBA")).astype(np.int64)
    alpha = rgba[..., 3:]
    return ((rgba[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def cover(image, width, height):
    scale = min(image.width / width, image.height / height)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    planes = [plane.convert("F").resize((width, height), Image.BICUBIC, box=box) for plane in image.split()]
    return np.clip(np.floor(np.stack([np.asarray(p) for p in planes], -1) + 0.5), 0, 255).astype(np.uint8)


OUT.mkdir(parents=True, exist_ok=True)
rgb = picture(60, 45)
image = Image.fromarray(rgb)
small = image.resize((20, 14))
rgba = np.dstack([np.asarray(small), np.linspace(0, 255, 280).reshape(14, 20).astype(np.uint8)])
grey16 = Image.fromarray((np.linspace(0, 65535, 280).reshape(14, 20)).astype(np.uint16))
palette = small.quantize(16)
exif = Image.Exif()
made = {
    "rgb.png": (image, {}),
    "rgba.png": (Image.fromarray(rgba), {}),
    "grey.png": (small.convert("L"), {}),
    "grey_alpha.png": (Image.fromarray(rgba).convert("LA"), {}),
    "grey16.png": (grey16, {}),
    "bits.png": (small.convert("1"), {}),
    "palette.png": (palette, {}),
    "palette_clear.png": (palette, dict(transparency=3)),
    "rgb.jpg": (image, dict(quality=90)),
    "progressive.jpg": (small, dict(quality=80, progressive=True)),
    "grey.jpg": (small.convert("L"), {}),
    "cmyk.jpg": (small.convert("CMYK"), dict(quality=95)),
    "rgb.webp": (small, dict(lossless=True)),
    "lossy.webp": (image, dict(quality=80)),
    "rgba.webp": (Image.fromarray(rgba), dict(lossless=True, exact=True)),
}
for turn in range(2, 9):
    turned = Image.Exif()
    turned[0x112] = turn
    made[f"turned{turn}.jpg"] = (small, dict(quality=90, exif=turned))
golden = {}
for name, (source, options) in made.items():
    source.save(OUT / name, **options)
    read = ImageOps.exif_transpose(Image.open(OUT / name))
    if name == "grey16.png":
        values = (np.asarray(read).astype(np.int64) * 255 + 32767) // 65535
        read = Image.fromarray(values.astype(np.uint8))
    golden[name] = over_white(read)
small.save(OUT / "animated.webp", save_all=True, append_images=[small.rotate(90)], duration=50)
for width, height in SIZES:
    golden[f"resize {width} {height}"] = cover(image, width, height)
save_stable({k: torch.from_numpy(np.array(v)) for k, v in golden.items()}, OUT / "pictures.safetensors", {"by": "Pillow"})
