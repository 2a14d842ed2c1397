# Commands that are refused before any work: one sentence, status 2.
g() { try "$DDIT" generate "$@"; }
try "$DDIT" genrate
try "$DDIT" paint
try "$DDIT" eval
try "$DDIT" -p apple
try "$DDIT" help generat
g
g apple
g -p
g -p apple pear
g -p apple --bogus
g -p apple --stepz 4
g -p apple --stepz=4
g -p apple -x
g -p apple --quiet=3
g -p apple --steps 0
g -p apple --steps -3
g -p apple --steps 1001
g -p apple --steps 4.5
g -p apple --steps ' 4'
g -p apple --steps 4x
g -p apple --steps 99999999999999999999
g -p apple --steps ''
g -p apple --guidance nan
g -p apple --guidance inf
g -p apple --guidance -1
g -p apple --guidance 0x10
g -p apple --guidance ''
g -p apple --guidance 1,5
g -p apple --cfg-scale 1e9
g -p apple --guidance-scale 3
g -p apple -W 0
g -p apple -W 100
g -p apple -H 32
g -p apple -H 8192
g -p apple --size 256
g -p apple --size 256x
g -p apple --size 256x100
g -p apple --size 256x-256
g -p apple -s -2
g -p apple -s 1.5
g -p apple -s 9223372036854775808
g -p apple -s 9223372036854775807 -b 2
g -p apple -b 0
g -p apple -t 0
g -p apple --tau 0
g -p apple --tau nan
g -p apple --rho 1.5
g -p apple --order 4
g -p apple --precision f16
g -p apple --backend gpu
g -p apple --backend cuda
g -p apple --coarse none
g -p apple --speed 2x
g -p apple --plot plot.png
g -p apple --cache teacache:0.4
g -p apple --cache sometimes
g -p apple --frame-num 81
g -p apple --sample_shift 3
g -p apple --save-steps
g -p apple --noise x.safetensors -b 2
g -p apple -o missing/out.png
g -p apple -o .
g -p apple -o ''
g -p apple -o -
g -p apple -o out.jpg
g -p apple -o out-%s.png
g -p apple -o out-%d-%d.png
g -p apple --trace missing/trace.json
g -p apple --save-latent missing/latent.safetensors
try "$DDIT" inspect
try "$DDIT" inspect a b
try "$DDIT" bench flux-dev
try "$DDIT" bench --shape wan
try "$DDIT" bench --shape emoji -m x
try "$DDIT" bench --repeats 0
ls -A
