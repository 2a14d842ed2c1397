"""What the benchmark scripts share: the processor's description, running ddit, reading pictures, PSNR and SSIM."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "emoji"
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")
PSNR_CAP = 100.0  # dB, for identical pictures, so that means stay finite


def machine():
    """Model name, cores, caches and the flags that matter to matrix products, from lscpu."""
    text = subprocess.run(["lscpu"], capture_output=True, text=True, env=dict(os.environ, LC_ALL="C")).stdout
    field = {k.strip(): v.strip() for k, v in (line.split(":", 1) for line in text.splitlines() if ":" in line)}
    flags = field.get("Flags", "").split()
    return {
        "cpu": field.get("Model name"),
        "family": field.get("CPU family"),
        "model": field.get("Model"),
        "cpus": field.get("CPU(s)"),
        "L2": field.get("L2 cache"),
        "L3": field.get("L3 cache"),
        "flags": [f for f in FLAGS if f in flags],
    }


def load_average():
    return [round(x, 2) for x in os.getloadavg()]


def digest_of(paths):
    """A digest of the files, and of all files of the folders, so that kept results are only used for what they are of."""
    digest = hashlib.sha256()
    for path in map(Path, paths):
        for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def ddit_program(given=None):
    """--ddit, $DDIT, or the program of the usual build folder."""
    candidates = [given, os.environ.get("DDIT"), ROOT / "build" / "release" / "ddit"]
    for path in candidates:
        if path and Path(path).is_file():
            return str(path)
    sys.exit("the program ddit was not found; build it first or give --ddit FILE")


def last_json(text):
    """The last JSON object on a program's standard output (a line of its own, or the whole output)."""
    text = text.strip()
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    for line in reversed(text.splitlines()):
        if line.lstrip().startswith("{"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
    start = text.rfind("\n{")
    return json.loads(text[start:] if start >= 0 else text[text.find("{") :])


def run_ddit(program, arguments):
    """ddit generate ... --json; returns the JSON object, stops with ddit's own message if it failed."""
    command = [program, "generate", *map(str, arguments), "--json", "-q"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"exit {done.returncode}: {' '.join(command)}\n{done.stderr.strip()}")
    return last_json(done.stdout)


def figure(data, expression):
    """`phases.denoise`, `phases.denoise/steps` or `seconds/20`: a number out of a JSON object; the length of a list."""
    values = []
    for part in expression.split("/"):
        if re.fullmatch(r"[0-9.]+", part):
            values.append(float(part))
            continue
        value = data
        for key in part.split("."):
            value = value[int(key)] if isinstance(value, list) else value[key]
        values.append(float(len(value) if isinstance(value, list) else value))
    for divisor in values[1:]:
        values[0] /= divisor
    return values[0]


def read_png(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("RGB"))


def psnr(a, b):
    """8-bit RGB, mean square error over pixels and channels, peak 255; identical pictures count as PSNR_CAP."""
    error = np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2)
    return PSNR_CAP if error == 0 else min(PSNR_CAP, float(10 * np.log10(255.0**2 / error)))


def ssim(a, b):
    """Gaussian window 11x11, sigma 1.5, K1 .01, K2 .03, biased covariance, RGB channels averaged, a border of 5 left out."""
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
        )
    )
