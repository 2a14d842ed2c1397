# A disk that takes no more: status 4 and no file. Stood in for by the limit on the size of files.
trap '' XFSZ
ulimit -f 1
try "$DDIT" generate -m "$TINY" -p "red apple" --steps 2 --size 64x64 -q
try "$DDIT" generate -m "$TINY" -p "red apple" --steps 2 --size 64x64 -q -o /dev/null/out.png
ls -A
