# What the library refuses before it works: status 2, or 3 for a file; nothing is left behind.
t() { try "$DDIT" train -m "$TINY" -o a.safetensors -q "$@"; }
printf 'red apple\n' >p.txt
t
t -p missing.txt
: >empty.txt
t -p empty.txt
printf 'red\0apple\n' >nul.txt
t -p nul.txt
printf 'caf\351\n' >latin.txt
t -p latin.txt
t --data missing
mkdir pictures
t --data pictures
t -p p.txt --lora image
t -p p.txt --lora heads
t -p p.txt --guidance 4,1
t -p p.txt --guidance much
t -p p.txt --init missing.safetensors
t -p p.txt --init "$ROOT/models/emoji/ddit-adapter.safetensors"
t -p p.txt --eval "$ROOT/models/emoji/ddit-adapter.safetensors"
try "$DDIT" train -m "$TINY" -q --train all -o model -p p.txt
mkdir model
try "$DDIT" train -m "$TINY" -q --train all -o model --data pictures
try "$DDIT" train -m missing -o a.safetensors -q -p p.txt
rm -r pictures model
ls -A
