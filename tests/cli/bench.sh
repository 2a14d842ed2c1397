# One round on random blocks: every number is there, and the temporary files are gone.
mkdir tmp
export TMPDIR=$PWD/tmp
"$DDIT" bench --shape emoji --repeats 1 --size 64x64 -q --json | grep -o '"[a-z_0-9]*":' | sort | uniq -c | sed 's/^ *//'
"$DDIT" bench -m "$TINY" --repeats 1 --size 64x64 -q | grep -c '^ *1 '
ls -A tmp
TMPDIR=/missing try "$DDIT" bench --shape emoji | sed 's/bench-......:/bench-X:/'
