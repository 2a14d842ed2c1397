#!/usr/bin/env python3
"""Seconds per denoising step of diffusers on a FLUX folder: torch in inference mode, warm, the denoising loop only (from the
first call of the transformer to the end of the last scheduler step). Prints one JSON object; "seconds" is the median per step.

    python3 bench/diffusers_step.py --dtype bf16 --threads 2 --steps 20 [--compile] [--prompt "red apple"] [--repeats 3]
"""

import argparse
import json
import logging
import os
import statistics
import time

from bench_common import MODEL, load_average, machine


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--dtype", choices=("bf16", "f32"), default="bf16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prompt", default="red apple")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--length", type=int, default=24, help="T5 length")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=2, help="runs that are not counted")
    parser.add_argument("--compile", action="store_true", help="torch.compile of the transformer")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(args.threads))

    import torch
    from diffusers import FluxPipeline
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    dtype = {"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype]
    pipe = FluxPipeline.from_pretrained(args.model, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    if args.compile:
        pipe.transformer = torch.compile(pipe.transformer)
    times, forward = [], pipe.transformer.forward

    def timed_forward(*a, **k):
        if not times:
            times.append(time.perf_counter())
        return forward(*a, **k)

    def at_step_end(pipeline, index, timestep, values):
        times.append(time.perf_counter())
        return values

    if args.compile:  # a wrapped forward would not be compiled: the loop's first call is stamped by the scheduler instead
        begin = pipe.scheduler.set_begin_index
        pipe.scheduler.set_begin_index = lambda *a, **k: (times.append(time.perf_counter()), begin(*a, **k))[1]
    else:
        pipe.transformer.forward = timed_forward
    seconds, load = [], load_average()
    with torch.inference_mode():
        for run in range(args.warm_up + args.repeats):
            times.clear()
            pipe(
                args.prompt,
                height=args.height,
                width=args.width,
                num_inference_steps=args.steps,
                guidance_scale=args.guidance,
                max_sequence_length=args.length,
                generator=torch.Generator().manual_seed(args.seed),
                output_type="latent",
                callback_on_step_end=at_step_end,
            )
            if run >= args.warm_up:
                seconds.append((times[-1] - times[0]) / args.steps)
    print(
        json.dumps(
            {
                "seconds": statistics.median(seconds),
                "min": min(seconds),
                "max": max(seconds),
                "repeats": seconds,
                "steps": args.steps,
                "dtype": args.dtype,
                "threads": args.threads,
                "compile": args.compile,
                "width": args.width,
                "height": args.height,
                "torch": torch.__version__,
                "model": os.path.basename(os.path.abspath(args.model)),
                "machine": machine(),
                "load_before": load,
                "load_after": load_average(),
            }
        )
    )


if __name__ == "__main__":
    main()
