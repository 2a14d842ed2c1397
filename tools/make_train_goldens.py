#!/usr/bin/env python3
"""Makes tests/golden/train: gradients of mean((velocity - target)^2) by torch's autograd in float64, through the reference
model of tools/ddit_reference.py, for tiny models: flux_head32 with the adapters of tests/golden/adapter, and flux_head64 (two
double blocks, no guidance) with one made here.

  adapter_head64.safetensors   factor 2, rank 2, residual linear+hf, BF16, for flux_head64

  grad_NN.safetensors   latent, target [16,h,w], t5 [L,width], pooled [width], velocity [16,h,w];
                        grad.NAME: values of the gradient of parameter NAME, float32: all of them up to SAMPLE, else
                        SAMPLE values `step` apart (step = count // SAMPLE, made odd);
                        norm.NAME [1]: the whole gradient's norm, float64;
                        metadata: what, model, folder and adapter (tests/golden/FOLDER/ADAPTER.safetensors; "all": the
                        transformer's own weights instead), layout, sigma, guidance, loss

Usage: python3 tools/make_train_goldens.py
"""

import shutil
from pathlib import Path

import numpy as np
import torch

from ddit_reference import Flux, from_string, uniform
from make_adapter_goldens import a_latent, random_adapter
from stable_save import save_stable

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
OUT = GOLDEN / "train"
SAMPLE = 512
TOKENS = 12

CASES = [  # what, adapter, layout, sigma, (h, w) of the latent
    ("uniform 2, linear+hf", "adapter", "uniform 2", 0.8, (8, 12)),
    ("uniform 4, linear+hf", "adapter", "uniform 4", 0.9, (16, 16)),
    ("mixed layout, all three factors", "adapter", "4(1212)(2222)(1111)", 0.6, (16, 16)),
    ("mixed layout over the edge", "adapter", "4(2121)(2211)(2111)", 0.45, (12, 14)),
    ("uniform 4 over the edge", "adapter", "uniform 4", 0.7, (10, 14)),
    ("uniform 2, residual none", "adapter_none", "uniform 2", 0.75, (8, 8)),
    ("uniform 2 over the edge, residual linear", "adapter_linear", "uniform 2", 0.75, (6, 10)),
    ("uniform 2, residual hf", "adapter_hf", "uniform 2", 0.03125, (8, 8)),
    ("the whole transformer", "all", "uniform 1", 0.55, (8, 12)),
    ("two double blocks, uniform 2", "adapter_head64", "uniform 2", 0.85, (8, 8)),
    ("two double blocks, mixed layout", "adapter_head64", "(1212)(2222)", 0.65, (8, 16)),
    ("the whole transformer without guidance", "all_head64", "uniform 1", 0.35, (6, 8)),
]


def sample(gradient):
    """The values of the file, and the norm of all."""
    flat = gradient.flatten()
    norm = flat.norm().reshape(1)
    if len(flat) > SAMPLE:
        step = len(flat) // SAMPLE
        step -= step % 2 == 0
        flat = flat[: SAMPLE * step : step]
    return flat.float(), norm


def one_case(spec, seed):
    what, adapter, layout, sigma, (h, w) = spec
    g = torch.Generator().manual_seed(seed)
    name = "flux_head64" if "head64" in adapter else "flux_head32"
    everything = adapter.startswith("all")
    folder = "train" if "head64" in adapter else "adapter"
    model = Flux(GOLDEN / name, None if everything else GOLDEN / folder / f"{adapter}.safetensors")
    trained = model.w if everything else model.adapter.tensors
    for tensor in trained.values():
        tensor.requires_grad_(True)
    sigma = float(np.float32(sigma))
    z = a_latent(h, w, sigma, seed)
    target = torch.randn(16, h, w, generator=g)
    t5 = torch.randn(TOKENS, model.config["joint_attention_dim"], generator=g)
    pooled = torch.randn(model.config["pooled_projection_dim"], generator=g)
    kind, *rest = layout.split()
    cells = uniform(h, w, int(rest[0])) if kind == "uniform" else from_string(layout, h, w)
    v = model.velocity(z, cells, sigma, 3.5, t5, pooled)
    loss = ((v - target.double()) ** 2).mean()
    loss.backward()
    out = {"latent": z, "target": target, "t5": t5, "pooled": pooled, "velocity": v.detach().float()}
    for key, tensor in trained.items():
        gradient = tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)
        out["grad." + key], out["norm." + key] = sample(gradient)
    about = {
        "what": what,
        "model": name,
        "folder": folder,
        "adapter": "all" if everything else adapter,
        "layout": layout,
        "sigma": repr(sigma),
        "guidance": "3.5",
        "loss": repr(float(loss.detach())),
    }
    return out, about


def main():
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    head64 = OUT / "adapter_head64.safetensors"
    random_adapter(head64, Flux(GOLDEN / "flux_head64"), (2,), 2, 4, "linear+hf", torch.bfloat16, 7)
    head64.chmod(0o644)
    for i, spec in enumerate(CASES):
        out, about = one_case(spec, 100 + i)
        path = OUT / f"grad_{i:02}.safetensors"
        save_stable(out, path, metadata=about)
        path.chmod(0o644)
        print(f"{path.name} {about['what']}: loss {about['loss']}, {len(out) // 2 - 2} parameters")


if __name__ == "__main__":
    main()
