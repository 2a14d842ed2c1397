#!/usr/bin/env python3
"""Makes tests/golden/adapter: random adapters for flux_head32 and what tools/ddit_reference.py computes with them in float64.

  adapter.safetensors           factors 2 and 4, rank 4 with alpha 8, residual linear+hf, BF16, every entry non-zero
  adapter_{none,linear,hf}.safetensors   factor 2 only, rank 2, one residual kind each, F32
  adapter_init.safetensors      the untrained start, factor 2 only: embed and de-embed made from the base weights, nothing else
  velocity_NN.safetensors       latent [16,h,w], t5 [L,width], pooled [width], velocity [16,h,w]; metadata: what, model, adapter
                                (file name or "none"), layout ("uniform K", "free K" or a layout string), sigma, guidance,
                                width, height, detail (of a free step)
  schedule_N.safetensors        noise, t5, pooled, sigmas, step.K.latent, step.K.velocity, latent; metadata: schedule,
                                coarse, prompt, ...

Latents, embeddings and results are stored as float32. The t5 and pooled embeddings are diffusers' (case_0 of the model), so a
schedule can also be run from its prompt.

Usage: python3 tools/make_adapter_goldens.py
"""

import math
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open

from ddit_reference import Flux, bilinear, from_string, parse_schedule, sigmas, uniform
from stable_save import save_stable

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "tests" / "golden" / "flux_head32"
OUT = ROOT / "tests" / "golden" / "adapter"


def random_matrix(shape, std, g, dtype):
    x = torch.randn(shape, generator=g, dtype=torch.float64) * std
    if x.numel() > 4096:  # few distinct values: small in git, exact in bfloat16
        step = 2.0 ** round(math.log2(std))
        x = (torch.floor(x / step).clamp(-3, 2) + 0.5) * step
    return x.to(dtype)


def lora_modules(config):
    for i in range(config["num_layers"]):
        for name in ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2"):
            yield f"transformer_blocks.{i}.{name}"
    for i in range(config["num_single_layers"]):
        yield f"single_transformer_blocks.{i}.proj_mlp"
        yield f"single_transformer_blocks.{i}.proj_out"


def metadata(model, factors, rank, alpha, residual):
    return {
        "format": "ddit-adapter",
        "version": "1",
        "arch": "flux",
        "base": "flux_head32",
        "patch": "2",
        "factors": ",".join(map(str, factors)),
        "channels_in": "16",
        "channels_out": "16",
        "hidden": str(model.heads * model.head),
        "rank": str(rank),
        "alpha": str(alpha),
        "position": "center",
        "id_scope": "image",
        "residual": residual,
        "init": "pinv-bilinear",
        "sched_order": "3",
        "tau": "0.05",
        "tau_steps": "50",
        "rho": "0.4",
        "std": "joint",
        "steps_trained": "0",
        "guidance": "3.5",
        "sigma_min": "2:0.3,4:0.9",
    }


def random_adapter(path, model, factors, rank, alpha, residual, dtype, seed):
    g = torch.Generator().manual_seed(seed)
    d, t = model.heads * model.head, {}
    for k in factors:
        n, x = 2 * k, f"ddit.x{k}."
        t[x + "embed.weight"] = random_matrix((d, 16, n, n), 1 / math.sqrt(16 * n * n), g, dtype)
        t[x + "embed.bias"] = random_matrix((d,), 0.3, g, dtype)
        t[x + "deembed.weight"] = random_matrix((16, n, n, d), 0.7 / math.sqrt(d), g, dtype)
        t[x + "deembed.bias"] = random_matrix((16, n, n), 0.2, g, dtype)
        t[x + "id"] = random_matrix((d,), 0.5, g, dtype)
        if "linear" in residual:
            t[x + "res.weight"] = random_matrix((16, 16), 0.2, g, dtype)
            t[x + "res.bias"] = random_matrix((16,), 0.3, g, dtype)
        for module in lora_modules(model.config):
            out, into = model.w[module + ".weight"].shape
            t[x + f"lora.{module}.A"] = random_matrix((rank, into), 1 / math.sqrt(into), g, dtype)
            t[x + f"lora.{module}.B"] = random_matrix((out, rank), 0.5 / math.sqrt(rank), g, dtype)
    for name, tensor in t.items():
        assert bool((tensor != 0).all()), f"{name} has zero entries"
    save_stable(t, path, metadata=metadata(model, factors, rank, alpha, residual))


