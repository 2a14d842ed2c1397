#!/usr/bin/env python3
"""Makes a held-out set for training an adapter: latents of the base model's own runs, at fixed steps, never trained on.

    python3 tools/make_heldout.py [--ddit build/release/ddit] [-m models/emoji] [-p tests/heldout/prompts64.txt]
                                  [-o tests/heldout/emoji.safetensors] [-t THREADS]

Every prompt is drawn once by `ddit generate --patch off` with 50 steps, guidance 1 and seed 1000 + its number. Of the 50 latents
that were handed to the model the 16 of INDICES are kept. The file (safetensors):

  latent  [prompts, 16, C, h, w]  I8: the latent is latent * scale
  scale   [1]                     F32: the largest absolute value of all of them / 127
  sigma   [16]                    F32: noise levels of the kept steps
  metadata: prompts and seeds (JSON lists), guidance, steps, indices (JSON list), model, made_by

What is to be learnt there is the base's velocity at the latent as it is stored, so that rounding to 8 bits costs no accuracy of
the comparison. It is not stored: whoever measures computes it with the base at hand.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from ddit_reference import sigmas
from stable_save import save_stable

ROOT = Path(__file__).resolve().parent.parent
STEPS, GUIDANCE, FIRST_SEED = 50, 1, 1000
INDICES = (0, 3, 7, 10, 13, 16, 20, 23, 26, 29, 33, 36, 39, 42, 46, 49)  # round(49 k / 15): first and last step included


def program(given):
    for path in (given, ROOT / "build" / "release" / "ddit", ROOT / "build" / "ddit"):
        if path and Path(path).is_file():
            return str(path)
    sys.exit("the program ddit was not found; build it first or give --ddit FILE")


def draw(args, prompt, seed, folder):
    """Latents [16, C, h, w] float32 of one run at INDICES, and the noise levels that its trace tells."""
    latent, trace = f"{folder}/latent.safetensors", f"{folder}/trace.json"
    command = [args.ddit, "generate", "-m", args.model, "-p", prompt, "-s", str(seed), "--steps", str(STEPS)]
    command += ["--guidance", str(GUIDANCE), "--patch", "off", "--save-latent", latent, "--save-steps", "--trace", trace]
    command += ["-o", f"{folder}/a.png", "-q"] + (["-t", str(args.threads)] if args.threads else [])
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"exit {done.returncode}: {' '.join(command)}\n{done.stderr.strip()}")
    tensors = load_file(latent)
    told = [step["sigma"] for step in json.loads(Path(trace).read_text())["steps"]]
    return np.stack([tensors[f"step.{i}.latent"] for i in INDICES]), [told[i] for i in INDICES]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ddit")
    parser.add_argument("-m", "--model", default=str(ROOT / "models" / "emoji"))
    parser.add_argument("-p", "--prompts", type=Path, default=ROOT / "tests" / "heldout" / "prompts64.txt")
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "tests" / "heldout" / "emoji.safetensors")
    parser.add_argument("-t", "--threads", type=int)
    args = parser.parse_args()
    args.ddit = program(args.ddit)
    prompts = [line.strip() for line in args.prompts.read_text().splitlines() if line.strip()]
    latents = []
    with tempfile.TemporaryDirectory() as folder:
        for number, prompt in enumerate(prompts):
            latent, told = draw(args, prompt, FIRST_SEED + number, folder)
            latents.append(latent)
            print(f"\r{number + 1}/{len(prompts)} {prompt}\033[K", end="", file=sys.stderr)
    print(file=sys.stderr)
    z = np.stack(latents)
    scheduler = json.loads((Path(args.model) / "scheduler" / "scheduler_config.json").read_text())
    sigma = sigmas(scheduler, STEPS, (z.shape[3] // 2) * (z.shape[4] // 2))[list(INDICES)]
    if not np.allclose(sigma, told, rtol=0, atol=1e-6):
        sys.exit("the noise levels that ddit traced are not those of the schedule")
    scale = np.float32(np.abs(z).max() / 127)
    codes = np.clip(np.rint(z / scale), -127, 127).astype(np.int8)
    tensors = {"latent": torch.from_numpy(codes), "scale": torch.tensor([scale]), "sigma": torch.from_numpy(sigma)}
    metadata = {
        "prompts": json.dumps(prompts, ensure_ascii=False),
        "seeds": json.dumps([FIRST_SEED + i for i in range(len(prompts))]),
        "guidance": str(GUIDANCE),
        "steps": str(STEPS),
        "indices": json.dumps(INDICES),
        "model": Path(args.model).resolve().name,
        "made_by": "tools/make_heldout.py",
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save_stable(tensors, args.output, metadata)
    error = np.sqrt(np.mean((z - codes * scale) ** 2))
    print(f"{args.output}: latent {list(codes.shape)}, scale {scale:.6f}, rounding error {error:.4f} rms, "
          f"latents' deviation {z.std():.4f}, {args.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
