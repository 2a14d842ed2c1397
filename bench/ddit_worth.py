#!/usr/bin/env python3
"""The table "DDiT is worth it": the embedded model, 50 steps, 50 prompts; speed-up of the denoising loop by the clock and
closeness
to the pictures of the base, per setting.

    python3 bench/ddit_worth.py [--ddit FILE] [--out /tmp/ddit-worth] [--prompts 50] [--only SUBSTRING] [--extra
    "NAME=ARGUMENTS"]

One process per picture (`ddit generate --json`, denoising seconds from phases.denoise). For every prompt all settings run one
after another beside the base, so that other load falls on all of them; the speed-up is the median over the prompts of base
seconds / setting's seconds of the same prompt. A second pass runs the base with the numbers of steps that cost the same time as
the settings named in BARS. Results are kept in OUT/results.json: a broken-off run of the same program, model and threads is
taken up again, one of others is begun anew, and --table prints what there is. PSNR, SSIM: see quality.py. Shares are of
the latent's area, averaged over steps and prompts.
"""

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path

from bench_common import MODEL, ddit_program, digest_of, figure, load_average, machine, psnr, read_png, run_ddit, ssim

STEPS = 50
TAUS = {1: (0.016, 0.02, 0.025, 0.03, 0.04), 2: (0.0005, 0.001, 0.003, 0.006, 0.012), 3: (0.001, 0.003, 0.005, 0.01, 0.02)}
BARS = {  # setting: least speed-up, PSNR, SSIM
    "auto (the adapter's metadata)": (1.85, 28.0, 0.95),
    "2x30,1x20, anchor 30": (1.55, 30.0, 0.97),
}


def settings(extra):
    """name -> arguments of ddit generate, in the order of the table."""
    out = {"base": ["--patch", "off"], "auto (the adapter's metadata)": ["--patch", "auto"]}
    out["auto, floors 2:0.3,4:0.9, no anchor"] = ["--patch", "auto", "--sigma-min", "2:0.3,4:0.9", "--anchor", "0"]
    for schedule in ("2x30,1x20", "4x8,2x26,1x16"):
        out[f"{schedule}, no anchor"] = ["--patch", schedule, "--anchor", "0"]
    out["2x30,1x20, anchor 30"] = ["--patch", "2x30,1x20", "--anchor", "30"]
    out["4x8,2x26,1x16, anchor 13"] = ["--patch", "4x8,2x26,1x16", "--anchor", "13"]
    out["region"] = ["--patch", "region", "--sigma-min", "2:0.3,4:0.9", "--tau", "0.005"]
    out["free step, no adapter, 1x3,2x44,1x3, anchor 5"] = ["--adapter", "none", "--patch", "1x3,2x44,1x3", "--anchor", "5"]
    for order, taus in TAUS.items():
        for tau in taus:
            name = f"the paper's rule, order {order}, tau {tau:g}"
            out[name] = ["--patch", "auto", "--sigma-min", "none", "--anchor", "0", "--order", str(order), "--tau", str(tau)]
    for text in extra:
        name, arguments = text.split("=", 1)
        out[name] = shlex.split(arguments)
    return out


def share_of_area(trace):
    """Mean over the steps of the share of the latent covered by cells of each factor."""
    total = {"1": 0.0, "2": 0.0, "4": 0.0}
    for step in trace["steps"]:
        area = {f: n * int(f) ** 2 for f, n in step["cells"].items()}
        for f in total:
            total[f] += area.get(f, 0) / sum(area.values())
    return {f: x / len(trace["steps"]) for f, x in total.items()}


def slug(name):
    return "".join(c if c.isalnum() or c in ".," else "-" for c in name).strip("-")


