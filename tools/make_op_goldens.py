#!/usr/bin/env python3
"""Writes tests/golden/ops/ops.safetensors: small inputs of every op and what torch says in float64.

    python3 tools/make_op_goldens.py            writes the file
Only torch's own functions and the formulas of the papers are used, none of ddit's code. Names: CASE.x, CASE.y ...; float32.
"""
import os

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

OUT = os.path.join(os.path.dirname(__file__), "..", "tests", "golden", "ops", "ops.safetensors")
gen = torch.Generator().manual_seed(20240)
tensors = {}


def rand(*shape):
    """float64 values that float32 represents."""
    return torch.randn(*shape, generator=gen, dtype=torch.float32).double()


def keep(case, **values):
    for name, value in values.items():
        tensors[f"{case}.{name}"] = value.detach().to(torch.float32).contiguous()


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def activations():
    x = torch.linspace(-9, 9, 73).float().double()
    keep("activation", x=x, silu=F.silu(x), gelu_tanh=F.gelu(x, approximate="tanh"), gelu_erf=F.gelu(x),
         quick_gelu=quick_gelu(x))


def linear():
    x, w, b = rand(5, 7), rand(6, 7), rand(6)
    mul, gate, add = rand(5, 6), rand(6), rand(5, 6)
    down, up = rand(3, 7), rand(6, 3)
    plain = F.linear(x, w, b)
    h = plain.clone()
    h[1:4] += 0.625 * F.linear(F.linear(x[1:4], down), up)
    keep("linear", x=x, w=w, b=b, mul=mul, gate=gate, add=add, down=down, up=up, plain=plain,
         y=F.gelu(h, approximate="tanh") * mul * gate + add)


def norms():
    x, weight, bias, scale, shift = 2 * rand(4, 10) + 1, rand(10), rand(10), rand(10), rand(10)
    layer = F.layer_norm(x, (10,), weight, bias, 1e-6)
    rms = F.rms_norm(x, (10,), weight, 1e-6)
    keep("norm", x=x, weight=weight, bias=bias, scale=scale, shift=shift, layer=layer * (1 + scale) + shift,
         layer_plain=F.layer_norm(x, (10,), None, None, 1e-6), rms=rms)
    h, w, c = 3, 5, 12
    picture, gw, gb = 2 * rand(1, c, h, w) - 0.5, rand(c), rand(c)
    y = F.group_norm(picture, 4, gw, gb, 1e-6)
    rows = lambda p: p[0].permute(1, 2, 0).reshape(h * w, -1)
    keep("group_norm", x=rows(picture), weight=gw, bias=gb, y=rows(y), silu=rows(F.silu(y)))


