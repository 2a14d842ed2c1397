#!/usr/bin/env python3
"""PSNR and SSIM between folders of PNG pictures of the same names: the first folder is the reference.

    python3 bench/quality.py REFERENCE FOLDER [FOLDER ...] [--each]

PSNR: 8-bit RGB, peak 255, mean of the pictures' values (identical pictures count as 100 dB). SSIM: Gaussian window 11x11,
sigma 1.5, K1 .01, K2 .03, biased covariance, channels averaged, a border of 5 pixels left out.
"""

import argparse
import statistics
import sys
from pathlib import Path

from bench_common import psnr, read_png, ssim


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reference", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--each", action="store_true", help="one line per picture too")
    args = parser.parse_args()
    names = sorted(p.name for p in args.reference.glob("*.png"))
    if not names:
        sys.exit(f"{args.reference}: no PNG files")
    print("| folder | pictures | PSNR mean | min | SSIM mean | min |\n|---|---|---|---|---|---|")
    for folder in args.folders:
        missing = [n for n in names if not (folder / n).is_file()]
        if missing:
            sys.exit(f"{folder}: {missing[0]} is missing ({len(missing)} of {len(names)})")
        scores = []
        for name in names:
            a, b = read_png(args.reference / name), read_png(folder / name)
            if a.shape != b.shape:
                sys.exit(f"{folder / name}: size {b.shape}, expected {a.shape}")
            scores.append((psnr(a, b), ssim(a, b)))
            if args.each:
                print(f"| {folder}/{name} | 1 | {scores[-1][0]:.2f} | | {scores[-1][1]:.4f} | |")
        p, s = zip(*scores)
        print(
            f"| {folder} | {len(names)} | {statistics.mean(p):.2f} | {min(p):.2f} | {statistics.mean(s):.4f} | {min(s):.4f} |"
        )


if __name__ == "__main__":
    main()