def init_adapter(path, model):
    """w^ = P w per output unit and channel, W^ = B W, b^ = B b (spec: embedding and de-embedding)."""
    d, t = model.heads * model.head, {}
    w, b = model.w["x_embedder.weight"].view(d, 16, 2, 2), model.w["x_embedder.bias"]
    v, c = model.w["proj_out.weight"].view(16, 2, 2, d), model.w["proj_out.bias"].view(16, 2, 2)
    for k in (2,):
        up = bilinear(2 * k)
        down = torch.linalg.pinv(up.T)
        t[f"ddit.x{k}.embed.weight"] = torch.einsum("ia,jb,dcab->dcij", down, down, w).float()
        t[f"ddit.x{k}.embed.bias"] = b.float()
        t[f"ddit.x{k}.deembed.weight"] = torch.einsum("ia,jb,cabd->cijd", up, up, v).float().contiguous()
        t[f"ddit.x{k}.deembed.bias"] = torch.einsum("ia,jb,cab->cij", up, up, c).float().contiguous()
    save_stable(t, path, metadata=metadata(model, (2,), 1, 1, "none"))


def a_latent(h, w, sigma, seed):
    """A smooth picture under noise: what a latent looks like at this sigma."""
    g = torch.Generator().manual_seed(seed)
    smooth = torch.nn.functional.interpolate(
        torch.randn(1, 16, 3, 3, generator=g), size=(h, w), mode="bicubic", align_corners=True
    )[0]
    return ((1 - sigma) * smooth + sigma * torch.randn(16, h, w, generator=g)).float()


MIXED_16x16 = "4(1212)(2222)(1111)"
MIXED_16x24 = "4(2112)4(1111)4(2221)"
MIXED_12x14 = "4(2121)(2211)(2111)"  # blocks over the right and lower edge hold only the cells inside
VELOCITIES = [  # what, adapter, layout, sigma, (width, height), detail
    ("uniform 1 with an adapter loaded is the base", "adapter", "uniform 1", 0.8, (96, 64), 0),
    ("uniform 2", "adapter", "uniform 2", 0.8, (96, 64), 0),
    ("uniform 4", "adapter", "uniform 4", 0.95, (128, 64), 0),
    ("mixed layout, all three factors", "adapter", MIXED_16x16, 0.6, (128, 128), 0),
    ("mixed layout, not square", "adapter", MIXED_16x24, 0.9, (192, 128), 0),
    ("mixed layout over the edge", "adapter", MIXED_12x14, 0.45, (112, 96), 0),
    ("uniform 2 over the edge", "adapter", "uniform 2", 0.7, (80, 112), 0),
    ("uniform 4 over the edge", "adapter", "uniform 4", 0.9, (112, 80), 0),
    ("sigma below 0.05: the high-frequency residual's floor", "adapter", "uniform 2", 0.03125, (64, 64), 0),
    ("residual none", "adapter_none", "uniform 2", 0.75, (64, 96), 0),
    ("residual linear", "adapter_linear", "uniform 2", 0.75, (64, 96), 0),
    ("residual hf", "adapter_hf", "uniform 2", 0.75, (64, 96), 0),
    ("untrained start, uniform 2", "adapter_init", "uniform 2", 0.9, (64, 64), 0),
    ("free step 2", "none", "free 2", 0.8, (128, 96), 0.36),
    ("free step 4", "none", "free 4", 0.9, (128, 64), 0.51),
    ("free step 2 without detail", "none", "free 2", 0.5, (64, 64), 0),
    ("free step 4 at sigma 1", "none", "free 4", 1.0, (128, 128), 0.51),
]
SCHEDULES = [  # schedule, coarse, (width, height), seed
    ("1x3,2x4,4x2,1x1", "adapter", (128, 64), 11),
    ("4x2,2x4,1x4", "adapter", (112, 96), 12),  # sizes that factor 4 does not divide
    ("4x3,2x4,1x3", "free", (128, 128), 13),
]
DETAIL = {2: 0.36, 4: 0.51}


