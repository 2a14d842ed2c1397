#!/usr/bin/env python3
"""How close ddit's bf16 is to diffusers in float32, beside how close diffusers' own bf16 is: PSNR of the 8-bit pictures.

    python3 bench/bf16_agreement.py [--ddit FILE] [--out /tmp/bf16] [--threads 2]

Embedded model, 20 steps, 8 prompts, base layout, the same float32 noise for all (drawn by torch's CPU generator, given to
ddit by
--noise and to diffusers as latents). Bar: ddit's mean PSNR is at least diffusers-bf16's mean - 1 dB; exit status 1 if not.
"""

import argparse
import json
import logging
import statistics
import sys
from pathlib import Path

from bench_common import MODEL, ddit_program, load_average, machine, psnr, read_png, run_ddit

STEPS, GUIDANCE, LENGTH, SIZE, PROMPTS = 20, 1.0, 24, 256, 8


def prompts():
    return (Path(__file__).parent / "prompts50.txt").read_text().splitlines()[:PROMPTS]


def run_diffusers(model, dtype, noises, folder):
    import torch
    from diffusers import FluxPipeline

    pipe = FluxPipeline.from_pretrained(model, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    for i, (prompt, noise) in enumerate(zip(prompts(), noises)):
        with torch.inference_mode():
            picture = pipe(
                prompt,
                height=SIZE,
                width=SIZE,
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                max_sequence_length=LENGTH,
                latents=FluxPipeline._pack_latents(noise[None], 1, 16, SIZE // 8, SIZE // 8).to(dtype),
            ).images[0]
        picture.save(folder / f"{i}.png")


def run_all_ddit(program, model, precision, threads, noise_files, folder):
    for i, (prompt, noise) in enumerate(zip(prompts(), noise_files)):
        run_ddit(
            program,
            [
                "-m",
                model,
                "-p",
                prompt,
                "-W",
                SIZE,
                "-H",
                SIZE,
                "--steps",
                STEPS,
                "--guidance",
                GUIDANCE,
                "--max-sequence-length",
                LENGTH,
                "--patch",
                "off",
                "--precision",
                precision,
                "--noise",
                noise,
                "-t",
                threads,
                "-o",
                folder / f"{i}.png",
            ],
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ddit")
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--out", type=Path, default=Path("/tmp/ddit-bf16"))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    program = ddit_program(args.ddit)

    import torch
    from diffusers.utils import logging as diffusers_logging
    from safetensors.torch import save_file

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    folders = {name: args.out / name for name in ("diffusers-f32", "diffusers-bf16", "ddit-bf16", "ddit-f32", "noise")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    noises, files = [], []
    for i in range(PROMPTS):
        noises.append(
            torch.randn((16, SIZE // 8, SIZE // 8), generator=torch.Generator().manual_seed(100 + i), dtype=torch.float32)
        )
        files.append(folders["noise"] / f"{i}.safetensors")
        save_file({"noise": noises[-1]}, files[-1])
    run_diffusers(args.model, torch.float32, noises, folders["diffusers-f32"])
    run_diffusers(args.model, torch.bfloat16, noises, folders["diffusers-bf16"])
    for precision in ("bf16", "f32"):
        run_all_ddit(program, args.model, precision, args.threads, files, folders[f"ddit-{precision}"])
    table = {}
    for name in ("diffusers-bf16", "ddit-bf16", "ddit-f32"):
        pictures = [
            (read_png(folders["diffusers-f32"] / f"{i}.png"), read_png(folders[name] / f"{i}.png")) for i in range(PROMPTS)
        ]
        table[name] = [psnr(a, b) for a, b in pictures]
    print("PSNR in dB to diffusers float32\n\n| prompt | " + " | ".join(table) + " |\n" + "|---" * (len(table) + 1) + "|")
    for i, prompt in enumerate(prompts()):
        print(f"| {prompt} | " + " | ".join(f"{values[i]:.2f}" for values in table.values()) + " |")
    means = {name: statistics.mean(values) for name, values in table.items()}
    print("| mean | " + " | ".join(f"{m:.2f}" for m in means.values()) + " |\n")
    margin = means["ddit-bf16"] - means["diffusers-bf16"]
    print(json.dumps({"means": means, "margin": margin, "machine": machine(), "load": load_average()}))
    print(f"ddit bf16 is {margin:+.2f} dB from diffusers bf16 (bar: at least -1): {'holds' if margin >= -1 else 'MISSED'}")
    return 0 if margin >= -1 else 1


if __name__ == "__main__":
    sys.exit(main())
