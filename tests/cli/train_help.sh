# What people read before they train.
try "$DDIT" train --help
"$DDIT" train --help >a && "$DDIT" help train >b && cmp a b
awk 'length > 100' a # lines stay readable in a window of this width
rm a b
