#!/usr/bin/env python3
"""Writes tests/golden/ops/ops.safetensors and grad.safetensors: small inputs of every op, and what torch says in float64.

    python3 tools/make_op_goldens.py            writes the files
Only torch's own functions and the formulas of the papers are used, none of ddit's code. Names: CASE.x, CASE.y ...; float32.
"""
import pathlib

import torch
import torch.nn.functional as F
from stable_save import save_stable

OUT = pathlib.Path(__file__).parent.parent / "tests" / "golden" / "ops"
gen = torch.Generator()
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
    q, k, v = (rand(n, heads * width) for n in (nq, nk, nk))
    bias = rand(heads, nq, nk)
    split = lambda t: t.reshape(t.shape[0], heads, width).transpose(0, 1)
    join = lambda t: t.transpose(0, 1).reshape(nq, heads * width)
    run = lambda **kw: join(F.scaled_dot_product_attention(split(q), split(k), split(v), scale=0.4, **kw))
    y, scores = run(), 0.4 * split(q) @ split(k).transpose(1, 2)
    mask = torch.ones(nq, nk, dtype=torch.bool).tril()
    keep("attention", q=q, k=k, v=v, bias=bias, y=y, lse=scores.logsumexp(-1), biased=run(attn_mask=bias),
         causal=run(attn_mask=mask), causal_lse=scores.masked_fill(~mask, -torch.inf).logsumexp(-1))


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


# ---------------------------------------------------------------------------------------------- backward passes, by autograd


def leaf(*shape):
    return rand(*shape).requires_grad_()


def keep_grads(case, result, dy, **leaves):
    """Keeps the leaves, dy, and the gradient of sum(result * dy) by each of them as dNAME."""
    grads = torch.autograd.grad(result, list(leaves.values()), dy)
    keep(case, dy=dy, **leaves, **{f"d{name}": grad for name, grad in zip(leaves, grads)})


def linear_grad():
    x, w, b = leaf(5, 7), leaf(6, 7), leaf(6)
    keep_grads("linear", F.linear(x, w, b), rand(5, 6), x=x, w=w, b=b)


def attention_grad():
    """out and lse are inputs of the backward pass, and those of the file are float32."""
    nq, nk, heads, width = 5, 7, 2, 4
    split = lambda t: t.reshape(t.shape[0], heads, width).transpose(0, 1)
    mask = torch.ones(nq, nk, dtype=torch.bool).tril()
    for case in ("attention", "causal"):
        q, k, v = leaf(nq, heads * width), leaf(nk, heads * width), leaf(nk, heads * width)
        scores = 0.4 * split(q) @ split(k).transpose(1, 2)
        if case == "causal":
            scores = scores.masked_fill(~mask, -torch.inf)
        out = (scores.softmax(-1) @ split(v)).transpose(0, 1).reshape(nq, heads * width)
        keep_grads(case, out, rand(nq, heads * width), q=q, k=k, v=v)
        keep(case, out=out, lse=scores.logsumexp(-1))


def norm_grad():
    x, scale, shift = (2 * rand(4, 10) + 1).requires_grad_(), leaf(10), leaf(10)
    n = F.layer_norm(x, (10,), None, None, 1e-6)
    keep_grads("norm", n * (1 + scale) + shift, rand(4, 10), x=x, scale=scale, shift=shift)
    y = (2 * rand(4, 10) - 1).requires_grad_()
    keep_grads("norm_plain", F.layer_norm(y, (10,), None, None, 1e-6), rand(4, 10), x=y)


def qk_norm_rope_grad():
    rows, heads, width = 6, 2, 8
    angle = 3 * rand(rows, width // 2)
    rope = torch.stack([angle.cos(), angle.sin()], -1).reshape(rows, width).float().double()
    cosine, sine = rope[:, None, 0::2], rope[:, None, 1::2]
    for case in ("qk", "qk_plain"):
        x, weight = leaf(rows, heads * width), leaf(width)
        n = F.rms_norm(x.reshape(rows, heads, width), (width,), weight, 1e-6)
        u, v = n[..., 0::2], n[..., 1::2]
        turned = torch.stack([u * cosine - v * sine, v * cosine + u * sine], -1).reshape(rows, -1)
        y = turned if case == "qk" else n.reshape(rows, -1)
        keep_grads(case, y, rand(rows, heads * width), x=x, weight=weight)
    keep("qk", rope=rope)


def activation_grad():
    x, dy = torch.linspace(-9, 9, 73).float().double().requires_grad_(), rand(73)
    kinds = {"none": x * 1, "silu": F.silu(x), "gelu_tanh": F.gelu(x, approximate="tanh"), "gelu_erf": F.gelu(x),
             "quick_gelu": quick_gelu(x)}
    keep("activation", x=x, dy=dy, **{kind: torch.autograd.grad(y, x, dy)[0] for kind, y in kinds.items()})


def gate_grad():
    stream, gate, branch = leaf(5, 6), leaf(6), leaf(5, 6)
    keep_grads("gate", stream + gate * branch, rand(5, 6), stream=stream, gate=gate, branch=branch)


def cells_grad():
    """4 x 4 cells of a 6 x 9 latent; those at the right and bottom hang over."""
    n, c, h, w = 4, 3, 6, 9
    origin = torch.tensor([[r, s] for r in range(0, h, n) for s in range(0, w, n)], dtype=torch.int32)
    x, weight, bias, z = leaf(len(origin), c * n * n), leaf(c, c), leaf(c), rand(c, h, w)
    grid = x.reshape(-(-h // n), -(-w // n), c, n, n).permute(2, 0, 3, 1, 4)
    plain = grid.reshape(c, grid.shape[1] * n, grid.shape[3] * n)[:, :h, :w]
    velocity = plain + torch.einsum("cd,dhw->chw", weight, z) + bias[:, None, None]
    keep_grads("cells", velocity, rand(c, h, w), x=x, weight=weight, bias=bias)
    keep("cells", z=z)
    tensors["cells.origin"] = origin


def write(name, seed, makers):
    tensors.clear()
    gen.manual_seed(seed)
    for make in makers:
        make()
    path = OUT / name
    save_stable(tensors, path, metadata={"made_by": "tools/make_op_goldens.py", "torch": torch.__version__})
    print(f"{path}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values())} values")


OUT.mkdir(parents=True, exist_ok=True)
write("ops.safetensors", 20240,
      (activations, linear, norms, qk_norm_rope, attention, convolution, cells, statistics, coarse_step))
write("grad.safetensors", 20241,
      (linear_grad, attention_grad, norm_grad, qk_norm_rope_grad, activation_grad, gate_grad, cells_grad))
