# What files and folders hold.
try "$DDIT" inspect missing
echo text >file.txt
try "$DDIT" inspect file.txt
try "$DDIT" inspect "$ROOT/models/emoji/ddit-adapter.safetensors"
try "$DDIT" inspect "$TINY/vae" | head -3
"$DDIT" inspect "$ROOT/models/emoji" -t 1 --precision f32 --size 256x128 --steps 4 | sed '/^memory/,$d'
"$DDIT" inspect "$ROOT/models/emoji" -t 1 --precision f32 --json | grep -c '"bytes"'
try "$DDIT" inspect "$ROOT/models/emoji" -W 65
"$DDIT" inspect "$ROOT/models/emoji" --json | grep -A4 '"phases": {' | tr -d '0-9'
