# -b: picture i has seed + i and its own file.
run() { "$DDIT" generate -m "$TINY" -p "red apple" --steps 2 --patch off --size 64x64 "$@"; }
run -q -b 2 -s 7 -o p-%03d.png --trace t.json --json | grep -o -e '"seeds":[^]]*]' -e '^{"format[^]]*]'
run -q -s 8 -o single.png
"$DDIT" inspect p-001.png --json | grep -v '"path"' >a
"$DDIT" inspect single.png --json | grep -v '"path"' >b
diff a b && rm a b && echo "seed 7 + 1 is seed 8"
run -b 2 2>&1 | grep -e note -e wrote
ls -A
