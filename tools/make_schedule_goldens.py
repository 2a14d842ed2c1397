#!/usr/bin/env python3
"""Makes tests/golden/schedule/*.json: what the room `schedule` must compute, from diffusers, torch and plain Python.

    python3 tools/make_schedule_goldens.py [FOLDER]

noise.json     sigmas and times of FluxPipeline's scheduler (diffusers): a few in full, all step numbers 1..1000 as hashes
quantile.json  torch.quantile in float32
policy.json    decisions of auto and region on random statistics, written here from the definitions and not from the C; a case
               is [seed, rows, cols, kind, steps, index, order, rho, tau, by hand, tau_steps, effective tau, sigma, sigma_min of
               factor 2 and 4, allowed, statistic, layout string of region, cells of factor 1, 2, 4]

float32 values are kept as the hexadecimal of their bits. Needs torch, numpy, diffusers (made with 2.13, 2.4, 0.42.1).
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

f32 = np.float32


def bits(x):
    return struct.pack(">f", float(x)).hex()


def fnv(data, h=0xCBF29CE484222325):
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & (2**64 - 1)
    return h


# ---------------------------------------------------------------------------------------------------------------- noise levels


def schedule(params, tokens, steps):
    """Sigmas [N + 1] and times [N] as FluxPipeline asks the scheduler for them."""
    scheduler = FlowMatchEulerDiscreteScheduler(**params)
    return rerun(scheduler, tokens, steps)


def rerun(scheduler, tokens, steps):
    c = scheduler.config
    mu = calculate_shift(tokens, c.base_image_seq_len, c.max_image_seq_len, c.base_shift, c.max_shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device="cpu")
    return scheduler.sigmas.numpy(), scheduler.timesteps.numpy()


def noise_goldens():
    dynamic = dict(use_dynamic_shifting=True, shift=3.0)
    configs = [(dynamic, tokens) for tokens in (16, 256, 425, 1024, 1056, 4096, 16384)]
    configs += [
        (dict(dynamic, base_shift=0.25, max_shift=1.9, base_image_seq_len=100, max_image_seq_len=5000), 700),
        (dict(dynamic, time_shift_type="linear"), 1024),
        (dict(shift=1.0), 4096),
        (dict(shift=3.0), 4096),
        (dict(shift=0.6), 64),
        (dict(shift=8.3), 256),
    ]
    cases = []
    for params, tokens in configs:
        scheduler = FlowMatchEulerDiscreteScheduler(**params)
        case = {"params": params, "tokens": tokens, "full": {}, "hashes": []}
        for steps in (1, 2, 3, 4, 8, 20):
            sigmas, times = rerun(scheduler, tokens, steps)
            case["full"][str(steps)] = ["".join(map(bits, sigmas)), "".join(map(bits, times))]
        for first in range(1, 1001, 100):  # one hash over the bytes (little end first) of sigmas and times of 100 step numbers
            h = fnv(b"")
            for steps in range(first, first + 100):
                sigmas, times = rerun(scheduler, tokens, steps)
                h = fnv(sigmas.astype("<f4").tobytes() + times.astype("<f4").tobytes(), h)
            case["hashes"].append(f"{h:016x}")
        cases.append(case)
    return cases


# ------------------------------------------------------------------------------------------ random numbers of tests/harness.c


class Random:
    def __init__(self, seed):
        self.state = seed

    def u32(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) % 2**64
        return (((self.state >> 33) ^ (self.state >> 18)) % 2**32 * 2654435761) % 2**32

    def array(self, count, scale):
        return np.array([f32(scale) * f32((self.u32() >> 8) * 2.0**-24) for _ in range(count)], f32)


def quantile_goldens(rng):
    cases = []
    for i in range(120):
        seed = int(rng.integers(1, 2**31))
        count = int(rng.integers(1, 40)) if i % 2 else int(rng.integers(1, 3000))
        rho = [0.4, 0.0, 1.0, 0.5, round(float(rng.random()), 3)][i % 5]
        values = Random(seed).array(count, 0.01)
        cases.append([seed, count, rho, bits(torch.quantile(torch.from_numpy(values), rho))])
    return cases


# -------------------------------------------------------------------------------------------------------------------- decisions


def decide_auto(c, stds, tau):
    for k in (4, 2):
        if c["allowed"].get(k) and k in stds and c["sigma"] >= c["sigma_min"].get(k, 0):
            if float(torch.quantile(torch.from_numpy(stds[k].ravel()), c["rho"])) < tau:
                return k
    return 1


def decide_region(c, stds, tau, rows, cols):
    def accepted(k, i, j):
        if not c["allowed"].get(k) or k not in stds or c["sigma"] < c["sigma_min"].get(k, 0):
            return False
        return (i + 1) * k <= rows and (j + 1) * k <= cols and float(stds[k][i, j]) < tau

    text = ""
    for i in range(-(-rows // 4)):
        for j in range(-(-cols // 4)):
            if accepted(4, i, j):
                text += "4"
            else:
                text += "(" + "".join("2" if accepted(2, 2 * i + a, 2 * j + b) else "1" for a in (0, 1) for b in (0, 1)) + ")"
    return text


def cells_of(text, rows, cols):
    """Numbers of cells of factor 1, 2, 4, counted over base cells."""
    covered = {1: 0, 2: 0, 4: 0}
    position = 0
    for i in range(0, rows, 4):
        for j in range(0, cols, 4):
            if text[position] == "4":
                covered[4] += 16
                position += 1
                continue
            for q in range(4):
                for a in range(2):
                    for b in range(2):
                        inside = i + 2 * (q // 2) + a < rows and j + 2 * (q % 2) + b < cols
                        covered[int(text[position + 1 + q])] += inside
            position += 6
    return [covered[1], covered[2] // 4, covered[4] // 16]


def policy_case(i, rng):
    seed = int(rng.integers(1, 2**31))
    rows, cols = (int(x) for x in rng.integers(4, 22, 2))
    kind = ["auto", "region"][i % 2]
    steps = int(rng.choice([4, 20, 28, 50, 50]))
    order = int(rng.integers(1, 4))
    index = int(rng.integers(0, steps))
    by_hand = bool(rng.integers(0, 2))
    tau_steps = float(rng.choice([50, 28]))
    wanted = float(rng.uniform(0.1, 0.9)) * 0.01  # where the random stds lie
    if kind == "auto":
        wanted = float(rng.uniform(0.6, 1.6)) * 0.004
    tau = wanted if by_hand else wanted / (tau_steps / steps) ** order
    tau = float(f"{tau:.4g}")
    rho = 0.4 if kind == "region" or i % 3 else round(float(rng.uniform(0.2, 0.7)), 3)
    sigma = float(f32([0.3, 0.9, rng.random(), rng.random()][int(rng.integers(0, 4))]))
    c = {
        "rho": rho,
        "sigma": sigma,
        "sigma_min": [{}, {}, {2: 0.3, 4: 0.9}, {4: 0.5}][int(rng.integers(0, 4))],
        "allowed": [{2: 1, 4: 1}, {2: 1, 4: 1}, {2: 1}, {4: 1}][int(rng.integers(0, 4))],
    }
    effective = tau if by_hand else tau * (tau_steps / steps) ** order
    source = Random(seed)
    stds = {}
    for k in (2, 4):  # drawn for both, used where allowed and from step `order` on
        drawn = source.array((rows // k) * (cols // k), 0.01).reshape(rows // k, cols // k)
        if c["allowed"].get(k) and index >= order:
            stds[k] = drawn
    stat = {k: torch.quantile(torch.from_numpy(v.ravel()), rho) for k, v in stds.items()}
    if kind == "auto":
        factor = decide_auto(c, stds, effective)
        layout, cells = "", [0, 0, 0]
        cells[(1, 2, 4).index(factor)] = (-(-rows // factor)) * (-(-cols // factor))
    else:
        layout = decide_region(c, stds, effective, rows, cols)
        cells = cells_of(layout, rows, cols)
    return [
        seed,
        rows,
        cols,
        kind,
        steps,
        index,
        order,
        rho,
        tau,
        int(by_hand),
        tau_steps,
        effective,
        bits(sigma),
        [c["sigma_min"].get(k, 0.0) for k in (2, 4)],
        [c["allowed"].get(k, 0) for k in (2, 4)],
        [bits(stat[k]) if k in stat else None for k in (2, 4)],
        layout,
        cells,
    ]


def write(path, cases):
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    path.write_text(f"[\n{lines}\n]\n")
    print(f"{path}: {len(cases)} cases, {path.stat().st_size} bytes")


def main():
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests/golden/schedule")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    write(folder / "quantile.json", quantile_goldens(rng))
    policies = [policy_case(i, rng) for i in range(220)]
    write(folder / "policy.json", policies)
    kinds = [tuple(n > 0 for n in c[-1]) for c in policies]
    print("  decisions by factors present:", {k: kinds.count(k) for k in sorted(set(kinds))})
    write(folder / "noise.json", noise_goldens())


if __name__ == "__main__":
    main()
