#!/usr/bin/env python3
"""Seconds from the start of the process to the first call of the transformer, without the encoding of the prompt: the whole
process by the clock, less its encode, denoise and decode phases. An upper bound, since writing the picture and leaving count.

    python3 bench/start.py [--ddit build/release/ddit] [-n 15]
"""

import argparse
import json
import statistics
import subprocess
import time

from bench_common import MODEL, load_average, machine


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ddit", default="build/release/ddit")
    parser.add_argument("-n", type=int, default=15)
    args = parser.parse_args()
    command = [args.ddit, "generate", "-m", str(MODEL), "-p", "red apple", "--steps", "1", "--patch", "off", "-q", "--json", "-o",
               "/tmp/ddit-start.png"]
    seconds = []
    for i in range(args.n + 1):
        begin = time.perf_counter()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        whole = time.perf_counter() - begin
        phases = json.loads(done.stdout)["phases"]
        if i:  # the first run warms the file cache
            seconds.append(whole - phases["encode"] - phases["denoise"] - phases["decode"])
    print(json.dumps({"seconds": statistics.median(seconds), "min": min(seconds), "max": max(seconds), "runs": args.n,
                      "machine": machine(), "load": load_average()}))


if __name__ == "__main__":
    main()
