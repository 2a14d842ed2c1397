#!/usr/bin/env python3
"""Runs two commands alternately, A B A B ..., and compares a figure that each prints as JSON.

    python3 bench/paired.py [-n 7] [--key-a seconds] [--key-b phases.denoise/20] "COMMAND A" "COMMAND B"

A key names a number in the JSON object on standard output: `seconds`, `phases.denoise`, `shapes.0.seconds`; `/` divides by
another key, by a number or by the length of a list. Prints medians, the median of the ratios A/B (how many times faster B
is, if
the figures are times), minima and maxima, the processor, and the load before and after.
"""

import argparse
import json
import statistics
import subprocess
import sys

from bench_common import figure, last_json, load_average, machine


def once(command, key):
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"exit {done.returncode}: {command}\n{done.stderr.strip()[-2000:]}")
    return figure(last_json(done.stdout), key)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("a")
    parser.add_argument("b")
    parser.add_argument("-n", type=int, default=7, help="pairs, at least 7")
    parser.add_argument("--key", default="seconds")
    parser.add_argument("--key-a")
    parser.add_argument("--key-b")
    parser.add_argument("--bar", type=float, help="exit 1 if the median ratio is below")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the text")
    args = parser.parse_args()
    if args.n < 7:
        print(f"note: {args.n} pairs; figures to be quoted need at least 7", file=sys.stderr)
    before, a, b = load_average(), [], []
    for i in range(args.n):
        a.append(once(args.a, args.key_a or args.key))
        b.append(once(args.b, args.key_b or args.key))
        print(f"pair {i + 1}: A {a[-1]:.6g}  B {b[-1]:.6g}  A/B {a[-1] / b[-1]:.3f}", file=sys.stderr)
    ratios, after = [x / y for x, y in zip(a, b)], load_average()
    result = {
        "pairs": args.n,
        "a": a,
        "b": b,
        "median_a": statistics.median(a),
        "median_b": statistics.median(b),
        "median_ratio": statistics.median(ratios),
        "min_ratio": min(ratios),
        "max_ratio": max(ratios),
        "machine": machine(),
        "load_before": before,
        "load_after": after,
        "command_a": args.a,
        "command_b": args.b,
    }
    if args.json:
        print(json.dumps(result))
    else:
        m = result["machine"]
        print(f"A: {args.a}\nB: {args.b}")
        for name, values in (("A", a), ("B", b)):
            print(f"{name}: median {statistics.median(values):.6g}, min {min(values):.6g}, max {max(values):.6g}")
        print(f"A/B: median of {args.n} ratios {result['median_ratio']:.3f}, min {min(ratios):.3f}, max {max(ratios):.3f}")
        print(
            f"processor: {m['cpu']} (family {m['family']}, model {m['model']}), {m['cpus']} CPUs, "
            f"L2 {m['L2']}, L3 {m['L3']}; {' '.join(m['flags'])}"
        )
        print(f"load average before {before}, after {after}")
    return 1 if args.bar and result["median_ratio"] < args.bar else 0


if __name__ == "__main__":
    sys.exit(main())
