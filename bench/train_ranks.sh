#!/bin/sh
# Data-parallel training: the same training with 1, 2 and 4 MPI ranks, and the largest relative difference of a tensor of the
# adapters (norm of the difference / norm). Exit 1 if it is above BAR.
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

import numpy as np
from safetensors.torch import load_file

folder, bar, first, *others = sys.argv[1:]
a, worst = load_file(f"{folder}/{first}.safetensors"), 0.0
for ranks in others:
    b = load_file(f"{folder}/{ranks}.safetensors")
    assert a.keys() == b.keys()
    apart = {}
    for name in a:
        x, y = a[name].double().numpy(), b[name].double().numpy()
        apart[name] = float(np.linalg.norm(x - y) / max(np.linalg.norm(x), 1e-30))
    name = max(apart, key=apart.get)
    print(f"{first} and {ranks} ranks: largest relative difference {apart[name]:.2e} ({name})")
    worst = max(worst, apart[name])
sys.exit(worst > float(bar))
PYTHON
