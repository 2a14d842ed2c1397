#!/usr/bin/env python3
"""Makes a model folder of FLUX.1's width for measuring training: a transformer with random weights, 24 heads of 128, one double
and one single block; text encoders and autoencoder are those of models/emoji. It draws noise.

    python3 bench/train_flux_model.py FOLDER [--double 1] [--single 1] [--size 1024] [--text 512] [--seed 1]

Defaults of the folder: SIZE x SIZE pixels (1024: 4096 cells at factor 1, 1024 at factor 2), TEXT tokens. Then, for example,
    ddit train -m FOLDER -o /tmp/a.safetensors --prompts P --trajectories 1 --points 2 --factors 2 --mixed 0 --batch 2 --steps 3
    python3 bench/train_torch.py -m FOLDER --cache /tmp/a.run --prompts P --factors 2 --mixed 0 --batch 2 --steps 3 --warm-up 1
"""

import argparse
import json
import shutil
from pathlib import Path

from bench_common import MODEL


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--double", type=int, default=1)
    parser.add_argument("--single", type=int, default=1)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--text", type=int, default=512)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()

    import torch
    from diffusers import FluxTransformer2DModel

    config = json.loads((MODEL / "transformer" / "config.json").read_text())
    config |= {"num_attention_heads": 24, "attention_head_dim": 128, "axes_dims_rope": [16, 56, 56]}
    config |= {"num_layers": args.double, "num_single_layers": args.single}
    skip = shutil.ignore_patterns("transformer", "ddit-adapter.safetensors", "README.md")
    shutil.copytree(MODEL, args.folder, ignore=skip)
    torch.manual_seed(args.seed)
    model = FluxTransformer2DModel(**{k: v for k, v in config.items() if not k.startswith("_")})
    model.to(torch.bfloat16).save_pretrained(args.folder / "transformer")
    values = {
        "width": args.size,
        "height": args.size,
        "max_sequence_length": args.text,
        "steps": 28,
        "guidance": 1.0,
        "patch": "off",
    }
    (args.folder / "ddit.json").write_text(json.dumps({"name": "flux-width, random weights", "defaults": values}, indent=1))
    print(f"{args.folder}: {sum(p.numel() for p in model.parameters()) / 1e6:.0f} million parameters")


if __name__ == "__main__":
    main()
