#!/usr/bin/env python3
"""How close adapters bring coarse steps to the base: held-out losses, and PSNR and SSIM of pictures at fixed schedules.

    python3 bench/adapter_worth.py --heldout tests/heldout/emoji.safetensors NAME=ADAPTER.safetensors [NAME=free ...]
        [--model FOLDER] [--ddit FILE] [--out FOLDER] [--prompts 50] [--schedules 2x50,1x10+2x30+1x10] [--guidance G]

Every prompt of prompts50.txt is drawn by the base and, with the same seed, by each adapter at each schedule (`+` stands for the
comma inside a schedule, `region:TAU` for cell by cell with that threshold), all without anchors. `NAME=free` is the coarse
step without adapter. Held-out losses are those of `ddit train --steps 0 --init`, unweighted means. Pictures
that the same program drew with the same model and adapter are not drawn again.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from bench_common import MODEL, ROOT, ddit_program, digest_of, last_json, machine, psnr, read_png, run_ddit, ssim
from safetensors import safe_open

STEPS = 50


def arguments(adapter, schedule):
    out = ["--adapter", "none", "--coarse", "free"] if adapter == "free" else ["--adapter", adapter]
    if schedule.startswith("region:"):
        return out + ["--patch", "region", "--tau", schedule.split(":")[1], "--sigma-min", "none", "--anchor", "0"]
    return out + ["--patch", schedule.replace("+", ","), "--anchor", "0"]


def heldout(program, model, adapter, file):
    """Losses at factor 2, 4 and mixed."""
    if adapter == "free" or not file:
        return {}
    with safe_open(adapter, "np") as f:
        meta = f.metadata()
    command = [program, "train", "-m", str(model), "--steps", "0", "--eval", str(file), "--init", adapter, "--json", "-q"]
    command += ["--rank", meta["rank"], "--residual", meta["residual"], "--prompts", str(ROOT / "bench" / "prompts50.txt")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return last_json(done.stdout)["heldout_last"]


def draw(program, args, name, adapter, extra, prompts):
    """Paths of the pictures and mean image tokens of a step."""
    source = digest_of([program, args.model] + ([] if adapter in (None, "free") else [adapter]))[:12]
    name = f"{source} {name} {args.guidance or ''}".strip()
    folder = args.out / "".join(c if c.isalnum() or c in "-." else "_" for c in name)
    extra = extra + (["--guidance", str(args.guidance)] if args.guidance else [])
    folder.mkdir(parents=True, exist_ok=True)
    tokens = []
    for i, prompt in enumerate(prompts):
        trace = folder / f"{i:02}.json"
        if not trace.is_file():
            picture = ["-m", str(args.model), "-p", prompt, "-s", str(i), "--steps", str(STEPS)]
            run_ddit(program, [*picture, "-o", str(folder / f"{i:02}.png"), "--trace", str(trace), *extra])
        steps = json.loads(trace.read_text())["steps"]
        tokens.append(statistics.mean(s["tokens"]["image"] for s in steps))
    return [folder / f"{i:02}.png" for i in range(len(prompts))], statistics.mean(tokens)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("adapters", nargs="+")
    parser.add_argument("--heldout", type=Path)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--ddit")
    parser.add_argument("--out", type=Path, default=Path("/tmp/adapter-worth"))
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--guidance", type=float, help="of the pictures; the model's")
    parser.add_argument("--schedules", default="2x50,1x10+2x30+1x10")
    args = parser.parse_args()
    program = ddit_program(args.ddit)
    prompts = (ROOT / "bench" / "prompts50.txt").read_text().splitlines()[: args.prompts]
    base, _ = draw(program, args, "base", None, ["--patch", "off"], prompts)
    reference = [read_png(p) for p in base]
    print(f"# {machine()['cpu']}, {len(prompts)} prompts, {STEPS} steps")
    print("| adapter | held-out x2 | x4 | mixed | schedule | image tokens | PSNR | min | SSIM |\n|---|---|---|---|---|---|---|---|---|")
    for entry in args.adapters:
        name, adapter = entry.split("=", 1)
        losses = heldout(program, args.model, adapter, args.heldout)
        for schedule in args.schedules.split(","):
            if adapter == "free" and schedule.startswith("region"):
                continue
            extra = arguments(adapter, schedule)
            pictures, tokens = draw(program, args, f"{name} {schedule}", adapter, extra, prompts)
            scores = [(psnr(a, read_png(p)), ssim(a, read_png(p))) for a, p in zip(reference, pictures)]
            p, s = zip(*scores)
            shown = [f"{losses[k]:.3f}" if losses.get(k) is not None else "" for k in ("x2", "x4", "mixed")]
            print(f"| {name} | {' | '.join(shown)} | `{schedule.replace('+', ',')}` | {tokens:.0f} | {statistics.mean(p):.2f} | "
                  f"{min(p):.2f} | {statistics.mean(s):.4f} |", flush=True)


if __name__ == "__main__":
    main()