class Runs:
    """Pictures and figures of every setting and prompt, kept on disk after each prompt."""

    def __init__(self, args, prompts):
        self.args, self.prompts, self.file = args, prompts, args.out / "results.json"
        args.out.mkdir(parents=True, exist_ok=True)
        kept = json.loads(self.file.read_text()) if self.file.is_file() else {}
        source = kept.get("source")
        if not args.table:
            source = {"threads": args.threads, "digest": digest_of([args.program, args.model])}
        if kept and kept.get("source") != source:
            print(f"{self.file} is of another program, model or number of threads: begun anew", file=sys.stderr)
            kept = {}
        self.source = source
        self.results = kept.get("results", {})

    def picture(self, name, i):
        return self.args.out / slug(name) / f"{i:02}.png"

    def run(self, name, arguments, i, steps=STEPS):
        record = self.results.setdefault(name, {})
        if str(i) in record:
            return
        target = self.picture(name, i)
        target.parent.mkdir(exist_ok=True)
        trace = target.with_suffix(".json")
        printed = run_ddit(
            self.args.program,
            [
                "-m",
                self.args.model,
                "-p",
                self.prompts[i],
                "-s",
                1000 + i,
                "-t",
                self.args.threads,
                "-o",
                target,
                "--trace",
                trace,
                *([] if steps is None else ["--steps", steps]),
                *arguments,
            ],
        )
        a, b = read_png(self.picture("base", i)), read_png(target)
        traced = json.loads(trace.read_text())
        record[str(i)] = {
            "seconds": figure(printed, "phases.denoise"),
            "psnr": psnr(a, b),
            "ssim": ssim(a, b),
            "share": share_of_area(traced),
            "tokens": sum(s["tokens"]["text"] + s["tokens"]["image"] for s in traced["steps"]),
            "schedule": traced.get("schedule"),
        }

    def save(self):
        self.file.write_text(json.dumps({"source": self.source, "results": self.results}))

    def pass_over(self, chosen, text, steps=None):
        """All settings for the first prompt, then for the second ...: steps = {name: number of steps}."""
        for i in range(len(self.prompts)):
            for name, arguments in chosen.items():
                self.run(name, arguments, i, (steps or {}).get(name, STEPS))
            self.save()
            print(f"{text}: prompt {i + 1} of {len(self.prompts)}", file=sys.stderr)

    def summary(self, name):
        base, record = self.results.get("base", {}), self.results.get(name, {})
        keys = [str(i) for i in range(len(self.prompts)) if str(i) in record and str(i) in base]
        if not keys:
            return None
        mean = lambda values: statistics.mean(list(values))  # noqa: E731
        return {
            "n": len(keys),
            "speed": statistics.median(base[k]["seconds"] / record[k]["seconds"] for k in keys),
            "tokens": mean(base[k]["tokens"] / record[k]["tokens"] for k in keys),
            "psnr": mean(record[k]["psnr"] for k in keys),
            "ssim": mean(record[k]["ssim"] for k in keys),
            "least": min(record[k]["psnr"] for k in keys),
            "share": {f: mean(record[k]["share"][f] for k in keys) for f in ("1", "2", "4")},
            "seconds": mean(record[k]["seconds"] for k in keys),
        }


def print_table(runs, names):
    print(
        "| setting | speed-up (clock) | by tokens | PSNR dB | lowest | SSIM | share 1 / 2 / 4 | s |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for name in names:
        s = runs.summary(name)
        if s:
            share = " / ".join(f"{100 * s['share'][f]:.0f}" for f in ("1", "2", "4"))
            closeness = "| | | " if name == "base" else f"| {s['psnr']:.1f} | {s['least']:.1f} | {s['ssim']:.3f} "
            print(f"| {name} | {s['speed']:.2f} | {s['tokens']:.2f} {closeness}| {share} % | {s['seconds']:.3f} |")


def check_bars(runs):
    missed = 0
    for name, (speed, least_psnr, least_ssim) in BARS.items():
        s = runs.summary(name)
        if not s:
            continue
        holds = s["speed"] >= speed and s["psnr"] >= least_psnr and s["ssim"] >= least_ssim
        missed += not holds
        print(
            f"bar of {name}: >= {speed}x, {least_psnr} dB, {least_ssim}: "
            f"{s['speed']:.2f}x, {s['psnr']:.2f} dB, {s['ssim']:.4f}: "
            f"{'holds' if holds else 'MISSED'}"
        )
    return missed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ddit")
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--out", type=Path, default=Path("/tmp/ddit-worth"))
    parser.add_argument("--prompts", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--only", action="append", default=[], help="run only settings whose name contains this (base always runs)"
    )
    parser.add_argument("--extra", action="append", default=[], help="NAME=ARGUMENTS: one more setting")
    parser.add_argument("--table", action="store_true", help="print what was measured, run nothing")
    args = parser.parse_args()
    prompts = (Path(__file__).parent / "prompts50.txt").read_text().splitlines()[: args.prompts]
    if not args.table:
        args.program = ddit_program(args.ddit)
    runs = Runs(args, prompts)
    if not args.table:
        chosen = settings(args.extra)
        if args.only:
            chosen = {n: a for n, a in chosen.items() if n == "base" or any(text in n for text in args.only)}
        load = load_average()
        runs.pass_over(chosen, "settings")
        # The base with the steps that cost the same time as the settings that have a bar, and as region.
        same = {}
        for name in [n for n in (*BARS, "4x8,2x26,1x16", "region") if n in chosen]:
            steps = round(STEPS / runs.summary(name)["speed"])
            same[f"base, {steps} steps"] = steps
        runs.pass_over({name: ["--patch", "off"] for name in same}, "base with fewer steps", same)
        print(f"load average before {load}, after {load_average()}\n")
    print(json.dumps(machine()) + f", {args.threads} threads, {len(prompts)} prompts, {STEPS} steps\n")
    print_table(runs, runs.results)
    print()
    return 1 if check_bars(runs) else 0


if __name__ == "__main__":
    sys.exit(main())