def one_velocity(models, spec, text):
    what, adapter, layout, sigma, (width, height), detail = spec
    model, (h, w) = models[adapter], (height // 8, width // 8)
    sigma, guidance = float(np.float32(sigma)), 3.5
    z = a_latent(h, w, sigma, seed=len(what) + width)
    kind, *rest = layout.split()
    if kind == "free":
        v = model.free_velocity(z, int(rest[0]), sigma, guidance, *text, detail=detail)
    else:
        cells = uniform(h, w, int(rest[0])) if kind == "uniform" else from_string(layout, h, w)
        v = model.velocity(z, cells, sigma, guidance, *text)
    out = {"latent": z, "t5": text[0], "pooled": text[1], "velocity": v.float()}
    about = {
        "what": what,
        "model": MODEL.name,
        "adapter": adapter,
        "layout": layout,
        "sigma": repr(sigma),
        "guidance": str(guidance),
        "width": str(width),
        "height": str(height),
        "detail": str(detail),
    }
    return out, about, v


def one_schedule(models, spec, text, prompt, length):
    schedule, coarse, (width, height), seed = spec
    factors, (h, w) = parse_schedule(schedule), (height // 8, width // 8)
    model = models["adapter" if coarse == "adapter" else "none"]
    noise = torch.randn((16, h, w), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    s, z, out = sigmas(model.scheduler, len(factors), h * w // 4), noise.double(), {}
    for k, factor in enumerate(factors):
        out[f"step.{k}.latent"] = z.float()
        if coarse == "free" and factor > 1:
            v = model.free_velocity(z, factor, s[k], 3.5, *text, detail=DETAIL[factor])
        else:
            v = model.velocity(z, uniform(h, w, factor), s[k], 3.5, *text)
        out[f"step.{k}.velocity"] = v.float()
        z = z + (float(s[k + 1]) - float(s[k])) * v
    out |= {"noise": noise, "t5": text[0], "pooled": text[1], "sigmas": torch.from_numpy(s), "latent": z.float()}
    about = {
        "schedule": schedule,
        "coarse": coarse,
        "model": MODEL.name,
        "adapter": "adapter" if coarse == "adapter" else "none",
        "prompt": prompt,
        "max_sequence_length": length,
        "seed": str(seed),
        "steps": str(len(factors)),
        "guidance": "3.5",
        "width": str(width),
        "height": str(height),
    }
    return out, about, z


def main():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    base = Flux(MODEL)
    random_adapter(OUT / "adapter.safetensors", base, (2, 4), 4, 8, "linear+hf", torch.bfloat16, 1)
    for i, kind in enumerate(("none", "linear", "hf")):
        random_adapter(OUT / f"adapter_{kind}.safetensors", base, (2,), 2, 2, kind, torch.float32, 2 + i)
    init_adapter(OUT / "adapter_init.safetensors", base)
    names = ("adapter", "adapter_none", "adapter_linear", "adapter_hf", "adapter_init")
    models = {name: Flux(MODEL, OUT / f"{name}.safetensors") for name in names} | {"none": base}
    with safe_open(MODEL / "case_0.safetensors", "pt") as f:
        text, prompt, length = (
            (f.get_tensor("t5"), f.get_tensor("pooled")),
            f.metadata()["prompt"],
            f.metadata()["max_sequence_length"],
        )
    for i, spec in enumerate(VELOCITIES):
        out, about, v = one_velocity(models, spec, text)
        save_stable(out, OUT / f"velocity_{i:02}.safetensors", metadata=about)
        print(f"velocity_{i:02} {about['what']}: std {float(v.std()):.3f}")
    for i, spec in enumerate(SCHEDULES):
        out, about, z = one_schedule(models, spec, text, prompt, length)
        save_stable(out, OUT / f"schedule_{i}.safetensors", metadata=about)
        print(f"schedule_{i} {about['schedule']} {about['coarse']}: std {float(z.std()):.3f}")
    for path in OUT.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main()
