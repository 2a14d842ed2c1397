#!/bin/sh
# The same bytes for any number of threads: pictures and final latents of the embedded model with 1, 2 and 3 threads, five runs each,
# at 256x256 and 272x400, with off, auto and region. Prints a table; exit 1 if a cell of it has more than one result.
#   sh bench/determinism.sh [DDIT]        RUNS=5 STEPS=28 THREADS="1 2 3" PRECISION=auto by default
set -eu
cd "$(dirname "$0")/.."
ddit=${1:-${DDIT:-build/release/ddit}}
[ -x "$ddit" ] || { echo "the program $ddit was not found; build it first or name it" >&2; exit 2; }
runs=${RUNS:-5}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
status=0
printf '%-9s %-7s %5s %-10s %-16s %s\n' size policy runs results sha256 patches
for size in 256x256 272x400; do
    for policy in off auto region; do
        tau=
        [ $policy = region ] && tau='--tau 0.01' # mixes factors on this model; with the adapter's own almost every cell is coarse
        : >"$folder/sums"
        for threads in ${THREADS:-1 2 3}; do
            run=0
            while [ $run -lt "$runs" ]; do
                "$ddit" generate -m models/emoji -p "red apple" -s 3 --size $size --patch $policy $tau --steps "${STEPS:-28}" \
                    -t "$threads" --precision "${PRECISION:-auto}" --no-metadata --quiet \
                    --trace "$folder/trace" --save-latent "$folder/latent" -o "$folder/a.png"
                cat "$folder/a.png" "$folder/latent" | sha256sum | cut -c1-16 >>"$folder/sums"
                run=$((run + 1))
            done
        done
        results=$(sort -u "$folder/sums" | wc -l)
        schedule=$(sed -n 's/^ "schedule": "\(.*\)",$/\1/p' "$folder/trace")
        printf '%-9s %-7s %5d %-10s %-16s %s\n' $size $policy "$(wc -l <"$folder/sums")" \
            "$([ "$results" -eq 1 ] && echo same || echo "$results DIFFER")" "$(head -n 1 "$folder/sums")" "$schedule"
        [ "$results" -eq 1 ] || status=1
    done
done
exit $status
