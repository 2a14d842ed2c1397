#!/usr/bin/env python3
"""Makes tests/golden/flux_*: tiny FLUX pipelines with random weights, and what diffusers makes of them in float32.

Each folder is a diffusers FLUX pipeline (spec: diffusers folder) plus case_N.safetensors:

  clip_ids [77] I32, t5_ids [L] I32, t5 [L,width], pooled [width]; with CFG also negative_clip_ids, negative_t5_ids, ...
  noise [16,h,w], sigmas [steps+1], step.K.latent [16,h,w] (what the model reads at steps 1 and 4), step.0.velocity [16,h,w]
  (after CFG), latent [16,h,w] (after the last step), image [H,W,3] U8
  metadata: prompt, negative, width, height, steps, seed, guidance, cfg_scale, max_sequence_length

Weights: matrices over 4096 elements hold few distinct values (integer levels times a power of two), so that the folders
compress to a fraction in git; everything else is plain normal noise. Norm weights, biases and modulations are far from their
neutral values, so that a dropped bias, a swapped scale and shift or a missing gate changes the result by far more than the
tolerance. The script checks the float32 result against float64 and prints the deviation.

Usage: python3 tools/make_tiny_models.py [NAME ...]
"""

import json
import math
import shutil
import sys
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel, T5Tokenizer

from stable_save import save_stable

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
EMOJI = ROOT / "models" / "emoji"

DYNAMIC = dict(
    shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096
)

# name -> shapes. clip/t5: width, heads, layers; eos 2 is the legacy value that real FLUX folders carry (pool at argmax of
# the ids).
MODELS = {
    "flux_head32": dict(  # like dev; float32 on disk, transformer and T5 in several shards
        head=32,
        heads=3,
        double=1,
        single=2,
        axes=[8, 12, 12],
        guidance=True,
        scheduler=DYNAMIC,
        dtype=torch.float32,
        shard=True,
        clip=dict(width=32, heads=2, layers=2, eos=None, merges=300, prefix=False),
        t5=dict(width=48, heads=3, d_kv=16, d_ff=80, layers=2),
        vae=dict(channels=[8, 8, 16, 16], groups=4, layers=1, scale=0.3611, shift=0.1159),
        pieces=400,
        t5_max=512,
        cases=[
            dict(prompt="a red apple on a blue table", width=96, height=64, seed=1, guidance=3.5, length=24),
            dict(
                prompt="Two ROCKETS, don't fly 3 times!",
                width=64,
                height=80,
                seed=12345,
                guidance=1.0,
                length=16,
                negative="blurry picture, low quality",
                cfg=2.5,
            ),
            dict(prompt="", width=112, height=96, seed=4000000007, guidance=7.25, length=40),
        ],
    ),
    "flux_head64": dict(  # like schnell: no guidance, static shift 1; float16 on disk
        head=64,
        heads=2,
        double=2,
        single=1,
        axes=[8, 28, 28],
        guidance=False,
        scheduler=dict(shift=1.0, use_dynamic_shifting=False),
        dtype=torch.float16,
        shard=False,
        clip=dict(width=48, heads=3, layers=1, eos=None, merges=200, prefix=True),
        t5=dict(width=64, heads=2, d_kv=24, d_ff=96, layers=3),
        vae=dict(channels=[8, 16, 16, 32], groups=8, layers=2, scale=0.5, shift=-0.25),
        pieces=300,
        t5_max=256,
        cases=[
            dict(prompt="the quick brown fox jumps over the lazy dog", width=64, height=96, seed=0, guidance=3.5, length=32),
            dict(prompt="snow " * 60, width=80, height=64, seed=7, guidance=0.0, length=20),  # cut at 77 and at 20
            dict(prompt="a green frog", width=128, height=64, seed=99, guidance=1.0, length=12, cfg=4.0, negative=""),
        ],
    ),
    "flux_head128": dict(  # bfloat16 on disk, static shift that is not 1, CLIP end id given as the legacy 2
        head=128,
        heads=1,
        double=1,
        single=3,
        axes=[16, 56, 56],
        guidance=True,
        scheduler=dict(shift=3.0, use_dynamic_shifting=False),
        dtype=torch.bfloat16,
        shard=False,
        clip=dict(width=64, heads=4, layers=1, eos=2, merges=256, prefix=True),
        t5=dict(width=32, heads=4, d_kv=8, d_ff=64, layers=1),
        vae=dict(channels=[16, 16, 16, 16], groups=4, layers=1, scale=0.3611, shift=0.1159),
        pieces=350,
        t5_max=512,
        cases=[
            dict(prompt="panda with a purple hat", width=80, height=64, seed=42, guidance=2.5, length=28),
            dict(prompt="one sun; one moon.", width=96, height=112, seed=3, guidance=3.5, length=48),
        ],
    ),
}
STEPS = 8


