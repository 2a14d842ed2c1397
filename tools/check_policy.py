#!/usr/bin/env python3
"""Checks the policy of a run of ddit against an independent computation on its saved latents.

    ddit generate ... --patch auto|region --save-latent RUN.safetensors --save-steps --trace TRACE.json
    python3 tools/check_policy.py RUN.safetensors TRACE.json [--sigma-min 2:0.3,4:0.9|none] [--adapter FILE] [--quiet]

Compares every traced statistic (1e-5 relative) and every decision where |s/tau - 1| > 1e-4, and, if step.K.velocity is
there, the
Euler steps. tau is the trace's policy.tau_effective. The floors come from the option, else the trace (policy.sigma_min), else
the adapter's metadata, else there are none. Exit status 1 if anything disagrees.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from safetensors import safe_open

from ddit_policy import choose_auto, choose_region, difference, parse_sigma_min, region_stds, split_layout, statistic

STAT_TOLERANCE, DECISION_MARGIN, EULER_TOLERANCE = 1e-5, 1e-4, 1e-6


def adapter_metadata(path):
    if path and Path(path).is_file():
        with safe_open(path, "np") as f:
            return f.metadata() or {}
    return {}


def floors(option, trace, metadata):
    if option is not None:
        return parse_sigma_min(option)
    if "sigma_min" in trace["policy"]:
        return parse_sigma_min(trace["policy"]["sigma_min"])
    return parse_sigma_min(metadata.get("sigma_min"))


def factors_of(trace, metadata):
    """The factors the run might use: the adapter's, else those whose statistic was traced."""
    if "factors" in metadata:
        return sorted(int(k) for k in metadata["factors"].split(",") if int(k) > 1)
    return sorted({int(k) for step in trace["steps"] for k, v in step["stat"].items() if v is not None and int(k) > 1})


def layout_text(step, blocks):
    """The traced layout, or the string of a uniform layout that was traced as null."""
    present = [f for f, n in step["cells"].items() if n]
    if step["layout"]:
        return step["layout"]
    return {"4": "4", "2": "(2222)", "1": "(1111)"}[present[0]] * blocks if len(present) == 1 else ""


def near(s, tau):
    return s is not None and np.isfinite(s) and abs(s / tau - 1) <= DECISION_MARGIN


def check_region(traced, stds, tau):
    """Number of letters that differ although the statistic is not next to tau."""
    wrong, cols = 0, stds[4].shape[1]
    blocks = split_layout(traced)
    if len(blocks) != stds[4].size:
        return stds[4].size
    for i, (found, expected) in enumerate(zip(blocks, split_layout(choose_region(stds, tau)))):
        r, c = divmod(i, cols)
        if (found == "4") != (expected == "4"):
            wrong += not near(stds[4][r, c], tau)
        elif found != "4":
            wrong += sum(
                a != b and not near(stds[2][2 * r + q // 2, 2 * c + q % 2], tau)
                for q, (a, b) in enumerate(zip(found, expected))
            )
    return wrong


def check_steps(latents, velocities, trace, sigma_min, factors):
    """Yields one line per step: (text, problems)."""
    policy = trace["policy"]
    order, rho, tau, region = policy["order"], policy["rho"], policy["tau_effective"], policy["name"] == "region"
    traced_stats = any(v is not None for step in trace["steps"] for v in step["stat"].values())
    _, h, w = latents[0].shape
    counts = {k: -(-h // (2 * k)) * -(-w // (2 * k)) for k in (1, 2, 4)}
    for k, step in enumerate(trace["steps"]):
        problems, texts, stats = [], [], {}
        d = difference(latents[: k + 1], order) if k >= order else None
        for factor in factors if not region or (rho is not None and traced_stats) else []:
            traced = step["stat"].get(str(factor))
            s = stats[factor] = statistic(d, factor, rho) if d is not None else None
            if (s is None) != (traced is None):
                problems.append(f"statistic of factor {factor}: {traced}, expected {s}")
            elif s is not None:
                error = abs(traced - s) / max(s, 1e-30)
                texts.append(f"s{factor} {s:.4e} ({error:.0e})")
                if not error <= STAT_TOLERANCE:
                    problems.append(f"statistic of factor {factor}: {traced}, expected {s}")
        present = {int(f): n for f, n in step["cells"].items() if n}
        if region and d is not None:
            stds = region_stds(d, factors or [2, 4], step["sigma"], sigma_min)
            layout = layout_text(step, stds[4].size)
            wrong = check_region(layout, stds, tau)
            if wrong:
                problems.append(f"{wrong} cells of the layout decided otherwise")
            texts.append(layout)
        else:
            expected = 1 if region or d is None else choose_auto(stats, tau, step["sigma"], sigma_min)
            if present != {expected: counts[expected]}:
                message = f"cells {present}, expected factor {expected} with {counts[expected]}"
                if any(near(s, tau) for s in stats.values()):
                    texts.append(f"next to tau: {message}")
                else:
                    problems.append(message)
        if k in velocities:
            target = latents[k + 1] if k + 1 < len(latents) else velocities["latent"]
            if target is not None:
                dt = np.float32(step["sigma_next"]) - np.float32(step["sigma"])
                error = np.abs(latents[k] + dt * velocities[k] - target).max() / max(np.abs(target).max(), 1e-30)
                if error > EULER_TOLERANCE:
                    problems.append(f"the Euler step is off by {error:.1e}")
        cells = " ".join(f"{f}:{n}" for f, n in sorted(present.items()))
        yield f"{k:3}  sigma {step['sigma']:.5f}  cells {cells:22} {'  '.join(texts)}", problems


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("trace")
    parser.add_argument("--sigma-min")
    parser.add_argument("--adapter")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    trace = json.loads(Path(args.trace).read_text())
    with safe_open(args.run, "np") as f:
        names = set(f.keys())
        steps = len(trace["steps"])
        missing = [k for k in range(steps) if f"step.{k}.latent" not in names]
        if missing:
            sys.exit(f"{args.run}: step.{missing[0]}.latent is missing; the run needs --save-steps")
        latents = [f.get_tensor(f"step.{k}.latent").astype(np.float32) for k in range(steps)]
        velocities = {k: f.get_tensor(f"step.{k}.velocity") for k in range(steps) if f"step.{k}.velocity" in names}
        velocities["latent"] = f.get_tensor("latent") if "latent" in names else None
    metadata = adapter_metadata(args.adapter or trace.get("adapter"))
    sigma_min, factors = floors(args.sigma_min, trace, metadata), factors_of(trace, metadata)
    bad = 0
    for text, problems in check_steps(latents, velocities, trace, sigma_min, factors):
        bad += len(problems)
        if not args.quiet or problems:
            print(text)
        for problem in problems:
            print(f"     WRONG: {problem}")
    policy = trace["policy"]
    print(
        f"{args.run}: {policy['name']} order {policy['order']} tau {policy['tau_effective']:.6g} "
        f"rho {policy['rho']} floors {sigma_min}: "
        f"{steps} steps, {bad} disagreements"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
