#!/usr/bin/env python3
"""Samples per second of `ddit train` and of the same training in PyTorch (bench/train_torch.py), run alternately.

    python3 bench/train_paired.py [-n 7] [--threads 1,2] [-m models/emoji] [--steps 40] [--ddit build/release/ddit] [--bar 1.3]
    python3 bench/train_flux_model.py /tmp/wide
    python3 bench/train_paired.py -m /tmp/wide --factors 2 --mixed 0 --batch 2 --steps 3 --warm-up 1 --trajectories 1 --points 4

Both read the same cached trajectories, which a first, uncounted run of ddit makes. ddit's figure counts all steps of a run,
PyTorch's leaves its first --warm-up steps out. Prints, for each number of threads, medians, the median of the ratios
ddit / PyTorch, their range, the processor and the load; exit 1 if a median ratio is below --bar.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_common import MODEL, ROOT, ddit_program, last_json, load_average, machine


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=7, help="pairs, at least 7 for figures that are quoted")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("-m", "--model", type=Path, default=MODEL)
    parser.add_argument("--prompts", type=Path, default=ROOT / "bench" / "prompts50.txt")
    parser.add_argument("--trajectories", type=int, default=64)
    parser.add_argument("--points", type=int, default=16)
    parser.add_argument("--factors", default="2,4")
    parser.add_argument("--mixed", default="0.2")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--warm-up", type=int, default=5, help="of PyTorch")
    parser.add_argument("--compile", action="store_true", help="PyTorch's blocks compiled (give a larger --warm-up)")
    parser.add_argument("--ddit")
    parser.add_argument("--bar", type=float)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the text")
    return parser.parse_args()


def run(command, threads):
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS=str(threads)))
    if done.returncode:
        sys.exit(f"exit {done.returncode}: {' '.join(command)}\n{done.stderr.strip()[-2000:]}")
    return last_json(done.stdout)


def common(args, cache):
    """The options that both programs understand alike."""
    out = ["-m", args.model, "--prompts", args.prompts, "--cache", cache, "--factors", args.factors, "--mixed", args.mixed]
    return [str(x) for x in out + ["--batch", args.batch]]


def ddit(args, program, folder, threads, steps):
    """One training by ddit in a folder of its own, the cache kept."""
    shutil.rmtree(folder / "a.run", ignore_errors=True)
    command = [program, "train", "-o", str(folder / "a.safetensors"), *common(args, folder / "cache"), "-t", str(threads)]
    command += ["--trajectories", str(args.trajectories), "--points", str(args.points), "--sample-every", "0"]
    return run(command + ["--steps", str(steps), "--save-every", "1000000", "--json", "-q"], threads)


def torch(args, folder, threads):
    command = [sys.executable, str(ROOT / "bench" / "train_torch.py"), *common(args, folder / "cache")]
    command += ["--threads", str(threads), "--steps", str(args.steps), "--warm-up", str(args.warm_up)]
    return run(command + (["--compile"] if args.compile else []), threads)


def pairs(args, program, folder, threads):
    a, b, kinds, before = [], [], [], load_average()
    for i in range(args.n):
        a.append(ddit(args, program, folder, threads, args.steps)["samples_per_second"])
        other = torch(args, folder, threads)
        b.append(other["samples_per_second"])
        kinds.append(other["by_kind"])
        print(
            f"{threads} threads, pair {i + 1}: ddit {a[-1]:.4g}  torch {b[-1]:.4g}  ratio {a[-1] / b[-1]:.3f}", file=sys.stderr
        )
    ratios = [x / y for x, y in zip(a, b)]
    return {
        "threads": threads,
        "ddit": a,
        "torch": b,
        "torch_by_kind": {k: statistics.median(x[k] for x in kinds if k in x) for k in sorted({k for x in kinds for k in x})},
        "median_ddit": statistics.median(a),
        "median_torch": statistics.median(b),
        "median_ratio": statistics.median(ratios),
        "min_ratio": min(ratios),
        "max_ratio": max(ratios),
        "load_before": before,
        "load_after": load_average(),
    }


def show(args, result):
    for r in result["threads"]:
        print(
            f"{r['threads']} threads: ddit {r['median_ddit']:.4g} samples/s, PyTorch {r['median_torch']:.4g}; median of "
            f"{args.n} ratios {r['median_ratio']:.3f} ({r['min_ratio']:.3f} to {r['max_ratio']:.3f}); "
            f"load {r['load_before']} before, {r['load_after']} after"
        )
    m = result["machine"]
    print(f"processor: {m['cpu']} (family {m['family']}, model {m['model']}), {m['cpus']} CPUs, L3 {m['L3']}")
    print(" ".join(m["flags"]))


def main():
    args = arguments()
    program = os.path.abspath(ddit_program(args.ddit or (ROOT / "build" / "release" / "ddit")))
    if args.n < 7:
        print(f"note: {args.n} pairs; figures to be quoted need at least 7", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ddit(args, program, folder, max(map(int, args.threads.split(","))), 1)
        result = {"threads": [pairs(args, program, folder, int(t)) for t in args.threads.split(",")], "machine": machine()}
    result["options"] = {k: str(v) for k, v in vars(args).items()}
    if args.json:
        print(json.dumps(result))
    else:
        show(args, result)
    return 1 if args.bar and any(r["median_ratio"] < args.bar for r in result["threads"]) else 0


if __name__ == "__main__":
    sys.exit(main())
