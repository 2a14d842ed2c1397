#!/usr/bin/env python3
"""Peak resident memory of `ddit train` beside the bytes that it announces before it begins.

    python3 bench/train_memory.py [--ddit build/release/ddit] [--flux FOLDER] [--json]

Bar: peak <= 1.1 x announced. Peak resident is what the kernel counts for the process (wait4, ru_maxrss), mapped files included.
--flux names a folder of bench/train_flux_model.py, which is trained for a step as well. Only Python's standard library is
needed. Exit 1 when the bar is missed.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from memory import ROOT, peak_of, program

EMOJI = ["-m", "models/emoji"]
DATA = ["--prompts", "bench/prompts50.txt", "--trajectories", "4", "--points", "8"]
SHORT = [*DATA, "--steps", "4", "--sample-every", "0"]
CASES = [
    EMOJI + SHORT,
    EMOJI + SHORT + ["-t", "1"],
    EMOJI + SHORT + ["-t", "2", "--batch", "64"],
    EMOJI + SHORT + ["--precision", "f32"],
    EMOJI + SHORT + ["--size", "512x512"],
    EMOJI + SHORT + ["--size", "512x512", "--factors", "4", "--mixed", "0", "--rank", "8"],
    EMOJI + SHORT + ["--optimizer", "prodigy", "--ema", "0"],
    EMOJI + DATA + ["--steps", "4"],
]
WIDE = ["--prompts", "bench/prompts50.txt", "--trajectories", "1", "--points", "1", "--steps", "2", "--batch", "1"]


def measure(ddit, options):
    """Announced bytes and peak of one training in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        report = os.open(f"{folder}/report", os.O_WRONLY | os.O_CREAT, 0o600)
        shown = os.dup(1)
        os.dup2(report, 1)
        try:
            peak = peak_of([ddit, "train", *options, "-o", f"{folder}/a.safetensors", "-q", "--json"])
        finally:
            os.dup2(shown, 1)
            os.close(shown)
            os.close(report)
        return json.loads(Path(f"{folder}/report").read_text())["memory_bytes"], peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ddit")
    parser.add_argument("--flux")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.chdir(ROOT)
    ddit, rows, cases = program(args.ddit), [], list(CASES)
    if args.flux:
        cases.append(["-m", os.path.abspath(args.flux), *WIDE, "--factors", "2", "--mixed", "0", "--sample-every", "0"])
    for options in cases:
        announced, peak = measure(ddit, options)
        rows.append({"options": " ".join(options), "announced": announced, "peak": peak, "ok": peak <= 1.1 * announced})
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(f"{'peak':>7} {'told':>7} {'ratio':>6}  options (MB)")
        for r in rows:
            mark = "" if r["ok"] else "MISSED "
            print(f"{r['peak'] / 1e6:7.1f} {r['announced'] / 1e6:7.1f} {r['peak'] / r['announced']:6.2f}  {mark}{r['options']}")
    return 0 if all(r["ok"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
