"""Statistics and decisions of the patch policies, computed independently of ddit's source from the project's definitions
(design: statistic, tau and the number of steps, history, region). numpy and torch; no model is needed, only latents."""

import numpy as np
import torch

PATCH = 2
COEFFICIENTS = {1: (1, -1), 2: (1, -2, 1), 3: (1, -3, 3, -1)}


def effective_tau(tau, tau_steps, steps, order):
    """Metadata's tau scaled to the run's number of steps; a tau given by hand is used as it is."""
    return tau * (tau_steps / steps) ** order


def difference(history, order):
    """history: latents [16,h,w] float32 handed to the model, newest last. Float32 at every operation."""
    out = np.zeros_like(history[-1], dtype=np.float32)
    for i, c in enumerate(COEFFICIENTS[order]):
        out = (out + np.float32(c) * history[-1 - i]).astype(np.float32)
    return out


def cell_stds(d, factor):
    """Unbiased std over all channels of each whole cell, float64 sums, two passes; float32 [rows, cols]."""
    n = PATCH * factor
    channels, h, w = d.shape
    rows, cols = h // n, w // n
    x = d[:, : rows * n, : cols * n].astype(np.float64).reshape(channels, rows, n, cols, n)
    x = x.transpose(1, 3, 0, 2, 4).reshape(rows, cols, -1)
    mean = x.sum(-1, keepdims=True) / x.shape[-1]
    return np.sqrt(((x - mean) ** 2).sum(-1) / (x.shape[-1] - 1)).astype(np.float32)


def statistic(d, factor, rho):
    """Quantile rho over all whole cells, or None where there is none."""
    stds = cell_stds(d, factor)
    return float(torch.quantile(torch.from_numpy(stds.flatten()), rho)) if stds.size else None


def choose_auto(stats, tau, sigma, sigma_min):
    """Largest factor with s < tau that its floor allows; else 1."""
    for factor in sorted(stats, reverse=True):
        if stats[factor] is not None and stats[factor] < tau and sigma >= sigma_min.get(factor, 0.0):
            return factor
    return 1


def region_stds(d, factors, sigma, sigma_min):
    """std of every 4p block and 4x4 sub-block that may be accepted; infinity where it may not."""
    _, h, w = d.shape
    rows, cols = -(-h // 8), -(-w // 8)
    out = {}
    for factor, n in ((4, 1), (2, 2)):
        full = np.full((rows * n, cols * n), np.inf, dtype=np.float32)
        if factor in factors and sigma >= sigma_min.get(factor, 0.0):
            stds = cell_stds(d, factor)
            full[: stds.shape[0], : stds.shape[1]] = stds
        out[factor] = full
    return out


def choose_region(stds, tau):
    """Layout string: blocks in raster order, `4` or `(qqqq)`."""
    rows, cols = stds[4].shape
    text = ""
    for r in range(rows):
        for c in range(cols):
            if stds[4][r, c] < tau:
                text += "4"
            else:
                quadrants = (stds[2][2 * r + q // 2, 2 * c + q % 2] for q in range(4))
                text += "(" + "".join("2" if s < tau else "1" for s in quadrants) + ")"
    return text


def split_layout(text):
    """`4(1212)` -> ["4", "1212"]"""
    out, i = [], 0
    while i < len(text):
        if text[i] == "4":
            out.append("4")
            i += 1
        else:
            out.append(text[i + 1 : i + 5])
            i += 6
    return out


def parse_sigma_min(value):
    """`2:0.3,4:0.9`, none, or a JSON object -> {factor: sigma}"""
    if not value or value == "none":
        return {}
    if isinstance(value, dict):
        return {int(k): float(v) for k, v in value.items() if v is not None}
    return {int(item.split(":")[0]): float(item.split(":")[1]) for item in value.split(",")}