def levels(shape, std, generator):
    """Normal noise cut to the levels -3..3 of a power of two near std: exact in bfloat16, float16 and float32."""
    step = 2.0 ** round(math.log2(std))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    return (torch.round(x * std / step).clamp(-3, 3) * step).float()


def noise(shape, std, generator, mean=0.0):
    return (mean + std * torch.randn(shape, generator=generator, dtype=torch.float64)).float()


def matrix(shape, std, generator):
    return levels(shape, std, generator) if math.prod(shape) > 4096 else noise(shape, std, generator)


def fill(module, rule, generator):
    """Gives every parameter a value: rule(name, parameter) -> std of a matrix or None for the ordinary one."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if p.dim() >= 2:
                fan_in = p[0].numel()
                std = rule(name, p)
                p.copy_(matrix(p.shape, 1 / math.sqrt(fan_in) if std is None else std, generator))
            elif name.endswith("bias"):
                p.copy_(noise(p.shape, 0.2, generator))
            else:  # norm weights
                p.copy_(noise(p.shape, 0.3, generator, mean=1.0))


def transformer_rule(name, p):
    fan_in = p[0].numel()
    if "norm" in name and "linear" in name:  # modulation: shift, scale and gate of about 0.6
        return 1.0 / math.sqrt(fan_in)
    if "time_text_embed" in name and "linear_2" in name:
        return 1.5 / math.sqrt(fan_in)
    if name == "proj_out.weight":
        return 0.7 / math.sqrt(fan_in)
    return None


def t5_rule(name, p):
    if "shared" in name or "embed_tokens" in name:
        return 1.0
    if "relative_attention_bias" in name:
        return 1.0
    if ".q.weight" in name:  # T5 does not divide by the root of the head size
        return 0.5 / math.sqrt(p.shape[1] * math.sqrt(p.shape[0]))
    return None


def clip_rule(name, p):
    return 0.5 if "embedding" in name else None


def vae_rule(name, p):
    return 0.6 / math.sqrt(p[0].numel()) if name == "decoder.conv_out.weight" else None


def make_clip_tokenizer(folder, merges):
    """The first merges of the embedded model's CLIP table, with the vocabulary that belongs to them."""
    folder.mkdir(parents=True)
    lines = (EMOJI / "tokenizer" / "merges.txt").read_text(encoding="utf-8").splitlines()
    (folder / "merges.txt").write_text("\n".join(lines[: merges + 1]) + "\n", encoding="utf-8")
    vocab = json.loads((EMOJI / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    ordered = sorted(vocab, key=vocab.get)[: 512 + merges] + ["<|startoftext|>", "<|endoftext|>"]
    small = {piece: i for i, piece in enumerate(ordered)}
    (folder / "vocab.json").write_text(json.dumps(small, ensure_ascii=False), encoding="utf-8")
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        shutil.copy(EMOJI / "tokenizer" / name, folder / name)
    return CLIPTokenizer.from_pretrained(folder), len(small)


CORPUS = """a red apple on a blue table two rockets fly over the moon the quick brown fox jumps over the lazy dog snow falls on
green frogs and purple pandas with a hat one sun one moon a picture of low quality blurry times do not don't draw painting
grinning face with big eyes on a yellow background waves of the sea house tree flower cat dog bird fish horse""".split()


def make_t5_tokenizer(folder, pieces, max_length):
    """A SentencePiece unigram model with the special ids of T5, trained on made-up sentences of the words above."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    sentences = [" ".join(rng.choice(CORPUS, size=rng.integers(2, 12))) for _ in range(400)]
    sentences += [s.capitalize() + "!" for s in sentences[:60]] + [
        "0 1 2 3 4 5 6 7 8 9 , . ; : ' \" ( ) - ? A B C D E F G H I J K L M N O P Q R S T U V W X Y Z"
    ] * 3
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "spiece"),
        model_type="unigram",
        vocab_size=pieces,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        normalization_rule_name="identity",
        character_coverage=1.0,
        minloglevel=2,
        num_threads=1,
    )
    (folder / "spiece.vocab").unlink()
    shutil.copy(EMOJI / "tokenizer_2" / "special_tokens_map.json", folder / "special_tokens_map.json")
    config = json.loads((EMOJI / "tokenizer_2" / "tokenizer_config.json").read_text())
    config["model_max_length"] = max_length
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    return T5Tokenizer.from_pretrained(folder), sp.get_piece_size(), sp


def rewrite(path, change):
    """Rewrites one safetensors file through change(dict) -> dict, keeping the metadata of its writers."""
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def make_folder(name, spec):
    folder = GOLDEN / name
    shutil.rmtree(folder, ignore_errors=True)
    g = torch.Generator().manual_seed(sum(name.encode()))
    _, clip_vocab = make_clip_tokenizer(folder / "tokenizer", spec["clip"]["merges"])
    _, t5_vocab, _ = make_t5_tokenizer(folder / "tokenizer_2", spec["pieces"], spec["t5_max"])
    c, t, v = spec["clip"], spec["t5"], spec["vae"]
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=clip_vocab,
            hidden_size=c["width"],
            intermediate_size=3 * c["width"],
            num_hidden_layers=c["layers"],
            num_attention_heads=c["heads"],
            max_position_embeddings=77,
            hidden_act="quick_gelu",
            projection_dim=c["width"],
            bos_token_id=clip_vocab - 2,
            eos_token_id=c["eos"] or clip_vocab - 1,
            pad_token_id=clip_vocab - 1,
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=t5_vocab + 5,
            d_model=t["width"],
            d_kv=t["d_kv"],
            d_ff=t["d_ff"],
            num_layers=t["layers"],
            num_heads=t["heads"],
            feed_forward_proj="gated-gelu",
            is_encoder_decoder=False,
            use_cache=False,
        )
    )
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=spec["double"],
        num_single_layers=spec["single"],
        attention_head_dim=spec["head"],
        num_attention_heads=spec["heads"],
        joint_attention_dim=t["width"],
        pooled_projection_dim=c["width"],
        guidance_embeds=spec["guidance"],
        axes_dims_rope=spec["axes"],
    )
    vae = AutoencoderKL(
        block_out_channels=v["channels"],
        norm_num_groups=v["groups"],
        layers_per_block=v["layers"],
        latent_channels=16,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        scaling_factor=v["scale"],
        shift_factor=v["shift"],
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=128,
    )
    for module, rule in ((clip, clip_rule), (t5, t5_rule), (transformer, transformer_rule), (vae, vae_rule)):
        fill(module, rule, g)
    with torch.no_grad():  # the encoder is never run: zeros cost nothing in git
        for p in vae.encoder.parameters():
            p.zero_()
    dtype = spec["dtype"]
    FlowMatchEulerDiscreteScheduler(**spec["scheduler"]).save_pretrained(folder / "scheduler")
    transformer.to(dtype).save_pretrained(folder / "transformer", max_shard_size="900KB" if spec["shard"] else "10GB")
    vae.to(dtype).save_pretrained(folder / "vae")
    clip.to(dtype).save_pretrained(folder / "text_encoder")
    t5.to(dtype).save_pretrained(folder / "text_encoder_2", max_shard_size="150KB" if spec["shard"] else "10GB")
    if c["prefix"]:  # the names of the published FLUX folders
        rewrite(
            folder / "text_encoder" / "model.safetensors",
            lambda d: {k if k.startswith("text_model.") else "text_model." + k: x for k, x in d.items()},
        )
    index = json.loads((EMOJI / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index, indent=1) + "\n")
    # Found beside model_index.json by ddit: few text tokens, so that tests are quick, and the detail that the training-free
    # coarse step puts back.
    about = {"name": name, "license": "MIT", "defaults": {"max_sequence_length": 32}}
    about["free_detail"] = {"2": 0.36, "4": 0.51}
    (folder / "ddit.json").write_text(json.dumps(about) + "\n")
    for path in folder.rglob("*.*"):
        path.chmod(0o644)
    return folder


def run_case(pipe, sp, case, dtype=torch.float32):
    """One run of the pipeline with everything it passes through, in latent layout."""
    w, h, steps = case["width"] // 8, case["height"] // 8, STEPS
    z = torch.randn((1, 16, h, w), generator=torch.Generator().manual_seed(case["seed"]), dtype=torch.float32)
    pack = lambda x: FluxPipeline._pack_latents(x, 1, 16, h, w)
    unpack = lambda x: FluxPipeline._unpack_latents(x, case["height"], case["width"], 8)[0].float().contiguous()
    outputs, latents = [], []

    def watch(module, args, kwargs, output):
        outputs.append(output[0])
        latents.append(kwargs["hidden_states"])

    hook = pipe.transformer.register_forward_hook(watch, with_kwargs=True)
    cfg = case.get("cfg", 1.0)
    result = pipe(
        case["prompt"],
        negative_prompt=case.get("negative") if cfg > 1 else None,
        true_cfg_scale=cfg,
        width=case["width"],
        height=case["height"],
        num_inference_steps=steps,
        guidance_scale=case["guidance"],
        max_sequence_length=case["length"],
        latents=pack(z.to(dtype)),
        output_type="latent",
    )[0]
    hook.remove()
    branches = 2 if cfg > 1 else 1
    velocity = outputs[0] if branches == 1 else outputs[1] + cfg * (outputs[0] - outputs[1])
    image = pipe.vae.decode(
        FluxPipeline._unpack_latents(result, case["height"], case["width"], 8) / pipe.vae.config.scaling_factor
        + pipe.vae.config.shift_factor,
        return_dict=False,
    )[0]
    out = {
        "noise": z[0],
        "sigmas": pipe.scheduler.sigmas.float().clone(),
        "step.0.velocity": unpack(velocity),
        "latent": unpack(result),
    }
    for k in (1, steps // 2):
        out[f"step.{k}.latent"] = unpack(latents[k * branches])
    pixels = pipe.image_processor.postprocess(image, output_type="np")[0]
    out["image"] = torch.from_numpy((pixels * 255).round().astype(np.uint8))
    out["image_float"] = torch.from_numpy(pixels)
    for prefix, prompt in (("", case["prompt"]), ("negative_", case.get("negative"))):
        if prompt is None:
            continue
        t5, pooled, _ = pipe.encode_prompt(prompt, max_sequence_length=case["length"])
        clip_ids = pipe.tokenizer(prompt, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids[
            0
        ]
        t5_ids = pipe.tokenizer_2(
            prompt, padding="max_length", max_length=case["length"], truncation=True, return_tensors="pt"
        ).input_ids[0]
        own = sp.encode(prompt)[: case["length"] - 1] + [1]  # SentencePiece's own encoding is the truth
        assert t5_ids.tolist() == own + [0] * (case["length"] - len(own)), (prompt, t5_ids.tolist(), own)
        out[prefix + "clip_ids"], out[prefix + "t5_ids"] = clip_ids.int(), t5_ids.int()
        out[prefix + "t5"], out[prefix + "pooled"] = t5[0].float(), pooled[0].float()
    return out


def relative(a, b):
    return float((a - b).norm() / b.norm())


def make_cases(folder, spec):
    load = lambda dtype: FluxPipeline.from_pretrained(folder, torch_dtype=torch.float32).to(dtype)
    sp = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer_2" / "spiece.model"))
    pipes = {d: load(d) for d in (torch.float32, torch.float64)}
    for number, case in enumerate(spec["cases"]):
        runs = {}
        for dtype, pipe in pipes.items():
            pipe.set_progress_bar_config(disable=True)
            runs[dtype] = run_case(pipe, sp, case, dtype)
        a, b = runs[torch.float32], runs[torch.float64]
        pixels = a.pop("image_float")
        print(
            f"{folder.name} case {number}: float32 against float64: t5 {relative(a['t5'], b['t5']):.1e} "
            f"pooled {relative(a['pooled'], b['pooled']):.1e} "
            f"velocity {relative(a['step.0.velocity'], b['step.0.velocity']):.1e} "
            f"latent {relative(a['latent'], b['latent']):.1e} "
            f"pixels off {int((a['image'].int() - b['image'].int()).abs().max())}; "
            f"std: t5 {a['t5'].std():.2f} pooled {a['pooled'].std():.2f} "
            f"velocity {a['step.0.velocity'].std():.2f} latent {a['latent'].std():.2f} pixels {pixels.std():.2f} "
            f"clipped {float(((pixels <= 0) | (pixels >= 1)).float().mean()):.2f}"
        )
        metadata = {
            "prompt": case["prompt"],
            "negative": case.get("negative", ""),
            "width": str(case["width"]),
            "height": str(case["height"]),
            "steps": str(STEPS),
            "seed": str(case["seed"]),
            "guidance": str(case["guidance"]),
            "cfg_scale": str(case.get("cfg", 1.0)),
            "max_sequence_length": str(case["length"]),
        }
        save_stable(a, folder / f"case_{number}.safetensors", metadata=metadata)


def main():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    for name in sys.argv[1:] or MODELS:
        make_cases(make_folder(name, MODELS[name]), MODELS[name])


if __name__ == "__main__":
    main()
