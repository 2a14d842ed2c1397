#!/usr/bin/env python3
"""Makes tests/golden/optimizer/optimizer.safetensors: what the optimizers must compute, from torch and prodigyopt.

    python3 tools/make_optimizer_goldens.py [FOLDER]

A problem of 67 values whose gradient is a * (x - target) + noise[step], 200 steps. Per case the values after the steps in the
metadata key "steps", for Prodigy also d after every step, for clipping the norms before it, for averages the average:
adamw           lr 0.01, weight decay 0.01
adamw_parts     the same, but from value 40 on with a quarter of the rate
adamw_schedule  as adamw with 20 steps of warm-up, cosine decay to a tenth, clipping at norm 2, average with decay 0.95
prodigy         lr 1, no weight decay, no clipping
prodigy_decay   lr 1, weight decay 0.01, linear decay to 0 after 10 steps of warm-up

Needs torch, safetensors, prodigyopt (made with 2.13, 0.7, 1.1.2).
"""

import math
import sys
from pathlib import Path

import torch
from prodigyopt import Prodigy

from stable_save import save_stable

COUNT, STEPS = 67, 200
PART = 40
KEPT = [1, 2, 5, 20, 50, 100, 150, 200]


def rate(t, warmup, decay, floor):
    """Factor of the learning rate in step t = 0, 1, ..."""
    if t < warmup:
        return (t + 1) / warmup
    done = (t - warmup) / (STEPS - warmup)
    if decay == "none":
        return 1.0
    share = (1 + math.cos(math.pi * done)) / 2 if decay == "cosine" else 1 - done
    return floor + (1 - floor) * share


def run_parts(problem):
    """adamw with the values from PART on in a group with a quarter of the rate."""
    parts = [problem["start"][:PART].clone().requires_grad_(), problem["start"][PART:].clone().requires_grad_()]
    groups = [{"params": [parts[0]]}, {"params": [parts[1]], "lr": 0.0025}]
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.01)
    values = []
    for t in range(STEPS):
        x = torch.cat([p.detach() for p in parts])
        gradient = problem["a"] * (x - problem["target"]) + problem["noise"][t]
        parts[0].grad, parts[1].grad = gradient[:PART].clone(), gradient[PART:].clone()
        optimizer.step()
        if t + 1 in KEPT:
            values.append(torch.cat([p.detach() for p in parts]))
    return {"values": torch.stack(values)}


def run(problem, make, warmup=0, decay="none", floor=0.0, clip=0.0, ema_decay=0.0):
    x = problem["start"].clone().requires_grad_()
    optimizer = make([x])
    lr = optimizer.param_groups[0]["lr"]
    ema = x.detach().clone()
    values, averages, ds, norms = [], [], [], []
    for t in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr * rate(t, warmup, decay, floor)
        x.grad = (problem["a"] * (x.detach() - problem["target"]) + problem["noise"][t]).clone()
        norms.append(float(x.grad.double().norm()))
        if clip:
            torch.nn.utils.clip_grad_norm_([x], clip)
        optimizer.step()
        keep = min(ema_decay, (1 + t) / (10 + t))
        ema = keep * ema + (1 - keep) * x.detach()
        ds.append(optimizer.param_groups[0].get("d", 0.0))
        if t + 1 in KEPT:
            values.append(x.detach().clone())
            averages.append(ema.clone())
    out = {"values": torch.stack(values), "d": torch.tensor(ds, dtype=torch.float64).float()}
    return {**out, "average": torch.stack(averages), "norms": torch.tensor(norms)}


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/optimizer")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(5)
    problem = {
        "start": torch.randn(COUNT),
        "target": torch.randn(COUNT),
        "a": torch.rand(COUNT) * 2 + 0.05,
        "noise": torch.randn(STEPS, COUNT) * 0.3,
    }
    adamw = lambda x: torch.optim.AdamW(x, lr=0.01, weight_decay=0.01)
    prodigy = lambda wd: lambda x: Prodigy(x, lr=1.0, weight_decay=wd, use_bias_correction=True, safeguard_warmup=True)
    cases = {
        "adamw": (run(problem, adamw), ["values"]),
        "adamw_parts": (run_parts(problem), ["values"]),
        "adamw_schedule": (
            run(problem, adamw, warmup=20, decay="cosine", floor=0.1, clip=2.0, ema_decay=0.95),
            ["values", "average", "norms"],
        ),
        "prodigy": (run(problem, prodigy(0)), ["values", "d"]),
        "prodigy_decay": (run(problem, prodigy(0.01), warmup=10, decay="linear"), ["values", "d"]),
    }
    tensors = dict(problem)
    for name, (result, kept) in cases.items():
        tensors.update({f"{name}.{key}": result[key] for key in kept})
    save_stable(tensors, folder / "optimizer.safetensors", {"steps": ",".join(map(str, KEPT))})


if __name__ == "__main__":
    main()
