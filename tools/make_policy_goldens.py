#!/usr/bin/env python3
"""Makes tests/golden/policy: made-up runs (latents of a path that is smoother in some places than in others) and what the
policies
decide on them, computed by tools/ddit_policy.py.

  run_NN.safetensors   step.K.latent [16,h,w] float32, K = 0..N-1
  run_NN.json          a ddit trace (keys policy and steps): statistics, cells, layout at every step; beside the usual keys
                       policy.sigma_min, policy.tau_steps

No decision lies within 1e-3 of tau, so an implementation that rounds otherwise decides alike.
Usage: python3 tools/make_policy_goldens.py
"""

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from ddit_policy import cell_stds, choose_auto, choose_region, difference, effective_tau, region_stds, split_layout, statistic

OUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "policy"
MARGIN = 1e-3
# policy, order, share of the statistics seen that lie below tau, tau_steps, rho, floors, factors, (h, w), steps, seed
RUNS = [
    ("auto", 3, 0.5, 50, 0.4, {}, (2, 4), (16, 16), 10, 1),
    ("auto", 3, 0.7, 20, 0.4, {2: 0.3, 4: 0.5}, (2, 4), (12, 14), 9, 2),  # cells over the edge do not count
    ("auto", 2, 0.5, 12, 0.9, {}, (2, 4), (16, 8), 9, 3),
    ("auto", 1, 0.6, 50, 0.0, {4: 0.5}, (2, 4), (8, 10), 9, 4),
    ("auto", 3, 0.5, 9, 1.0, {}, (2,), (10, 10), 9, 5),
    ("region", 3, 0.5, 50, 0.4, {}, (2, 4), (16, 24), 9, 6),
    ("region", 3, 0.6, 12, 0.4, {2: 0.2, 4: 0.5}, (2, 4), (12, 14), 9, 7),
    ("region", 2, 0.5, 12, 0.4, {}, (2,), (16, 16), 8, 8),
    ("region", 1, 0.5, 12, 0.4, {}, (4,), (20, 8), 8, 9),
]


def made_up_latents(h, w, steps, sigmas, seed):
    """noise -> picture; the picture bends on the way, more in some places, and less and less in the middle of the run."""
    rng = np.random.default_rng(seed)
    noise, picture, bend = rng.standard_normal((3, 16, h, w))
    rows, cols = np.mgrid[0:h, 0:w]
    where = 0.02 + np.exp(-((rows - h * 0.7) ** 2 + (cols - w * 0.3) ** 2) / (0.06 * h * w))
    out = []
    for k in range(steps):
        s = sigmas[k]
        wiggle = 0.12 * np.sin(2.1 * k + 0.3) * np.exp(-((k - 1.0) ** 2) / 9) + 0.06 * np.cos(2.6 * k) * np.exp(
            -((k - steps + 1.0) ** 2) / 6
        )
        out.append((s * noise + (1 - s) * picture + where * bend * (wiggle + 0.4 * s * (1 - s))).astype(np.float32))
    return out


def middle_tau(run, latents):
    """A tau with the wished share of the run's statistics below it, in the middle of the gap between two of them."""
    name, order, below, _, rho, _, factors, _, steps, _ = run
    seen = []
    for k in range(order, steps):
        d = difference(latents[: k + 1], order)
        for f in factors:
            seen += [statistic(d, f, rho)] if name == "auto" else cell_stds(d, f).flatten().tolist()
    seen.sort()
    i = min(int(below * len(seen)), len(seen) - 1)
    return (seen[i - 1] + seen[i]) / 2


def decide(run, latents, sigmas):
    name, order, below, tau_steps, rho, sigma_min, factors, (h, w), steps, _ = run
    tau = round(middle_tau(run, latents) / effective_tau(1, tau_steps, steps, order), 6)
    used = effective_tau(tau, tau_steps, steps, order)
    out, margin = [], np.inf
    for k in range(steps):
        d = difference(latents[: k + 1], order) if k >= order else None
        stats = {f: statistic(d, f, rho) if d is not None and f in factors else None for f in (2, 4)}
        cells, layout = {"1": 0, "2": 0, "4": 0}, None
        if name == "auto" or d is None:
            factor = choose_auto(stats, used, sigmas[k], sigma_min) if d is not None else 1
            cells[str(factor)] = -(-h // (2 * factor)) * -(-w // (2 * factor))
            near = [s for s in stats.values() if s is not None]
        else:
            stds = region_stds(d, factors, sigmas[k], sigma_min)
            layout = choose_region(stds, used)
            near = [s for f in stds for s in stds[f].flatten() if np.isfinite(s)]
            whole = "".join(split_layout(layout))
            cells["4"], cells["2"] = whole.count("4"), whole.count("2")
            cells["1"] = h * w // 4 - 16 * cells["4"] - 4 * cells["2"]
        margin = min([margin] + [abs(s / used - 1) for s in near])
        out.append(
            {
                "index": k,
                "sigma": float(sigmas[k]),
                "sigma_next": float(sigmas[k + 1]),
                "stat": {str(f): s for f, s in stats.items()},
                "cells": cells,
                "layout": layout,
            }
        )
    policy = {
        "name": name,
        "tau": tau,
        "tau_steps": tau_steps,
        "tau_effective": used,
        "rho": rho,
        "order": order,
        "sigma_min": {str(k): v for k, v in sigma_min.items()},
    }
    return {"format": "ddit-trace", "version": 1, "width": w * 8, "height": h * 8, "policy": policy, "steps": out}, margin


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    for i, run in enumerate(RUNS):
        (h, w), steps = run[7], run[8]
        sigmas = np.append(np.linspace(1, 1 / steps, steps), 0).astype(np.float32)
        for seed in range(run[9], 1000, 100):
            latents = made_up_latents(h, w, steps, sigmas, seed)
            trace, margin = decide(run, latents, sigmas)
            if margin > MARGIN:
                break
        else:
            raise SystemExit(f"run {i}: every seed has a decision next to tau")
        save_file({f"step.{k}.latent": z for k, z in enumerate(latents)}, OUT / f"run_{i:02}.safetensors")
        (OUT / f"run_{i:02}.json").write_text(json.dumps(trace, indent=1) + "\n")
        seen = [s["layout"] or "/".join(f for f, n in s["cells"].items() if n) for s in trace["steps"]]
        print(f"run {i:02} {run[0]} order {run[1]} margin {margin:.1e}: {' '.join(seen)}")
    for path in OUT.iterdir():
        path.chmod(0o644)


if __name__ == "__main__":
    main()
