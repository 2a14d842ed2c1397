"""The convolutions of bench/cpu_passes.c by torch, channels last: best of the runs of one second each.

    python3 bench/conv_torch.py THREADS [f32]
"""

import sys
import time

import torch

SHAPES = ((256, 128, 128, 3), (64, 512, 512, 3), (64, 512, 512, 1), (256, 32, 32, 3), (256, 32, 3, 3))


def best_of(run):
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < 1.0:
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


def main():
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    dtype = torch.float32 if "f32" in sys.argv[2:] else torch.bfloat16
    torch.set_num_threads(threads)
    print(f"torch {torch.__version__}, {threads} threads")
    for side, inputs, outputs, kernel in SHAPES:
        x = torch.randn(1, inputs, side, side).to(dtype).to(memory_format=torch.channels_last)
        conv = torch.nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2).to(dtype).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            best = best_of(lambda: conv(x))
        flop = 2 * side * side * inputs * outputs * kernel * kernel
        what = f"conv {kernel}x{kernel} {side} x {side} {inputs} -> {outputs}"
        print(f"{what:<32} {best * 1e3:9.3f} ms {flop / best / 1e9:7.0f} GFLOP/s")


if __name__ == "__main__":
    main()
