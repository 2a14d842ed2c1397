#!/usr/bin/env python3
"""How well base models draw what they were shown: their pictures beside the true ones.

    python3 bench/base_worth.py PICTURES NAME=MODEL [NAME=MODEL ...] [--captions FILE] [--every N] [--steps N]
        [--guidance G] [--ddit FILE] [--out FOLDER]

PICTURES is a folder of tools/make_emoji_pictures.py. Captions that name a background are left out; of the rest every N-th is
drawn once by each model, base patch, seed = its number. Each prompt has one true picture, so that likeness can be measured:
PSNR and SSIM to it, and whether the true picture, of all in the folder without a background, is the nearest one (mean square
difference at 32 x 32). --captions: only those in FILE, one a line. Pictures that are there are not drawn again.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
from bench_common import ddit_program, machine, psnr, read_png, run_ddit, ssim
from PIL import Image

SMALL = 32


def thumbnail(picture):
    return np.asarray(Image.fromarray(picture).resize((SMALL, SMALL), Image.BOX), np.float64).ravel()


def true_pictures(folder):
    """{caption: picture} of those in front of white, by caption."""
    found = {}
    for text in sorted(folder.glob("*.txt")):
        caption, picture = text.read_text().strip(), text.with_suffix(".png")
        if picture.is_file() and "background" not in caption:
            found[caption] = read_png(picture)
    return dict(sorted(found.items()))


def draw(args, program, name, model, numbers):
    folder = args.out / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, caption in numbers.items():
        path = folder / f"{number:04}.png"
        if not path.is_file():
            options = ["-m", model, "-p", caption, "-s", number, "--steps", args.steps, "--patch", "off", "-o", path]
            run_ddit(program, options + (["--guidance", args.guidance] if args.guidance else []))
    return {number: read_png(folder / f"{number:04}.png") for number in numbers}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", type=Path)
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--captions", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--ddit")
    parser.add_argument("--out", type=Path, default=Path("/tmp/base-worth"))
    args = parser.parse_args()
    program, true = ddit_program(args.ddit), true_pictures(args.pictures)
    names = list(true)
    small = np.stack([thumbnail(true[c]) for c in names])
    wanted = set(args.captions.read_text().splitlines()) if args.captions else set(names)
    numbers = {i: c for i, c in enumerate(names) if c in wanted and i % args.every == 0}
    print(f"# {machine()['cpu']}, {len(numbers)} of {len(names)} captions, {args.steps} steps")
    print("| model | PSNR | median | SSIM | true picture is nearest |\n|---|---|---|---|---|")
    for entry in args.models:
        name, model = entry.split("=", 1)
        drawn = draw(args, program, name, model, numbers)
        db = [psnr(drawn[i], true[c]) for i, c in numbers.items()]
        likeness = statistics.mean(ssim(drawn[i], true[c]) for i, c in numbers.items())
        hits = sum(int(np.argmin(((small - thumbnail(drawn[i])) ** 2).sum(1)) == i) for i in numbers)
        figures = f"{statistics.mean(db):.2f} | {statistics.median(db):.2f} | {likeness:.4f} | {hits / len(numbers):.1%}"
        print(f"| {name} | {figures} |")


if __name__ == "__main__":
    main()
