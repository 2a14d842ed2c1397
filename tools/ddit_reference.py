#!/usr/bin/env python3
"""A plain model of FLUX with layouts in float64, written from the project's definitions, not from ddit's source.

It takes any diffusers FLUX transformer folder and, if wanted, a ddit adapter file, and computes one velocity for a layout:
base, uniform 2 and 4, any mixed layout, and the training-free coarse step. What the definitions round to float32 (sigmas,
times, angles of the time embedding, cosines and sines) is rounded here too; everything else is float64.

A layout is a list of cells (factor, row, column), row and column of the cell's first latent pixel, ordered by factor and then
in raster order: the order of the image tokens.

Run as a program it checks itself against diffusers: python3 tools/ddit_reference.py FOLDER [FOLDER ...]
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open

PATCH = 2  # base patch of FLUX, latent pixels
FACTORS = (1, 2, 4)


def f32(x):
    """Rounds to float32 and returns a Python float."""
    return float(np.float32(x))


# ---- layouts ----------------------------------------------------------------------------------------------------------------


def uniform(h, w, k):
    n = PATCH * k
    return [(k, r, c) for r in range(0, h, n) for c in range(0, w, n)]


def from_string(text, h, w):
    """4p blocks in raster order, each `4` or `(qqqq)` with q = `2` or `1`; cells wholly outside the latent are left out."""
    cells = {1: [], 2: [], 4: []}
    position = 0

    def take():
        nonlocal position
        position += 1
        return text[position - 1]

    def place(k, r, c):
        if r + PATCH * k > h or c + PATCH * k > w:
            raise ValueError(f"a cell of factor {k} at {r},{c} hangs over the edge of {h}x{w}")
        cells[k].append((k, r, c))

    for block_r in range(0, h, 8):
        for block_c in range(0, w, 8):
            letter = take()
            if letter == "4":
                place(4, block_r, block_c)
                continue
            assert letter == "(", f"'(' or '4' expected at {position - 1}"
            for q in range(4):
                r, c = block_r + 4 * (q // 2), block_c + 4 * (q % 2)
                letter = take()
                if letter == "2":
                    place(2, r, c)
                else:
                    assert letter == "1", f"'1' or '2' expected at {position - 1}"
                    cells[1] += [(1, r + a, c + b) for a in (0, 2) for b in (0, 2) if r + a < h and c + b < w]
            assert take() == ")"
    assert position == len(text), "text behind the last block"
    return [cell for k in FACTORS for cell in sorted(cells[k])]


def text_shares(cells, h, w):
    """Share of the latent's area that the cells of each factor cover (only the part inside the latent)."""
    area = {k: 0 for k in FACTORS}
    for k, r, c in cells:
        area[k] += (min(r + PATCH * k, h) - r) * (min(c + PATCH * k, w) - c)
    return {k: area[k] / (h * w) for k in FACTORS}


# ---- sigmas -----------------------------------------------------------------------------------------------------------------


def sigmas(scheduler, steps, tokens):
    """Float32 at every operation, mu in float64 from the number of image tokens at factor 1; ends with 0."""
    one = np.float32(1)
    g = np.linspace(1.0, 1.0 / steps, steps).astype(np.float32)
    if scheduler.get("use_dynamic_shifting"):
        base, top = scheduler["base_image_seq_len"], scheduler["max_image_seq_len"]
        slope = (scheduler["max_shift"] - scheduler["base_shift"]) / (top - base)
        mu = tokens * slope + (scheduler["base_shift"] - slope * base)
        e = np.float32(math.exp(mu))
        s = e / (e + (one / g - one))
    else:
        shift = np.float32(scheduler.get("shift", 1.0))
        s = shift * g / (one + (shift - one) * g)
    return np.append(s, np.float32(0)).astype(np.float32)


# ---- bilinear patches -------------------------------------------------------------------------------------------------------


def bilinear(n, p=PATCH):
    """B1 [n,p]: bilinear upsampling of p pixels to n, half-pixel centres, edges clamped."""
    b = torch.zeros(n, p, dtype=torch.float64)
    for i in range(n):
        x = min(max((i + 0.5) * p / n - 0.5, 0.0), p - 1.0)
        low = min(int(math.floor(x)), p - 2)
        b[i, low] += 1 - (x - low)
        b[i, low + 1] += x - low
    return b


def what_a_base_patch_can_say(n):
    """Q [n,n] = B1 B1+: along one axis, the projection on what a p-pixel patch can express."""
    b = bilinear(n)
    return b @ torch.linalg.pinv(b)


# ---- the model --------------------------------------------------------------------------------------------------------------


