#!/usr/bin/env python3
"""Runs ddit 30 times with `auto` at orders 1-3 and `region`, and checks every run with check_policy.py.

    python3 tools/check_policy_runs.py --ddit FILE [--model FOLDER] [--out /tmp/ddit-policy] [--threads 2]

Sizes, steps, thresholds and floors differ from run to run; one of the sizes is not divisible by the coarse cells. Exit
status 1 if
any run disagrees.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SIZES = ((256, 256), (272, 400), (192, 320))
PROMPTS = ("red apple", "panda on a blue background", "rocket")
# arguments of the policy, arguments of the check; each runs at three sizes
POLICIES = [
    (["--patch", "auto"], []),
    (["--patch", "auto", "--sigma-min", "none", "--tau", "0.006"], ["--sigma-min", "none"]),
    (["--patch", "auto", "--sigma-min", "none", "--tau", "0.012", "--rho", "0.9"], ["--sigma-min", "none"]),
    (["--patch", "auto", "--order", "2", "--sigma-min", "none", "--tau", "0.006"], ["--sigma-min", "none"]),
    (["--patch", "auto", "--order", "2", "--sigma-min", "2:0.2,4:0.8", "--tau", "0.02"], ["--sigma-min", "2:0.2,4:0.8"]),
    (["--patch", "auto", "--order", "1", "--sigma-min", "none", "--tau", "0.045"], ["--sigma-min", "none"]),
    (["--patch", "auto", "--order", "1", "--sigma-min", "2:0.4", "--tau", "0.06"], ["--sigma-min", "2:0.4"]),
    (["--patch", "region"], []),
    (["--patch", "region", "--sigma-min", "none", "--tau", "0.01"], ["--sigma-min", "none"]),
    (["--patch", "region", "--order", "2", "--sigma-min", "none", "--tau", "0.01"], ["--sigma-min", "none"]),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ddit", required=True)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "emoji")
    parser.add_argument("--out", type=Path, default=Path("/tmp/ddit-policy"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    adapter, failed, number = args.model / "ddit-adapter.safetensors", 0, 0
    for policy, check in POLICIES:
        for i, (width, height) in enumerate(SIZES):
            run, trace = args.out / f"{number:02}.safetensors", args.out / f"{number:02}.json"
            command = [
                args.ddit,
                "generate",
                "-m",
                args.model,
                "-p",
                PROMPTS[i],
                "-W",
                width,
                "-H",
                height,
                "-s",
                number,
                "--steps",
                20 + 4 * i,
                "-t",
                args.threads,
                "-q",
                "-o",
                args.out / f"{number:02}.png",
                "--save-latent",
                run,
                "--save-steps",
                "--trace",
                trace,
                *policy,
            ]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"exit {done.returncode}: {' '.join(map(str, command))}\n{done.stderr.strip()}")
            checker = [
                sys.executable,
                Path(__file__).parent / "check_policy.py",
                run,
                trace,
                "--adapter",
                adapter,
                "--quiet",
                *check,
            ]
            failed += bool(subprocess.run(checker).returncode)
            run.unlink()  # 5 MB each
            number += 1
    print(f"{number} runs, {failed} of them with a disagreement")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