def qk_norm_rope():
    rows, heads, width = 6, 2, 8
    x, weight = rand(rows, heads * width), rand(width)
    angle = 3 * rand(rows, width // 2)
    n = F.rms_norm(x.reshape(rows, heads, width), (width,), weight, 1e-6)
    turned = torch.view_as_complex(n.reshape(rows, heads, -1, 2)) * torch.polar(torch.ones_like(angle), angle)[:, None]
    rope = torch.stack([angle.cos(), angle.sin()], -1).reshape(rows, width)
    keep("qk", x=x, weight=weight, rope=rope, y=torch.view_as_real(turned).reshape(rows, -1), plain=n.reshape(rows, -1))


def attention():
    nq, nk, heads, width = 5, 7, 2, 4
    q, k, v = (rand(n, heads * width).requires_grad_() for n in (nq, nk, nk))
    bias, dout = rand(heads, nq, nk), rand(nq, heads * width)
    split = lambda t: t.reshape(t.shape[0], heads, width).transpose(0, 1)
    join = lambda t: t.transpose(0, 1).reshape(nq, heads * width)
    run = lambda **kw: join(F.scaled_dot_product_attention(split(q), split(k), split(v), scale=0.4, **kw))
    y, scores = run(), 0.4 * split(q) @ split(k).transpose(1, 2)
    dq, dk, dv = torch.autograd.grad(y, (q, k, v), dout)
    mask = torch.ones(nq, nk, dtype=torch.bool).tril()
    causal = run(attn_mask=mask)
    cq, ck, cv = torch.autograd.grad(causal, (q, k, v), dout)
    keep("attention", q=q, k=k, v=v, bias=bias, y=y, lse=scores.logsumexp(-1), biased=run(attn_mask=bias), causal=causal,
         causal_lse=scores.masked_fill(~mask, -torch.inf).logsumexp(-1), dout=dout, dq=dq, dk=dk, dv=dv, causal_dq=cq, causal_dk=ck,
         causal_dv=cv)


def convolution():
    h, w, cin, cout = 4, 6, 3, 5
    x, w3, w1, b, add = rand(1, cin, h, w), rand(cout, cin, 3, 3), rand(cout, cin, 1, 1), rand(cout), rand(h * w, cout)
    rows = lambda p: p[0].permute(1, 2, 0).reshape(-1, p.shape[1])
    keep("conv", x=rows(x), w3=w3, w1=w1, b=b, add=add, y3=rows(F.conv2d(x, w3, b, padding=1)) + add, y1=rows(F.conv2d(x, w1, b)),
         up=rows(F.interpolate(x, scale_factor=2, mode="nearest")), chw=x[0], last=1.5 * rows(x) - 0.25)


def cells():
    """4 x 4 cells of a 6 x 9 latent, in raster order; those at the right and bottom hang over."""
    n, c, h, w = 4, 3, 6, 9
    z, weight, bias = rand(c, h, w), rand(c, c), rand(c)
    grow = lambda t: F.pad(t[None], (0, -w % n, 0, -h % n), mode="replicate")[0]
    to_cells = lambda t: t.reshape(c, t.shape[1] // n, n, t.shape[2] // n, n).permute(1, 3, 0, 2, 4)
    from_cells = lambda t: t.permute(2, 0, 3, 1, 4).reshape(c, t.shape[0] * n, t.shape[1] * n)[:, :h, :w]
    padded = to_cells(grow(z))
    x = rand(*padded.shape)
    up = torch.tensor([[1, 0], [.75, .25], [.25, .75], [0, 1]], dtype=torch.float64)
    projection = (up @ torch.linalg.pinv(up)).float().double()
    high = padded - projection @ padded @ projection.T
    pixel = torch.einsum("cd,dhw->chw", weight, z) + bias[:, None, None]
    origin = torch.tensor([[r, s] for r in range(0, h, n) for s in range(0, w, n)], dtype=torch.int32)
    keep("cells", z=z, weight=weight, bias=bias, projection=projection, gathered=padded.reshape(len(origin), -1),
         x=x.reshape(len(origin), -1), plain=from_cells(x), y=from_cells(x) + pixel + 2.5 * from_cells(high))
    tensors["cells.origin"] = origin


def statistics():
    z = [rand(3, 9, 10).float() for _ in range(4)]
    d = {1: z[0] - z[1], 2: z[0] - 2 * z[1] + z[2], 3: z[0] - 3 * z[1] + 3 * z[2] - z[3]}
    keep("stats", **{f"z{i}": t for i, t in enumerate(z)})
    for order, difference in d.items():
        blocks = difference[:, :8, :8].double().reshape(3, 2, 4, 2, 4).permute(1, 3, 0, 2, 4).reshape(4, -1)
        keep("stats", **{f"order{order}": blocks.std(dim=1, unbiased=True)})


def coarse_step():
    for k in (2, 4):
        c, h, w, a, sigma, small, gain = 3, 8, 12, 0.6875, 0.75, 0.546875, 0.3125
        z, v = rand(c, h, w), rand(c, h // k, w // k)
        pooled = F.avg_pool2d(z[None], k)[0]
        z_small = (pooled / a).float().double()  # handed on in float32
        x0_small = z_small - small * v
        detail = z - (a * z_small).repeat_interleave(k, 1).repeat_interleave(k, 2)
        x0 = F.interpolate(x0_small[None], scale_factor=k, mode="bilinear", align_corners=False)[0] + gain * detail
        keep(f"coarse{k}", z=z, v=v, z_small=z_small, velocity=(z - x0) / sigma)


for make in (activations, linear, norms, qk_norm_rope, attention, convolution, cells, statistics, coarse_step):
    make()
os.makedirs(os.path.dirname(OUT), exist_ok=True)
save_file(tensors, OUT, metadata={"made_by": "tools/make_op_goldens.py", "torch": torch.__version__})
print(f"{OUT}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values())} values")