class Adapter:
    def __init__(self, path):
        with safe_open(path, "pt") as f:
            self.tensors = {k: f.get_tensor(k).double() for k in f.keys()}
            self.metadata = f.metadata()
        self.factors = [int(k) for k in self.metadata["factors"].split(",")]
        self.residual = self.metadata.get("residual", "none")
        self.scale = float(self.metadata.get("alpha", "1")) / float(self.metadata.get("rank", "1"))

    def get(self, factor, name):
        return self.tensors.get(f"ddit.x{factor}.{name}")


def load_tensors(folder):
    tensors = {}
    for path in sorted(Path(folder).glob("*.safetensors")):
        with safe_open(path, "pt") as f:
            tensors.update({k: f.get_tensor(k).double() for k in f.keys()})
    return tensors


class Flux:
    """model(z, cells, sigma, guidance, t5, pooled) -> velocity [16,h,w], float64."""

    def __init__(self, folder, adapter=None):
        folder = Path(folder)
        self.config = json.loads((folder / "transformer" / "config.json").read_text())
        self.scheduler = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        self.w = load_tensors(folder / "transformer")
        self.adapter = Adapter(adapter) if adapter else None
        self.heads, self.head = self.config["num_attention_heads"], self.config["attention_head_dim"]

    # x [rows, in] -> [rows, out]; lora = {factor: weight per row [rows]} or None
    def linear(self, name, x, lora=None):
        y = x @ self.w[name + ".weight"].T + self.w[name + ".bias"]
        for factor, weight in (lora or {}).items():
            a, b = self.adapter.get(factor, f"lora.{name}.A"), self.adapter.get(factor, f"lora.{name}.B")
            if a is not None:
                y = y + weight[:, None] * self.adapter.scale * (x @ a.T) @ b.T
        return y

    def sinusoid(self, value):
        """value is already times 1000, float32; frequencies and angles in float32, cosine first."""
        i = torch.arange(128, dtype=torch.float32)
        angle = torch.tensor(value, dtype=torch.float32) * torch.exp(-math.log(10000) * i / 128)
        angle = angle.double()
        return torch.cat([angle.cos(), angle.sin()]).float().double()[None]

    def mlp(self, name, x):
        return self.linear(name + ".linear_2", F.silu(self.linear(name + ".linear_1", x)))

    def vector(self, sigma, guidance, pooled):
        v = self.mlp("time_text_embed.timestep_embedder", self.sinusoid(f32(np.float32(1000) * np.float32(sigma))))
        if self.config["guidance_embeds"]:
            v = v + self.mlp("time_text_embed.guidance_embedder", self.sinusoid(f32(np.float32(1000) * np.float32(guidance))))
        return v + self.mlp("time_text_embed.text_embedder", pooled.double()[None])

    def rope(self, positions):
        """positions [rows,3] -> cos, sin [rows, head/2]; angles in float64, the tables rounded to float32."""
        angles = []
        for axis, size in enumerate(self.config["axes_dims_rope"]):
            omega = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
            angles.append(positions[:, axis : axis + 1] * omega)
        angle = torch.cat(angles, 1)
        return angle.cos().float().double(), angle.sin().float().double()

    def queries(self, x, linear_name, norm_name, rope):
        """Linear, split in heads, and (for q and k) RMS norm per head and rotation: [heads, rows, head]."""
        y = self.linear(linear_name, x).view(len(x), self.heads, self.head)
        if norm_name:
            y = y / torch.sqrt((y * y).mean(-1, keepdim=True) + 1e-6) * self.w[norm_name + ".weight"]
            even, odd, (cos, sin) = y[..., 0::2], y[..., 1::2], rope
            cos, sin = cos[:, None], sin[:, None]
            y = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
        return y.transpose(0, 1)

    def attention(self, q, k, v):
        p = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(self.head), -1)
        return (p @ v).transpose(0, 1).reshape(q.shape[1], -1)

    @staticmethod
    def norm(x, scale, shift):
        y = x - x.mean(-1, keepdim=True)
        return y / torch.sqrt((y * y).mean(-1, keepdim=True) + 1e-6) * (1 + scale) + shift

    def double_block(self, index, img, txt, vec, rope, lora_img, lora_txt):
        name = f"transformer_blocks.{index}."
        n = len(txt)
        rope_txt, rope_img = [tuple(t[:n] for t in rope), tuple(t[n:] for t in rope)]
        mi = self.linear(name + "norm1.linear", F.silu(vec)).chunk(6, 1)
        mt = self.linear(name + "norm1_context.linear", F.silu(vec)).chunk(6, 1)
        ni, nt = self.norm(img, mi[1], mi[0]), self.norm(txt, mt[1], mt[0])
        join = lambda a, b: torch.cat([a, b], 1)
        q = join(
            self.queries(nt, name + "attn.add_q_proj", name + "attn.norm_added_q", rope_txt),
            self.queries(ni, name + "attn.to_q", name + "attn.norm_q", rope_img),
        )
        k = join(
            self.queries(nt, name + "attn.add_k_proj", name + "attn.norm_added_k", rope_txt),
            self.queries(ni, name + "attn.to_k", name + "attn.norm_k", rope_img),
        )
        v = join(self.queries(nt, name + "attn.add_v_proj", None, None), self.queries(ni, name + "attn.to_v", None, None))
        a = self.attention(q, k, v)
        txt = txt + mt[2] * self.linear(name + "attn.to_add_out", a[:n])
        img = img + mi[2] * self.linear(name + "attn.to_out.0", a[n:])
        for_img, for_txt = self.norm(img, mi[4], mi[3]), self.norm(txt, mt[4], mt[3])
        gelu = lambda x: F.gelu(x, approximate="tanh")
        img = img + mi[5] * self.linear(
            name + "ff.net.2", gelu(self.linear(name + "ff.net.0.proj", for_img, lora_img)), lora_img
        )
        hidden = gelu(self.linear(name + "ff_context.net.0.proj", for_txt, lora_txt))
        return img, txt + mt[5] * self.linear(name + "ff_context.net.2", hidden, lora_txt)

    def single_block(self, index, x, vec, rope, lora):
        name = f"single_transformer_blocks.{index}."
        shift, scale, gate = self.linear(name + "norm.linear", F.silu(vec)).chunk(3, 1)
        n = self.norm(x, scale, shift)
        q = self.queries(n, name + "attn.to_q", name + "attn.norm_q", rope)
        k = self.queries(n, name + "attn.to_k", name + "attn.norm_k", rope)
        v = self.queries(n, name + "attn.to_v", None, None)
        m = F.gelu(self.linear(name + "proj_mlp", n, lora), approximate="tanh")
        return x + gate * self.linear(name + "proj_out", torch.cat([self.attention(q, k, v), m], 1), lora)

    def weights_of(self, part, factor):
        """embed [d,16*n*n], bias; deembed [16*n*n,d], bias; rows and columns ordered (channel, row, column)."""
        if factor == 1:
            name = "x_embedder" if part == "embed" else "proj_out"
            return self.w[name + ".weight"], self.w[name + ".bias"]
        weight, bias = self.adapter.get(factor, part + ".weight"), self.adapter.get(factor, part + ".bias")
        return (weight.flatten(1) if part == "embed" else weight.flatten(0, 2)), bias.flatten()

    @staticmethod
    def cells_of(z, cells, factor):
        """Content of the cells of one factor [count,16,n,n], the edge repeated right and below; and their places."""
        n = PATCH * factor
        _, h, w = z.shape
        places = [(r, c) for k, r, c in cells if k == factor]
        padded = F.pad(z[None], (0, (-w) % n, 0, (-h) % n), mode="replicate")[0]
        return torch.stack([padded[:, r : r + n, c : c + n] for r, c in places]), places

    def residual(self, factor, content, sigma):
        out = torch.zeros_like(content)
        kinds = self.adapter.residual.split("+")
        if "linear" in kinds:
            weight, bias = self.adapter.get(factor, "res.weight"), self.adapter.get(factor, "res.bias")
            out = out + torch.einsum("oc,bcij->boij", weight, content) + bias[:, None, None]
        if "hf" in kinds:
            q = what_a_base_patch_can_say(PATCH * factor)
            out = out + (content - q @ content @ q.T) / max(float(sigma), 0.05)
        return out

    def velocity(self, z, cells, sigma, guidance, t5, pooled):
        z = z.double()
        _, h, w = z.shape
        present = [k for k in FACTORS if any(c[0] == k for c in cells)]
        assert [c[0] for c in cells] == sorted(c[0] for c in cells)
        txt = t5.double()
        if self.adapter and "text_tokens" in self.adapter.metadata and 1 not in present:
            txt = txt[: int(self.adapter.metadata["text_tokens"])]
        txt = self.linear("context_embedder", txt)
        content, rows = {}, []
        for k in present:
            content[k] = self.cells_of(z, cells, k)
            weight, bias = self.weights_of("embed", k)
            x = content[k][0].flatten(1) @ weight.T + bias
            rows.append(x + self.adapter.get(k, "id") if k > 1 and self.adapter.get(k, "id") is not None else x)
        img = torch.cat(rows)
        positions = torch.zeros(len(txt) + len(img), 3, dtype=torch.float64)
        for i, (k, r, c) in enumerate(cells):
            positions[len(txt) + i, 1] = r / PATCH + (k - 1) / 2
            positions[len(txt) + i, 2] = c / PATCH + (k - 1) / 2
        rope = self.rope(positions)
        share = text_shares(cells, h, w)
        lora_img = {k: torch.tensor([float(c[0] == k) for c in cells], dtype=torch.float64) for k in present if k > 1}
        lora_txt = {k: torch.full((len(txt),), share[k], dtype=torch.float64) for k in present if k > 1}
        lora_all = {k: torch.cat([lora_txt[k], lora_img[k]]) for k in lora_img}
        vec = self.vector(sigma, guidance, pooled)
        for i in range(self.config["num_layers"]):
            img, txt = self.double_block(i, img, txt, vec, rope, lora_img, lora_txt)
        x = torch.cat([txt, img])
        for i in range(self.config["num_single_layers"]):
            x = self.single_block(i, x, vec, rope, lora_all)
        scale, shift = self.linear("norm_out.linear", F.silu(vec)).chunk(2, 1)
        y = self.norm(x[len(txt) :], scale, shift)
        out, first = torch.zeros(16, h + 8, w + 8, dtype=torch.float64), 0
        for k in present:
            n, (cell, places) = PATCH * k, content[k]
            weight, bias = self.weights_of("deembed", k)
            v = (y[first : first + len(places)] @ weight.T + bias).view(-1, 16, n, n)
            if k > 1:
                v = v + self.residual(k, cell, sigma)
            for i, (r, c) in enumerate(places):
                out[:, r : r + n, c : c + n] = v[i]
            first += len(places)
        return out[:, :h, :w].contiguous()

    def free_velocity(self, z, k, sigma, guidance, t5, pooled, detail=0.0):
        """The training-free coarse step: the base model on the pooled latent at the noise level that pooling leaves."""
        z, s = z.double(), float(np.float32(sigma))
        small = F.avg_pool2d(z[None], k)[0]
        a = (1 - s) + s / k
        s_small = (s / k) / a
        z_small = small / a
        v_small = self.velocity(z_small, uniform(*z_small.shape[1:], 1), s_small, guidance, t5, pooled)
        x0 = F.interpolate((z_small - s_small * v_small)[None], scale_factor=k, mode="bilinear", align_corners=False)[0]
        z_hf = z - small.repeat_interleave(k, 1).repeat_interleave(k, 2)
        gain = (1 - s) * detail**2 / ((1 - s) ** 2 * detail**2 + s**2)
        return (z - (x0 + gain * z_hf)) / s


