#!/usr/bin/env python3
"""The training of `ddit train` in PyTorch on the CPU, to compare speeds: same samples, layouts, batch, loss and optimizer.

    python3 bench/train_torch.py -m models/emoji --cache FOLDER --prompts FILE --steps 50 --threads 2 [--compile]
    python3 bench/train_torch.py -m models/emoji --check

Targets are the base's cached velocities (trajectory-J.safetensors in or below FOLDER, as `ddit train --cache FOLDER` leaves
them); without --cache noise stands in for them, which costs the same time. The model is bench/train_torch_model.py: frozen bf16
weights, float32 master adapter, samples of one kind of layout in one batch, checkpoint per block, fused AdamW.
bench/train_flux_model.py makes a model folder of FLUX.1's width. Prints one JSON object: samples_per_second overall and by kind
of layout.

--check compares the velocities with tools/ddit_reference.py (float64) at every kind of layout with an adapter off its start,
and the gradients of the checkpointed blocks with those without; exit 1 if float32 deviates by more than 1e-5.
"""

import argparse
import json
import logging
import math
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from bench_common import MODEL, ROOT, load_average, machine

KINDS = ("x2", "x4", "mixed")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", type=Path, default=MODEL)
    parser.add_argument("--cache", type=Path, help="folder with trajectory-J.safetensors in it or below")
    parser.add_argument(
        "--prompts", type=Path, default=ROOT / "bench" / "prompts50.txt", help="trajectory J has prompt J %% count"
    )
    parser.add_argument("--factors", default="2,4")
    parser.add_argument("--mixed", type=float, default=0.2, help="share of mixed layouts; the rest is divided evenly")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--residual", default="linear+hf")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--steps", type=int, default=50, help="measured steps")
    parser.add_argument("--warm-up", type=int, default=5, help="steps that are not measured")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="torch.compile of the blocks")
    parser.add_argument("--write", type=Path, help="save the trained adapter")
    parser.add_argument("--check", action="store_true")
    return parser.parse_args()


# ---- data -------------------------------------------------------------------------------------------------------------------


def defaults(model):
    """Width, height (pixels), T5 length and the latent's channels of a model folder."""
    config = json.loads((model / "transformer" / "config.json").read_text())
    found = {"width": 1024, "height": 1024, "max_sequence_length": 512}
    if (model / "ddit.json").is_file():
        found |= json.loads((model / "ddit.json").read_text()).get("defaults", {})
    return found["width"], found["height"], found["max_sequence_length"], config["in_channels"] // 4


def encode(model, prompts, length):
    """T5 states [prompts, length, width] and CLIP's pooled [prompts, width], float32."""
    import torch
    from diffusers import FluxPipeline

    logging.disable(logging.WARNING)
    pipe = FluxPipeline.from_pretrained(model, transformer=None, vae=None, torch_dtype=torch.float32)
    with torch.no_grad():
        text, pooled, _ = pipe.encode_prompt(prompts, prompts, max_sequence_length=length)
    return text, pooled


