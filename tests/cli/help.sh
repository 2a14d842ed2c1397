# What people read first.
try "$DDIT" --version
try "$DDIT" --help
try "$DDIT"
try "$DDIT" help generate
try "$DDIT" inspect --help
try "$DDIT" bench -h
"$DDIT" generate --help >a && "$DDIT" help generate >b && cmp a b
for word in speed plot cache cuda train eval; do "$DDIT" generate --help | grep -w -e "--$word" -e "$word "; done
try sh -c '"$DDIT" --version >/dev/full'
try sh -c '"$DDIT" generate --help >/dev/full'