def parse_schedule(text):
    """`1x3,2x4` -> [1,1,1,2,2,2,2]"""
    out = []
    for run in text.split(","):
        factor, count = run.replace("*", "x").split("x")
        out += [int(factor.rstrip("p"))] * int(count)
    return out


# ---- check ------------------------------------------------------------------------------------------------------------------


def check(folder):
    """The base layout against diffusers with its weights in float64, and the sigmas bit for bit."""
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

    ours = Flux(folder)
    theirs = FluxTransformer2DModel.from_pretrained(Path(folder) / "transformer", torch_dtype=torch.float32).double()
    g = torch.Generator().manual_seed(5)
    h, w, length = 12, 14, 20
    z = torch.randn(16, h, w, generator=g)
    t5 = torch.randn(length, theirs.config.joint_attention_dim, generator=g)
    pooled = torch.randn(theirs.config.pooled_projection_dim, generator=g)
    worst = 0.0
    for sigma, guidance in ((1.0, 3.5), (0.73, 1.0), (0.05, 7.5)):
        a = ours.velocity(z, uniform(h, w, 1), sigma, guidance, t5, pooled)
        b = theirs(
            hidden_states=FluxPipeline._pack_latents(z[None], 1, 16, h, w).double(),
            encoder_hidden_states=t5[None].double(),
            pooled_projections=pooled[None].double(),
            timestep=torch.tensor([sigma], dtype=torch.float32),
            guidance=torch.tensor([guidance], dtype=torch.float32) if ours.config["guidance_embeds"] else None,
            txt_ids=torch.zeros(length, 3),
            img_ids=FluxPipeline._prepare_latent_image_ids(1, h // 2, w // 2, "cpu", torch.float32),
            return_dict=False,
        )[0]
        b = FluxPipeline._unpack_latents(b, h * 8, w * 8, 8)[0]
        worst = max(worst, float((a - b).norm() / b.norm()))
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(Path(folder) / "scheduler")
    equal = True
    for steps in (4, 8, 20, 28, 50):
        for tokens in (16, 20, 42, 256, 1024, 4096):
            c = ours.scheduler
            slope = (c["max_shift"] - c["base_shift"]) / (c["max_image_seq_len"] - c["base_image_seq_len"])
            mu = tokens * slope + (c["base_shift"] - slope * c["base_image_seq_len"])
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
            equal = equal and bool((scheduler.sigmas.numpy() == sigmas(c, steps, tokens)).all())
    print(f"{folder}: velocity against diffusers in float64, worst of 3: {worst:.1e} relative; sigmas bit-equal: {equal}")
    return worst < 2e-6 and equal


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    results = [check(folder) for folder in sys.argv[1:]]
    sys.exit(0 if results and all(results) else 1)
