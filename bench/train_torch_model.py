"""The FLUX transformer with a patch-size adapter in PyTorch, as it would be trained by somebody who cares for speed.

Frozen base weights in the compute type (bf16), adapter in float32 masters that are cast where they are used; samples of one
kind of layout in one batch, mixed layouts padded to the longest with a mask; query, key and value (and in single blocks the
MLP) in one product; scaled_dot_product_attention; modulations, which nothing trains, computed once outside of the blocks; every
block under torch.utils.checkpoint. What is computed is docs/method.md, section 2; train_torch.py --check compares it with
tools/ddit_reference.py.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
from ddit_reference import PATCH, bilinear, load_tensors, what_a_base_patch_can_say  # noqa: E402

EPS = 1e-6
DOUBLE_LORA = ("ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")
SINGLE_LORA = ("proj_mlp", "proj_out")


# ---- layouts ----------------------------------------------------------------------------------------------------------------


def mixed_layout(rng, rows, cols, factors):
    """{factor: cells (row, column in base cells)}, drawn as `ddit train` draws them: blocks of 4 x 4 base cells are whole or
    split, quadrants likewise; half of the layouts fine around a centre, the others by chance; at most three fifths of the
    base's cells (further ones are drawn again)."""
    while True:
        around, centre, blur = rng.random() < 0.5, rng.random(2), 0.3 * rng.random()
        split2 = rng.uniform(0.1, 0.45) if around else rng.uniform(0, 0.7)
        split4 = split2 + rng.uniform(0.05, 0.4) if around else rng.uniform(0.4, 1)

        def coarseness(row, col):
            chance = rng.random()
            if not around:
                return chance
            return math.hypot(row / rows - centre[0], col / cols - centre[1]) + blur * (chance - 0.5)

        cells = {1: [], 2: [], 4: []}
        for r in range(0, rows, 4):
            for c in range(0, cols, 4):
                if 4 in factors and coarseness(r + 2, c + 2) >= split4:
                    cells[4].append((r, c))
                    continue
                for y, x in ((r, c), (r, c + 2), (r + 2, c), (r + 2, c + 2)):
                    if 2 in factors and coarseness(y + 1, x + 1) >= split2:
                        cells[2].append((y, x))
                    else:
                        cells[1] += [(y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)]
        if sum(map(len, cells.values())) <= rows * cols * 3 // 5:
            return {k: sorted(v) for k, v in cells.items()}