class Samples:
    """Sample i of the run: a point of a trajectory, in an order that is shuffled anew for every pass."""

    def __init__(self, args):
        import torch
        from safetensors.torch import load_file

        width, height, length, channels = defaults(args.model)
        self.shape, self.rng = (channels, height // 8, width // 8), np.random.default_rng(args.seed)
        if args.cache:
            files = sorted(args.cache.rglob("trajectory-*.safetensors"), key=lambda p: int(p.stem.split("-")[1]))
            if not files or any(p.parent != files[0].parent for p in files):
                sys.exit(f"{args.cache}: expected the trajectories of one training, found {len(files)} files")
            prompts = [line.strip() for line in args.prompts.read_text().splitlines() if line.strip()]
            data = [load_file(p) for p in files]
            number = [int(p.stem.split("-")[1]) for p in files]
        else:
            g, points, prompts, number = torch.Generator().manual_seed(7), 4, ["red apple", "rocket"], list(range(8))
            noise = lambda: torch.randn(points, *self.shape, generator=g).half()
            data = [{"latent": noise(), "velocity": noise(), "sigma": torch.linspace(1, 0.1, points)} for _ in number]
        self.latent, self.velocity = torch.stack([d["latent"] for d in data]), torch.stack([d["velocity"] for d in data])
        self.sigma, self.prompt = torch.stack([d["sigma"] for d in data]).float(), [j % len(prompts) for j in number]
        self.text, self.pooled = encode(args.model, prompts, length)
        self.order = []

    def take(self, count):
        import torch

        while len(self.order) < count:
            self.order += self.rng.permutation(self.sigma.numel()).tolist()
        chosen, self.order = self.order[:count], self.order[count:]
        j, p = np.divmod(chosen, self.sigma.shape[1])
        j, p = torch.from_numpy(j), torch.from_numpy(p)
        prompt = torch.tensor([self.prompt[i] for i in j.tolist()])
        return self.latent[j, p].float(), self.velocity[j, p].float(), self.sigma[j, p], self.text[prompt], self.pooled[prompt]


# ---- training ---------------------------------------------------------------------------------------------------------------


def rate(step, steps):
    """Warm-up over 5 %, then a cosine."""
    warm = max(1, steps // 20)
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train(args):
    import torch
    from train_torch_model import Flux, patchify, random_layouts

    torch.manual_seed(args.seed)
    samples, factors = Samples(args), [int(k) for k in args.factors.split(",")]
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype]
    model = Flux(args.model, (factors, args.rank, args.residual), dtype, args.compile)
    parameters = list(model.adapter.parameters())
    for p in parameters:
        p.grad = torch.zeros_like(p)
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, weight_decay=0.01, fused=True)
    share = [(1 - args.mixed) / len(factors) if f in factors else 0.0 for f in (2, 4)] + [args.mixed]
    rng, total = np.random.default_rng(args.seed + 1), args.batch * args.accumulate
    rows, cols = samples.shape[1] // 2, samples.shape[2] // 2
    seconds, counts, losses = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0), []
    spent, load = 0.0, load_average()

    def one_kind(kind, count):
        z, target, sigma, text, pooled = samples.take(count)
        layouts = random_layouts(rng, kind, count, rows, cols, factors)
        guidance = torch.full((count,), args.guidance)
        parts, loss = model.velocity_cells(z, layouts, sigma, guidance, text, pooled), 0.0
        for k, (v, _) in parts.items():
            source, wanted = layouts.parts[k][0], patchify(target, k)
            loss = loss + F.mse_loss(v, wanted if source is None else wanted.flatten(0, 1)[source], reduction="sum")
        loss = loss / (target[0].numel() * total)
        loss.backward()
        return float(loss.detach()) * total / count

    import torch.nn.functional as F

    steps = args.warm_up + args.steps
    for step in range(steps):
        begin, measured = time.perf_counter(), step >= args.warm_up
        loss = {}
        for _ in range(args.accumulate):
            drawn = rng.choice(3, size=args.batch, p=share)
            for i, kind in enumerate(KINDS):
                count = int((drawn == i).sum())
                if not count:
                    continue
                start = time.perf_counter()
                loss[kind] = one_kind(kind, count)
                if measured:
                    seconds[kind] += time.perf_counter() - start
                    counts[kind] += count
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.param_groups[0]["lr"] = args.lr * rate(step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        with torch.no_grad():
            torch._foreach_lerp_(average, parameters, 1 - min(0.99, (1 + step) / (10 + step)))
        losses.append(loss)
        if measured:
            spent += time.perf_counter() - begin
    if args.write:
        with torch.no_grad():
            for p, a in zip(parameters, average):
                p.copy_(a)
        model.adapter.save(args.write)
    last = lambda kind: float(np.mean([x[kind] for x in losses[-20:] if kind in x] or [math.nan]))
    return {
        "samples_per_second": sum(counts.values()) / spent,
        "train_seconds": spent,
        "samples": sum(counts.values()),
        "by_kind": {k: counts[k] / seconds[k] for k in KINDS if counts[k]},
        "samples_by_kind": counts,
        "loss_of_last_20_steps": {k: last(k) for k in KINDS if counts[k]},
        "parameters": sum(p.numel() for p in parameters),
        "batch": args.batch,
        "accumulate": args.accumulate,
        "dtype": args.dtype,
        "threads": args.threads,
        "compile": args.compile,
        "torch": torch.__version__,
        "model": args.model.resolve().name,
        "machine": machine(),
        "load_before": load,
        "load_after": load_average(),
    }


# ---- check ------------------------------------------------------------------------------------------------------------------


def check(args):
    """Velocities against the plain float64 model; gradients with and without checkpoints."""
    import torch
    from ddit_reference import Flux as Reference
    from train_torch_model import Flux, Layouts, as_reference_cells, mixed_layout, to_latent

    factors, g, rng, b = [2, 4], torch.Generator().manual_seed(3), np.random.default_rng(3), 3
    options, worst = (factors, args.rank, args.residual), {}
    model = Flux(args.model, options, torch.float32)
    with torch.no_grad():
        for name, p in model.adapter.values.items():  # off the start: no zero that could hide an error
            p += (0.02 if "lora" in name else 0.1 * float(p.std(correction=0)) + 0.02) * torch.randn(p.shape, generator=g)
    low = Flux(args.model, options, torch.bfloat16)
    low.adapter.load_state_dict(model.adapter.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        model.adapter.save(f"{folder}/a.safetensors")
        reference = Reference(args.model, f"{folder}/a.safetensors")
    h = w = 32
    z = torch.randn(b, model.config["in_channels"] // 4, h, w, generator=g)
    text = torch.randn(b, 20, model.config["joint_attention_dim"], generator=g)
    pooled = torch.randn(b, model.config["pooled_projection_dim"], generator=g)
    sigma, guidance = torch.tensor([1.0, 0.61, 0.04]), torch.tensor([1.0, 3.5, 1.0])
    cells = [mixed_layout(rng, h // 2, w // 2, factors) for _ in range(b)]
    whole = {k: [(k, r, c) for r in range(0, h, 2 * k) for c in range(0, w, 2 * k)] for k in factors}
    cases = {f"x{k}": (Layouts(b, h // 2, w // 2, factor=k), [whole[k]] * b) for k in factors}
    cases["mixed"] = Layouts(b, h // 2, w // 2, cells=cells), [as_reference_cells(c) for c in cells]
    bad = False
    for kind, (layouts, lists) in cases.items():
        with torch.no_grad():
            ours = to_latent(model.velocity_cells(z, layouts, sigma, guidance, text, pooled), z, layouts)
            half = to_latent(low.velocity_cells(z, layouts, sigma, guidance, text, pooled), z, layouts)
            theirs = [reference.velocity(z[i], lists[i], sigma[i], guidance[i], text[i], pooled[i]) for i in range(b)]
        apart = lambda v: max(float((v[i] - theirs[i]).norm() / theirs[i].norm()) for i in range(b))  # noqa: B023
        worst[kind] = {
            "float32": apart(ours),
            "bf16": apart(half),
            "gradient": gradients_apart(model, layouts, z, text, pooled),
        }
        bad = bad or worst[kind]["float32"] > 1e-5 or worst[kind]["gradient"] > 1e-5
    print(json.dumps({"deviation": worst, "ok": not bad}))
    return 1 if bad else 0


def gradients_apart(model, layouts, z, text, pooled):
    """Largest relative difference of a parameter's gradient with and without checkpoints."""
    import torch

    found, run = [], model.block
    one = torch.full((len(z),), 0.5)
    for block in (run, lambda call, *a: call(*a)):
        model.block = block
        parts = model.velocity_cells(z, layouts, one, one, text, pooled)
        loss = sum(v.square().sum() for v, _ in parts.values())
        found.append(torch.autograd.grad(loss, list(model.adapter.parameters()), allow_unused=True))
    model.block = run
    return max(float((a - b).norm() / b.norm()) for a, b in zip(*found) if b is not None and float(b.norm()) > 0)


def main():
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    import torch

    torch.set_num_threads(args.threads)
    if args.check:
        sys.path.insert(0, str(ROOT / "tools"))
        return check(args)
    print(json.dumps(train(args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
