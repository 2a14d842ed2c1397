# Values that only the model can judge: status 2; input files that are refused: status 3. Nothing is left behind.
g() { try "$DDIT" generate -p apple --steps 2 --size 64x64 -q "$@"; }
emoji=$ROOT/models/emoji
g -m "$emoji" --patch sideways
g -m "$emoji" --patch 1x2,3x4
g -m "$emoji" --patch 1x2,2x4
g -m "$emoji" --patch @missing.json
g -m "$emoji" --sigma-min 2:x
g -m "$TINY" --coarse adapter
g -m "$TINY" --adapter missing.safetensors
g -m "$TINY" --adapter "$emoji/ddit-adapter.safetensors"
g -m "$emoji" --noise missing.safetensors
g -m "$emoji" --noise "$emoji/ddit-adapter.safetensors"
"$DDIT" generate -q -m "$emoji" --steps 2 -p "$(printf 'a\377b')" 2>&1
echo "exit $?"
g -m missing
g -m "$ROOT/tests"
g -m "$emoji/transformer"
g -m "$emoji/model_index.json"
try "$DDIT" generate -p apple | sed 's|installed .*/share|installed PREFIX/share|'
mkdir empty
g -m empty

# a copy of a model with one thing wrong at a time
cp -r "$TINY" broken
file=broken/transformer/diffusion_pytorch_model.safetensors
rm -f $file
g -m broken
head -c 1000 "$TINY/transformer/diffusion_pytorch_model.safetensors" >$file
g -m broken
: >$file
g -m broken
cp "$TINY/transformer/diffusion_pytorch_model.safetensors" $file
echo '{' >broken/vae/config.json
g -m broken
cp "$TINY/vae/config.json" broken/vae/config.json
echo nonsense >broken/tokenizer_2/spiece.model
g -m broken
rm broken/tokenizer_2/spiece.model
g -m broken
rm -r broken empty
ls -A
