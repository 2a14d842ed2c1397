#!/bin/sh
# Data-parallel training: the same training with 1, 2 and 4 MPI ranks, and the largest relative difference (norm of the
# difference / norm) of a tensor of the trained weights: the float32 values of the last checkpoint. The
# adapter files hold bf16, whose rounding alone is larger. Exit 1 if it is above BAR.
#   sh bench/train_ranks.sh [DDIT]        STEPS=20 BATCH=8 BAR=1e-5 RANKS="1 2 4" MODEL=models/emoji PRECISION=auto by default
# ddit must have been built with MPI, and mpirun be on the path.
set -eu
cd "$(dirname "$0")/.."
ddit=${1:-${DDIT:-build/release/ddit}}
[ -x "$ddit" ] || { echo "the program $ddit was not found; build it first or name it" >&2; exit 2; }
command -v mpirun >/dev/null || { echo "mpirun was not found" >&2; exit 2; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/cache"
root=
[ "$(id -u)" -eq 0 ] && root=--allow-run-as-root # Open MPI refuses to run as root without
for ranks in ${RANKS:-1 2 4}; do
    mpirun $root --oversubscribe -n "$ranks" "$ddit" train -m "${MODEL:-models/emoji}" -o "$folder/$ranks.safetensors" \
        --prompts bench/prompts50.txt --cache "$folder/cache" --trajectories 8 --points 8 --steps "${STEPS:-20}" \
        --batch "${BATCH:-8}" --sample-every 0 --precision "${PRECISION:-auto}" -t 1 -q --json >"$folder/$ranks.json"
    grep -q "\"ranks\": $ranks" "$folder/$ranks.json" || { echo "$ranks ranks: the report does not say so" >&2; exit 1; }
    echo "$ranks ranks: $(grep -c . "$folder/$ranks.run/loss.csv") lines of loss.csv, one report of" \
        "$(grep -c '"format"' "$folder/$ranks.json") rank"
done
python3 - "$folder" "${BAR:-1e-5}" ${RANKS:-1 2 4} <<'PYTHON'
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

folder, bar, first, *others = sys.argv[1:]


def tensors(ranks):
    """{name: values} of the checkpoint's average in float64. Where a tensor begins in that vector is found by its bf16 values,
    which the adapter file holds."""
    newest = sorted(Path(f"{folder}/{ranks}.run").glob("checkpoint-*"))[-1]
    vector, out = load_file(newest)["ema"], {}
    words = torch.from_numpy(vector).bfloat16().view(torch.int16).numpy()
    where = {}
    for at in range(0, len(words), 16):
        where.setdefault(words[at : at + 16].tobytes(), []).append(at)
    with safe_open(f"{folder}/{ranks}.safetensors", "pt") as file:
        for name in file.keys():
            bits = file.get_tensor(name).flatten().view(torch.int16).numpy()
            at = [i for i in where.get(bits[:16].tobytes(), []) if (words[i : i + len(bits)] == bits).all()]
            assert len(at) == 1, f"{name}: found {len(at)} times in {newest.name}"
            out[name] = vector[at[0] : at[0] + len(bits)].astype(np.float64)
    return out


a, worst = tensors(first), 0.0
for ranks in others:
    b = tensors(ranks)
    apart = {n: float(np.linalg.norm(a[n] - b[n]) / max(np.linalg.norm(a[n]), 1e-30)) for n in a}
    name = max(apart, key=apart.get)
    whole = np.linalg.norm(np.concatenate([a[n] - b[n] for n in a])) / np.linalg.norm(np.concatenate([a[n] for n in a]))
    print(f"{first} and {ranks} ranks: largest relative difference of a tensor {apart[name]:.2e} ({name}); of all {whole:.2e}")
    worst = max(worst, apart[name])
sys.exit(worst > float(bar))
PYTHON
