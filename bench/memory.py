#!/usr/bin/env python3
"""Peak resident memory of `ddit generate` beside the itemised total that `ddit inspect` tells beforehand.

    python3 bench/memory.py [--ddit build/release/ddit] [--json]

Bar: peak <= 1.1 x total + 16 MB; activations <= 2 x a count by hand. Peak resident is what the kernel counts for the process
(wait4, ru_maxrss), mapped files included. Only Python's standard library is needed. Exit 1 when a bar is missed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SLACK = 16 << 20
EMOJI = ["-m", "models/emoji"]
TINY = ["-m", "tests/golden/flux_head128", "--adapter", "none"]
SMALL = ["--max-sequence-length", "24", "--steps", "4"]
# what is drawn; the same options go to inspect
CASES = [
    EMOJI,
    EMOJI + ["-t", "1"],
    EMOJI + ["--precision", "f32"],
    EMOJI + ["--size", "272x400"],
    EMOJI + ["--size", "512x512", "--steps", "8"],
    EMOJI + ["--size", "1024x1024", "--steps", "2"],
    EMOJI + ["--cfg-scale", "3", "--steps", "8"],
    EMOJI + ["--patch", "region", "--steps", "8"],
    EMOJI + ["--patch", "2x4,1x4"],
    EMOJI + ["--max-sequence-length", "512", "--steps", "8"],
    TINY + SMALL + ["--size", "256x256", "--precision", "f32"],
]
ONLY_GENERATE = ["-p", "red apple", "--quiet"]


def program(given):
    for path in [given, os.environ.get("DDIT"), ROOT / "build" / "release" / "ddit", ROOT / "build" / "ddit"]:
        if path and Path(path).is_file():
            return str(Path(path).resolve())
    sys.exit("the program ddit was not found; build it first or give --ddit FILE")


def peak_of(command):
    """Peak resident bytes of a command, which must succeed. A child starts with at least this script's own size, about 12 MB."""
    pid = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)} failed: status {status}")
    return usage.ru_maxrss * 1024


def inspect(ddit, options):
    """The memory part of `ddit inspect --json` for a case; -m and --adapter are generate's way to say it."""
    rest = options[2:]
    if "--adapter" in rest:
        at = rest.index("--adapter")
        rest = rest[:at] + rest[at + 2 :]
    out = subprocess.run([ddit, "inspect", options[1], "--json", *rest], capture_output=True, text=True, check=True)
    return json.loads(out.stdout)["memory"]


def activations_by_hand(model, memory):
    """Bytes of the rows that a block holds at the same time, from the config alone: the float32 residual stream; normed rows, q, k,
    v; attention and MLP side by side. The latent cut into cells, positions and padding are what the factor of 2 is for."""
    config = json.loads((ROOT / model / "transformer" / "config.json").read_text())
    d = config["num_attention_heads"] * config["attention_head_dim"]
    act = 4 if "f32" in memory["device"].rsplit(",", 1)[-1] else 2
    rows = memory["text_tokens"] + (memory["width"] // 16) * (memory["height"] // 16)
    return rows * d * (4 + act * (1 + 3 + 5))


def item(memory, name):
    return next((i["bytes"] for i in memory["items"] if i["name"] == name), 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ddit")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    os.chdir(ROOT)
    ddit, rows = program(args.ddit), []
    with tempfile.TemporaryDirectory() as folder:
        for options in CASES:
            memory = inspect(ddit, options)
            peak = peak_of([ddit, "generate", *options, *ONLY_GENERATE, "-o", f"{folder}/a.png"])
            hand = activations_by_hand(options[1], memory)
            told = item(memory, "transformer activations")
            rows.append(
                {
                    "options": " ".join(options),
                    "device": memory["device"],
                    "peak": peak,
                    "total": memory["total"],
                    "phase": memory["peak_phase"],
                    "bar": int(1.1 * memory["total"]) + SLACK,
                    "activations": told,
                    "activations_by_hand": hand,
                    "ok": peak <= 1.1 * memory["total"] + SLACK and told <= 2 * hand,
                }
            )
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(f"{'peak':>7} {'told':>7} {'bar':>7}  {'phase':8} {'activations':>11} {'by hand':>8}  options (MB)")
        for r in rows:
            mb = {k: r[k] / 1e6 for k in ("peak", "total", "bar", "activations", "activations_by_hand")}
            print(
                f"{mb['peak']:7.1f} {mb['total']:7.1f} {mb['bar']:7.1f}  {r['phase']:8} {mb['activations']:11.2f} "
                f"{mb['activations_by_hand']:8.2f}  {'' if r['ok'] else 'MISSED '}{r['options']}"
            )
    return 0 if all(r["ok"] for r in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
