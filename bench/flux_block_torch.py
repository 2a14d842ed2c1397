#!/usr/bin/env python3
"""A FLUX-sized double and single block of diffusers in torch bf16, and torch's best 4096^3 bf16 product in the same process.

    python3 bench/flux_block_torch.py --threads 2 [--tokens 4096,1024,256] [--text 512] [--repeats 5]

Random weights, batch 1, inference mode, warm. Operations counted: all linear layers of the tokens and both attention products
(2 per multiply-add); modulation (one row), norms and gates count nothing. "seconds" is the median of double + single at the
first token count.
"""

import argparse
import json
import statistics
import time

from bench_common import load_average, machine

HIDDEN, HEADS, HEAD = 3072, 24, 128


def timed(call, repeats):
    call()
    out = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        out.append(time.perf_counter() - start)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", default="4096,1024,256", help="image tokens")
    parser.add_argument("--text", type=int, default=512, help="text tokens")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()

    import torch
    from diffusers.models.transformers.transformer_flux import FluxPosEmbed, FluxSingleTransformerBlock, FluxTransformerBlock

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    load, shapes = load_average(), []
    with torch.inference_mode():
        a, b = torch.randn(4096, 4096).bfloat16(), torch.randn(4096, 4096).bfloat16()
        layer = torch.nn.Linear(4096, 4096, bias=False).bfloat16()
        gemm = min(timed(lambda: a @ b, args.repeats) + timed(lambda: layer(a), args.repeats))
        double = FluxTransformerBlock(HIDDEN, HEADS, HEAD).bfloat16().eval()
        single = FluxSingleTransformerBlock(HIDDEN, HEADS, HEAD).bfloat16().eval()
        for image in map(int, args.tokens.split(",")):
            rope = FluxPosEmbed(10000, [16, 56, 56])(torch.rand(args.text + image, 3).mul(64).floor())
            x, t = torch.randn(1, image, HIDDEN).bfloat16(), torch.randn(1, args.text, HIDDEN).bfloat16()
            v, n = torch.randn(1, HIDDEN).bfloat16(), image + args.text
            d = statistics.median(timed(lambda: double(x, t, v, rope), args.repeats))  # noqa: B023
            s = statistics.median(timed(lambda: single(x, t, v, rope), args.repeats))  # noqa: B023
            # double: q k v o (4 d^2) and 8 d^2 of MLP per token; single: q k v (3 d^2), 4 d^2 in, 5 d^2 out
            work = 2 * n * 12 * HIDDEN**2 + 4 * n * n * HIDDEN
            shapes.append(
                {
                    "image_tokens": image,
                    "text_tokens": args.text,
                    "double": d,
                    "single": s,
                    "seconds": d + s,
                    "gflops_double": work / d / 1e9,
                    "gflops_single": work / s / 1e9,
                    "gflops": 2 * work / (d + s) / 1e9,
                    "share_of_best_gemm": 2 * work / (d + s) * gemm / (2 * 4096**3),
                }
            )
    print(
        json.dumps(
            {
                "seconds": shapes[0]["seconds"],
                "shapes": shapes,
                "gemm_4096_gflops": 2 * 4096**3 / gemm / 1e9,
                "threads": args.threads,
                "torch": torch.__version__,
                "machine": machine(),
                "load_before": load,
                "load_after": load_average(),
            }
        )
    )


if __name__ == "__main__":
    main()
