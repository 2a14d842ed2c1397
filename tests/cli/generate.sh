# A picture with everything that can be left behind.
run() { "$DDIT" generate -m "$TINY" -p "red apple" --steps 3 --patch off --size 64x80 "$@"; }
seconds() { sed -e 's/[0-9][0-9]*\.[0-9][0-9]*\(, [a-z]*\)/S\1/g' -e 's/total [0-9.]*/total S/' -e 's/^device .*/device/'; }
run 2>&1 | seconds
ls -A
"$DDIT" inspect out.png | sed -n -e 1,4p -e '/schedule/p'
run -o all.png --trace t.json --save_latent l.safetensors --save_steps --json -q >result.json
echo "exit $?"
grep -o '"files":[^]]*]' result.json
for key in seed steps tokens schedule phases encode prepare denoise decode total; do grep -c "\"$key\":" result.json; done | tr '\n' ' '
echo
wc -l <result.json
"$DDIT" inspect l.safetensors
cmp out.png all.png && echo "same bytes again"
run -o bare.png --no-metadata -q
"$DDIT" inspect bare.png
run -o replay.png --no-metadata --patch @t.json -q && cmp bare.png replay.png && echo "replayed from the trace"
run -o replay.png --no-metadata --patch @all.png -q && cmp bare.png replay.png && echo "replayed from the picture"
run -o noise.png --noise l.safetensors -q && echo "from noise"
run -q --json >/dev/full
echo "exit $?"
run -q --json | :
run -s -1 -q -o drawn.png 2>&1 | sed 's/[0-9][0-9]*/N/'
ls -A
