# Ctrl-C stops at the next step with status 5 and leaves no half file; so does the system's polite end.
for signal in INT TERM; do
    "$DDIT" generate -m "$TINY" -p "red apple" --steps 1000 --size 256x256 --trace t.json -v 2>log &
    pid=$!
    until grep -q '^step  *2/' log 2>/dev/null; do sleep 0.05; done
    kill -$signal $pid
    wait $pid
    echo "exit $?"
    grep '^ddit:' log | sed 's/[0-9][0-9]*/N/g'
    rm log # or the next round would find this one's steps in it
done
ls -A
