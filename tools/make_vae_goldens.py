#!/usr/bin/env python3
"""Makes tests/golden/vae: a tiny autoencoder of which only the encoder is written, and what diffusers' encoder makes of small
pictures in float32, with it and with models/emoji.

vae/config.json, vae/diffusion_pytorch_model.safetensors: three levels, random weights; norms and biases are far from their
neutral values, so that one that is dropped shows. tiny.safetensors and emoji.safetensors: rgb [H, W, 3] U8 and mean [C, h, w]
F32, the mean of vae.encode in model units, (mean - shift_factor) * scaling_factor. Pictures are smooth shapes with noise, sides
not equal. The float32 result is checked against float64.

Usage: python3 tools/make_vae_goldens.py
"""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from stable_save import save_stable

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "tests" / "golden" / "vae"
TINY = dict(
    block_out_channels=[4, 8, 12],
    down_block_types=["DownEncoderBlock2D"] * 3,
    up_block_types=["UpDecoderBlock2D"] * 3,
    layers_per_block=2,
    latent_channels=5,
    norm_num_groups=4,
    scaling_factor=0.5,
    shift_factor=-0.25,
    use_quant_conv=False,
    use_post_quant_conv=False,
)


def make_tiny():
    torch.manual_seed(5)
    vae = AutoencoderKL(**TINY)
    with torch.no_grad():
        for name, p in vae.encoder.named_parameters():
            if p.ndim > 1:
                p.normal_(0, 1.2 / p[0].numel() ** 0.5)
            elif "norm" in name and name.endswith("weight"):
                p.uniform_(0.4, 1.6)
            else:
                p.normal_(0, 0.3)
    return vae


def picture(height, width):
    rng = np.random.default_rng(height * 1000 + width)
    y, x = np.mgrid[0:height, 0:width]
    planes = [127.5 + 110 * np.sin(x / 5 + k) * np.cos(y / (6 + k)) + rng.normal(0, 9, (height, width)) for k in range(3)]
    rgb = np.stack(planes, -1)
    rgb[height // 4 : height // 2, width // 4 : width // 2] = (255, 0, 40)  # an edge, and both ends of the range
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def encode(vae, rgb, dtype):
    x = torch.from_numpy(rgb).to(torch.float32).div(255).permute(2, 0, 1)[None]
    x = (2.0 * x - 1.0).to(dtype)  # VaeImageProcessor.normalize
    with torch.no_grad():
        mean = vae.to(dtype).encode(x).latent_dist.mean
    return ((mean - vae.config.shift_factor) * vae.config.scaling_factor)[0]


(OUT / "vae").mkdir(parents=True, exist_ok=True)
tiny = make_tiny()
encoder = {f"encoder.{k}": v for k, v in tiny.encoder.state_dict().items()}
save_stable(encoder, OUT / "vae" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
config = {"_class_name": "AutoencoderKL", "act_fn": "silu", "in_channels": 3, "out_channels": 3, **TINY}
(OUT / "vae" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
emoji = AutoencoderKL.from_pretrained(ROOT / "models" / "emoji", subfolder="vae", torch_dtype=torch.float32)
for name, vae, height, width in [("tiny", tiny, 24, 40), ("emoji", emoji, 64, 48)]:
    rgb = picture(height, width)
    mean = encode(vae, rgb, torch.float32)
    exact = encode(vae, rgb, torch.float64)
    bf16 = encode(vae, rgb, torch.bfloat16).double()
    error = [((m - exact).norm() / exact.norm()).item() for m in (mean.double(), bf16)]
    print(f"{name}: mean {tuple(mean.shape)}, deviation from float64 {error[0]:.1e}, of bf16 {error[1]:.1e}")
    save_stable({"rgb": torch.from_numpy(rgb), "mean": mean}, OUT / f"{name}.safetensors", {"model": name})