class Layouts:
    """The layouts of one batch: where each cell's content comes from, its row in the batch, its position.

    parts {factor: (source, row)}: source indexes patchify(z, factor) flattened over the batch, row the image rows
    [batch * longest]; both None for a uniform layout, where all are taken in order."""

    def __init__(self, batch, rows, cols, factor=None, cells=None):
        self.batch, self.factor, self.mask = batch, factor, None
        if factor:
            steps = torch.arange(0, rows, factor), torch.arange(0, cols, factor)
            at = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).reshape(1, -1, 2).double()
            self.positions, self.longest = at + (factor - 1) / 2, at.shape[1]
            self.parts, self.row_factor, self.share = {factor: (None, None)}, None, None
            return
        self.longest = max(sum(map(len, c.values())) for c in cells)
        positions, row_factor = np.zeros((batch, self.longest, 2)), np.zeros((batch, self.longest), int)
        self.share = {k: torch.tensor([len(c[k]) * k * k / (rows * cols) for c in cells]) for k in (2, 4)}
        self.parts = {}
        first = [0] * batch
        for k in (1, 2, 4):
            source, row = [], []
            for b, c in enumerate(cells):
                for y, x in c[k]:
                    source.append((b * (rows // k) + y // k) * (cols // k) + x // k)
                    row.append(b * self.longest + first[b])
                    positions[b, first[b]] = y + (k - 1) / 2, x + (k - 1) / 2
                    row_factor[b, first[b]] = k
                    first[b] += 1
            if source:
                self.parts[k] = torch.tensor(source), torch.tensor(row)
        self.positions, self.row_factor = torch.from_numpy(positions), torch.from_numpy(row_factor)
        self.mask = torch.arange(self.longest)[None] < torch.tensor(first)[:, None]


def patchify(z, factor):
    """[B, C, h, w] -> [B, cells, C n n], features ordered channel, row, column."""
    n = PATCH * factor
    b, c, h, w = z.shape
    return z.view(b, c, h // n, n, w // n, n).permute(0, 2, 4, 1, 3, 5).reshape(b, (h // n) * (w // n), c * n * n)


# ---- the adapter ------------------------------------------------------------------------------------------------------------


class Adapter(torch.nn.Module):
    """Float32 masters by the names of docs/adapter_file.md, `.` as `/`; the untrained start."""

    def __init__(self, base, factors, rank, residual):
        super().__init__()
        self.factors, self.rank, self.residual = factors, rank, residual.split("+")
        g = torch.Generator().manual_seed(0)
        w_in, w_out = base["x_embedder.weight"].float(), base["proj_out.weight"].float()
        d, channels = w_in.shape[0], w_out.shape[0] // PATCH**2
        values = {}
        for k in factors:
            n, name = PATCH * k, f"ddit.x{k}."
            up = bilinear(n).float()
            down = torch.linalg.pinv(up)
            w = w_in.view(d, channels, PATCH, PATCH)
            values[name + "embed.weight"] = torch.einsum("dcpq,pi,qj->dcij", w, down, down)
            values[name + "embed.bias"] = base["x_embedder.bias"].float().clone()
            w = w_out.view(channels, PATCH, PATCH, d)
            values[name + "deembed.weight"] = torch.einsum("cpqd,ip,jq->cijd", w, up, up)
            values[name + "deembed.bias"] = torch.einsum(
                "cpq,ip,jq->cij", base["proj_out.bias"].float().view(channels, PATCH, PATCH), up, up
            )
            values[name + "id"] = torch.zeros(d)
            if "linear" in self.residual:
                values[name + "res.weight"] = torch.zeros(channels, channels)
                values[name + "res.bias"] = torch.zeros(channels)
            for module in lora_modules(base) if rank else ():
                out, size = base[module + ".weight"].shape
                values[f"{name}lora.{module}.A"] = (torch.rand(rank, size, generator=g) * 2 - 1) / math.sqrt(size)
                values[f"{name}lora.{module}.B"] = torch.zeros(out, rank)
        self.values = torch.nn.ParameterDict(
            {k.replace(".", "/"): torch.nn.Parameter(v.contiguous()) for k, v in values.items()}
        )

    def get(self, factor, name):
        return self.values[f"ddit.x{factor}.{name}".replace(".", "/")]

    def save(self, path):
        from safetensors.torch import save_file

        metadata = {"format": "ddit-adapter", "version": "1", "arch": "flux", "residual": "+".join(self.residual)}
        metadata |= {"factors": ",".join(map(str, self.factors)), "rank": str(self.rank or 1), "alpha": str(self.rank or 1)}
        tensors = {k.replace("/", "."): v.detach().contiguous() for k, v in self.values.items()}
        save_file(tensors, path, metadata)


def lora_modules(base):
    ends = tuple("." + name for name in DOUBLE_LORA + SINGLE_LORA)
    names = sorted(k[: -len(".weight")] for k in base if k.endswith(".weight"))
    return [n for n in names if n.endswith(ends) and "transformer_blocks." in n]


# ---- the transformer --------------------------------------------------------------------------------------------------------


def rotate(x, rope):
    """[B, heads, T, head], even and odd elements as complex numbers, in float32 as diffusers does. rope is complex, or for
    torch.compile (which leaves complex numbers alone) the pair cosines, sines."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.is_tensor(rope):
        return torch.view_as_real(torch.view_as_complex(pairs) * rope).flatten(-2).to(x.dtype)
    (even, odd), (cos, sin) = pairs.unbind(-1), rope
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2).to(x.dtype)


def modulated(x, shift, scale):
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=EPS), 1 + scale)


def linear(w, name, x):
    return F.linear(x, w[name + ".weight"], w[name + ".bias"])


def with_lora(y, x, lora, name, weights):
    """y + (weights * x A^T) B^T. lora {name: (A [ranks, in], B [out, ranks])}; weights [B, T, ranks] or None (all 1). alpha is
    the rank, so that the scale is 1."""
    if not lora:
        return y
    down, up = lora[name]
    u = F.linear(x, down)
    if weights is not None:
        u = u * weights
    return torch.addmm(y.flatten(0, 1), u.flatten(0, 1), up.t()).view(y.shape)


def fuse(w, name, parts):
    """Several linear layers with one input become one."""
    for kind in (".weight", ".bias"):
        w[name + kind] = torch.cat([w.pop(p + kind) for p in parts])


class Flux:
    def __init__(self, folder, adapter_options, dtype, compiled=False):
        folder = Path(folder)
        self.config = json.loads((folder / "transformer" / "config.json").read_text())
        base = {k: v.float() for k, v in load_tensors(folder / "transformer").items()}
        self.adapter, self.dtype = Adapter(base, *adapter_options), dtype
        self.heads, self.head = self.config["num_attention_heads"], self.config["attention_head_dim"]
        self.d = self.heads * self.head
        self.factors, self.run = self.adapter.factors, checkpoint
        self.w = {k: v.to(dtype) for k, v in base.items()}
        self.doubles = self.blocks("transformer_blocks.", self.config["num_layers"])
        self.singles = self.blocks("single_transformer_blocks.", self.config["num_single_layers"])
        for w in self.doubles:
            fuse(w, "attn.qkv", ["attn.to_q", "attn.to_k", "attn.to_v"])
            fuse(w, "attn.add_qkv", ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"])
        for w in self.singles:
            fuse(w, "in", ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"])
        self.compiled, self.double, self.single = compiled, self.double_block, self.single_block
        if compiled:
            self.double = torch.compile(self.double_block, dynamic=True)
            self.single = torch.compile(self.single_block, dynamic=True)
        self.detail = {}  # what a coarse cell cannot say, as one matrix over its pixels
        for k in self.factors:
            q = what_a_base_patch_can_say(PATCH * k)
            self.detail[k] = (torch.eye(len(q) ** 2) - torch.kron(q, q)).float()

    def blocks(self, prefix, count):
        """The weights of each block by their names inside it, so that all blocks of a kind are one graph for a compiler."""
        names = [f"{prefix}{i}." for i in range(count)]
        return [{k[len(n) :]: self.w.pop(k) for k in list(self.w) if k.startswith(n)} for n in names]

    # -- conditions, frozen

    def sinusoid(self, value):
        i = torch.arange(128, dtype=torch.float32)
        angle = value.float()[:, None] * torch.exp(-math.log(10000) * i / 128)
        return torch.cat([angle.cos(), angle.sin()], 1).to(self.dtype)

    def embedder(self, name, x):
        return linear(self.w, name + ".linear_2", F.silu(linear(self.w, name + ".linear_1", x)))

    @torch.no_grad()
    def conditions(self, sigma, guidance, pooled):
        """Modulations of all blocks: lists of [B, 1, d]."""
        vec = self.embedder("time_text_embed.timestep_embedder", self.sinusoid(1000 * sigma))
        if self.config["guidance_embeds"]:
            vec = vec + self.embedder("time_text_embed.guidance_embedder", self.sinusoid(1000 * guidance))
        vec = F.silu(vec + self.embedder("time_text_embed.text_embedder", pooled.to(self.dtype)))
        parts = lambda w, name, count: linear(w, name, vec)[:, None].chunk(count, -1)
        doubles = [parts(w, "norm1.linear", 6) + parts(w, "norm1_context.linear", 6) for w in self.doubles]
        return doubles, [parts(w, "norm.linear", 3) for w in self.singles], parts(self.w, "norm_out.linear", 2)

    @torch.no_grad()
    def rope(self, positions, text):
        """Complex [1 or B, 1, text + image, head / 2]; angles in float64."""
        b, image = positions.shape[:2]
        at = torch.cat([torch.zeros(b, text, 2, dtype=torch.float64), positions], 1)
        axes, angles = self.config["axes_dims_rope"], []
        for axis, size in enumerate(axes):
            omega = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
            angles.append((at[..., axis - 1 : axis] if axis else torch.zeros(b, text + image, 1)) * omega)
        angle = torch.cat(angles, -1)[:, None]
        cos, sin = angle.cos().float(), angle.sin().float()
        return (cos, sin) if self.compiled else torch.complex(cos, sin)

    # -- blocks

    def heads_of(self, qkv, w, name_q, name_k):
        q, k, v = qkv.unflatten(-1, (3, self.heads, self.head)).permute(2, 0, 3, 1, 4)
        norm = lambda x, name: F.rms_norm(x, (self.head,), w[name + ".weight"], EPS)
        return norm(q, name_q), norm(k, name_k), v

    def attention(self, q, k, v, rope, mask):
        a = F.scaled_dot_product_attention(rotate(q, rope), rotate(k, rope), v, attn_mask=mask)
        return a.transpose(1, 2).flatten(2)

    def feed_forward(self, w, x, name, lora, weights):
        hidden = with_lora(linear(w, name + ".net.0.proj", x), x, lora, name + ".net.0.proj", weights)
        hidden = F.gelu(hidden, approximate="tanh")
        return with_lora(linear(w, name + ".net.2", hidden), hidden, lora, name + ".net.2", weights)

    def double_block(self, w, img, txt, mods, rope, mask, lora, weights):
        n, mi, mt = txt.shape[1], mods[:6], mods[6:]
        qi = linear(w, "attn.qkv", modulated(img, mi[0], mi[1]))
        qt = linear(w, "attn.add_qkv", modulated(txt, mt[0], mt[1]))
        qi = self.heads_of(qi, w, "attn.norm_q", "attn.norm_k")
        qt = self.heads_of(qt, w, "attn.norm_added_q", "attn.norm_added_k")
        a = self.attention(*(torch.cat(pair, 2) for pair in zip(qt, qi)), rope, mask)
        txt = torch.addcmul(txt, mt[2], linear(w, "attn.to_add_out", a[:, :n]))
        img = torch.addcmul(img, mi[2], linear(w, "attn.to_out.0", a[:, n:]))
        for_txt, for_img = (None, None) if weights is None else (weights[:, :n], weights[:, n:])
        img = torch.addcmul(img, mi[5], self.feed_forward(w, modulated(img, mi[3], mi[4]), "ff", lora, for_img))
        hidden = self.feed_forward(w, modulated(txt, mt[3], mt[4]), "ff_context", lora, for_txt)
        return img, torch.addcmul(txt, mt[5], hidden)

    def single_block(self, w, x, mods, rope, mask, lora, weights):
        n = modulated(x, mods[0], mods[1])
        qkv, m = linear(w, "in", n).split([3 * self.d, 4 * self.d], -1)
        q, k, v = self.heads_of(qkv, w, "attn.norm_q", "attn.norm_k")
        m = F.gelu(with_lora(m, n, lora, "proj_mlp", weights), approximate="tanh")
        both = torch.cat([self.attention(q, k, v, rope, mask), m], -1)
        return torch.addcmul(x, mods[2], with_lora(linear(w, "proj_out", both), both, lora, "proj_out", weights))

    def block(self, call, *arguments):
        if not torch.is_grad_enabled():
            return call(*arguments)
        return checkpoint(call, *arguments, use_reentrant=False, preserve_rng_state=False)

    def lora_of(self, prefix, modules, factors):
        """{module: (A, B)} of one block in the compute type, several factors behind each other."""
        out = {}
        for m in modules if self.adapter.rank else ():
            down = [self.adapter.get(k, f"lora.{prefix}{m}.A") for k in factors]
            up = [self.adapter.get(k, f"lora.{prefix}{m}.B") for k in factors]
            down, up = (down[0], up[0]) if len(down) == 1 else (torch.cat(down), torch.cat(up, 1))
            out[m] = down.to(self.dtype), up.to(self.dtype)
        return out

    def lora_rows(self, layouts, text):
        """Factors with LoRA and the weight of each row and rank [B, T, ranks], None where all are 1."""
        if layouts.factor:
            return [layouts.factor], None
        weights = []
        for k in self.factors:
            of_text = layouts.share[k][:, None].expand(-1, text)
            rows = torch.cat([of_text, (layouts.row_factor == k).float()], 1)
            weights.append(rows[..., None].expand(-1, -1, self.adapter.rank))
        return self.factors, torch.cat(weights, -1).to(self.dtype)

    # -- cells

    def patch_weights(self, part, k):
        if k == 1:
            name = "x_embedder" if part == "embed" else "proj_out"
            return self.w[name + ".weight"], self.w[name + ".bias"]
        weight, bias = self.adapter.get(k, part + ".weight"), self.adapter.get(k, part + ".bias")
        weight = weight.flatten(1) if part == "embed" else weight.flatten(0, 2)
        bias = bias + self.adapter.get(k, "id") if part == "embed" else bias.flatten()
        return weight.to(self.dtype), bias.to(self.dtype)

    def embed(self, content, layouts):
        if layouts.factor:
            return F.linear(content[layouts.factor].to(self.dtype), *self.patch_weights("embed", layouts.factor))
        out = torch.zeros(layouts.batch * layouts.longest, self.d, dtype=self.dtype)
        for k, (_, row) in layouts.parts.items():
            out = out.index_copy(0, row, F.linear(content[k].to(self.dtype), *self.patch_weights("embed", k)))
        return out.view(layouts.batch, layouts.longest, self.d)

    def residual(self, k, content, sigma):
        """content [..., C n n], sigma broadcastable; float32."""
        n, kinds, out = PATCH * k, self.adapter.residual, 0
        c = content.unflatten(-1, (-1, n * n))
        if "linear" in kinds:
            pixels = F.linear(c.transpose(-1, -2), self.adapter.get(k, "res.weight"), self.adapter.get(k, "res.bias"))
            out = pixels.transpose(-1, -2)
        if "hf" in kinds:
            out = out + F.linear(c, self.detail[k]) / sigma[..., None, None].clamp(min=0.05)
        return out.flatten(-2) if torch.is_tensor(out) else out

    def velocity_cells(self, z, layouts, sigma, guidance, text, pooled):
        """{factor: (velocity, sample)}: float32 [rows, C n n] and the sample each row belongs to."""
        content = {}
        for k, (source, _) in layouts.parts.items():
            cells = patchify(z, k)
            content[k] = cells if source is None else cells.flatten(0, 1)[source]
        doubles, singles, last = self.conditions(sigma, guidance, pooled)
        with torch.no_grad():
            txt = linear(self.w, "context_embedder", text.to(self.dtype))
        rope, mask, n = self.rope(layouts.positions, txt.shape[1]), None, txt.shape[1]
        if layouts.mask is not None:
            mask = F.pad(layouts.mask, (n, 0), value=True)[:, None, None]
        img, (factors, weights) = self.embed(content, layouts), self.lora_rows(layouts, n)
        for i, mods in enumerate(doubles):
            lora = self.lora_of(f"transformer_blocks.{i}.", DOUBLE_LORA, factors)
            img, txt = self.block(self.double, self.doubles[i], img, txt, mods, rope, mask, lora, weights)
        x = torch.cat([txt, img], 1)
        for i, mods in enumerate(singles):
            lora = self.lora_of(f"single_transformer_blocks.{i}.", SINGLE_LORA, factors)
            x = self.block(self.single, self.singles[i], x, mods, rope, mask, lora, weights)
        y, out = modulated(x[:, n:], last[1], last[0]), {}  # norm_out: scale first
        for k, (_, row) in layouts.parts.items():
            rows = y if row is None else y.flatten(0, 1)[row]
            sample = torch.arange(layouts.batch)[:, None].expand(-1, layouts.longest) if row is None else row // layouts.longest
            v = F.linear(rows, *self.patch_weights("deembed", k)).float()
            out[k] = (v + self.residual(k, content[k].float(), sigma[sample]) if k > 1 else v), sample
        return out


def random_layouts(rng, kind, batch, rows, cols, factors):
    if kind == "mixed":
        return Layouts(batch, rows, cols, cells=[mixed_layout(rng, rows, cols, factors) for _ in range(batch)])
    return Layouts(batch, rows, cols, factor=int(kind[1:]))


def as_reference_cells(cells):
    """A mixed layout in the form of tools/ddit_reference.py: (factor, first latent row, column)."""
    return [(k, PATCH * r, PATCH * c) for k in (1, 2, 4) for r, c in cells[k]]


def to_latent(parts, z, layouts):
    """Velocities of cells put together [B, C, h, w]; for checks."""
    out = np.zeros(tuple(z.shape))
    b, channels, h, w = z.shape
    for k, (v, _) in parts.items():
        n = PATCH * k
        source = layouts.parts[k][0]
        v = v.detach().double().flatten(0, -2).view(-1, channels, n, n).numpy()
        for i, at in enumerate(range(len(v)) if source is None else source.tolist()):
            sample, cell = divmod(at, (h // n) * (w // n))
            r, c = divmod(cell, w // n)
            out[sample, :, r * n : r * n + n, c * n : c * n + n] = v[i]
    return torch.from_numpy(out)
