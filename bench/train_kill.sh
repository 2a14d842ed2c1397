#!/bin/sh
# The proof that --resume loses nothing: one training that is left alone, one that is killed (-9) at KILLS random moments and
# resumed each time. The two adapters must be equal to the byte, and loss.csv in its columns step, loss and lr (seconds differ).
# Exit 1 if not.
#   sh bench/train_kill.sh [DDIT]        STEPS=60 KILLS=3 BATCH=8 THREADS=2 MODEL=models/emoji by default
set -eu
cd "$(dirname "$0")/.."
ddit=${1:-${DDIT:-build/release/ddit}}
[ -x "$ddit" ] || { echo "the program $ddit was not found; build it first or name it" >&2; exit 2; }
folder=$(mktemp -d)
pid=
trap 'kill -9 $pid 2>/dev/null || :; rm -rf "$folder"' EXIT
steps=${STEPS:-60} kills=${KILLS:-3}
train() { # NAME [--resume]; takes the place of the shell that runs it, so that a signal reaches the program
    name=$1
    shift
    exec "$ddit" train -m "${MODEL:-models/emoji}" -o "$folder/$name.safetensors" --prompts bench/prompts50.txt \
        --cache "$folder/cache" --trajectories 16 --points 8 --steps "$steps" --batch "${BATCH:-8}" --save-every 7 \
        --sample-every 0 -t "${THREADS:-2}" -q "$@"
}
columns() { cut -d, -f1,3- "$1"; }

mkdir "$folder/cache"
(train whole)
echo "uninterrupted: $steps steps"

last_step() { tail -n 1 "$folder/killed.run/loss.csv" 2>/dev/null | cut -d, -f1 | grep '^[0-9][0-9]*$' || echo 0; }

# Kill r happens at a random moment of the r-th part of the steps.
resume=
round=1
while [ $round -le "$kills" ]; do
    part=$((steps / (kills + 1)))
    set -- $(awk -v r=$round -v part=$part -v seed="$$$round" \
        'BEGIN { srand(seed); print int(part * (r - 1 + rand())) + 1, rand() * 0.5 }')
    train killed $resume &
    pid=$!
    while [ "$(last_step)" -lt "$1" ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
    sleep "$2"
    kill -9 $pid 2>/dev/null || { echo "round $round: it had ended before; give more STEPS" >&2; exit 2; }
    wait $pid 2>/dev/null || :
    pid=
    newest=$(ls "$folder/killed.run" | grep '^checkpoint-' | tail -n 1)
    echo "killed at step $(last_step); newest checkpoint: ${newest:-none}"
    resume=--resume
    round=$((round + 1))
done
(train killed --resume)

status=0
if cmp "$folder/whole.safetensors" "$folder/killed.safetensors"; then echo "adapters: equal to the byte"; else status=1; fi
columns "$folder/whole.run/loss.csv" >"$folder/a"
columns "$folder/killed.run/loss.csv" >"$folder/b"
diff "$folder/a" "$folder/b" || status=1
[ $status -eq 0 ] && echo "loss.csv: $(($(wc -l <"$folder/a") - 1)) rows, equal but for seconds"
exit $status
