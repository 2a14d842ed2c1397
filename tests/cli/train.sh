# A training of a few steps from prompts alone: what is told, what lies there afterwards, going on, measuring, and an adapter that
# draws. Losses, seconds and bytes are not compared here.
small="-m $TINY -p prompts.txt --trajectories 2 --points 4 --size 64x64 --rank 4 --batch 4 --save-every 2"
train() { "$DDIT" train $small "$@"; }
plain() {
    sed -e '/^  /d' -e '/^step [234]/d' -e 's/^device .*/device/' -e 's/^\(memory  *\)[^:]*/\1N/' -e 's/[0-9]* s left/N s left/' \
        -e '/ loss /s/\(x1\|x2\|x4\|mixed\) [^ ]*/\1 N/g' -e 's/[0-9.]* samples.s/N samples\/s/' -e 's/in [0-9.]* s,/in N s,/'
}
printf 'red apple\n\nrocket\n' >prompts.txt
train -o a.safetensors --steps 5 --json >a.json 2>said
echo "exit $?"
plain <said
for key in files samples train_seconds samples_per_second memory_bytes ranks; do grep -c "\"$key\":" a.json; done | tr '\n' ' '
echo
ls . a.run | sed 's/trajectories-.*/trajectories-KEY/'
cut -d, -f1 a.run/loss.csv | tr '\n' ' '
echo

echo "-- not twice into one folder, and --resume of what is done"
try train -o a.safetensors --steps 5 -q
try train -o a.safetensors --steps 6 --resume -q

echo "-- stopped by Ctrl-C"
"$DDIT" train $small -o b.safetensors --steps 100000 --sample-every 0 -v 2>log & # not the function: the signal is for ddit
pid=$!
until grep -q '^step 3/' log 2>/dev/null; do sleep 0.02; done
try train -o b.safetensors --steps 100000 --resume -q
kill -INT $pid 2>/dev/null
wait $pid
echo "exit $?"
sed -n -e '/^stopping/p' -e '/^ddit/s/[0-9][0-9]*/N/gp' log
ls b.safetensors 2>&1 | sed 's/^ls: //'

echo "-- the same again"
train -o c.safetensors --steps 5 -q --sample-every 0 --cache a.run && cmp a.safetensors c.safetensors && echo "another cache, the same adapter"

echo "-- measuring"
train --steps 0 -o x.safetensors --init a.safetensors --eval prompts.txt --cache a.run --json -q | grep -c '"heldout_last"'
"$DDIT" inspect a.safetensors | grep -e '^  rank' -e '^  factors' -e '^  residual'
"$DDIT" generate -m "$TINY" --adapter a.safetensors -p "red apple" --size 64x64 --patch 2x1,4x1,1x1 -q && echo drawn

echo "-- going on with another beginning"
try train --steps 4 -o d.safetensors --init a.safetensors --cache a.run -q --sample-every 0
rm d.safetensors d.run/checkpoint-00000004.safetensors
train --steps 4 -o d.safetensors --cache a.run -q --sample-every 0 --resume 2>&1 | sed 's/init=[0-9a-f]*[1-9a-f][0-9a-f]*/init=HASH/'
try train --steps 4 -o d.safetensors --init a.safetensors --cache a.run -q --sample-every 0 --resume

echo "-- what was due when it was stopped"
train --steps 4 -o e.safetensors --cache a.run -q --sample-every 2 --eval prompts.txt
sed -i -e '/^2,/d' -e '/^4,/d' e.run/eval.csv
rm e.safetensors e.run/checkpoint-00000004.safetensors e.run/samples-*
train --steps 4 -o e.safetensors --cache a.run -q --sample-every 2 --eval prompts.txt --resume --json | tr -d ' \n' | grep -c '"heldout_first":{"x2"'
cut -d, -f1 e.run/eval.csv | tr '\n' ' '
ls e.run | grep samples

echo "-- guidance distillation, measured"
"$DDIT" train -m "$TINY" -p prompts.txt --trajectories 2 --points 4 --size 64x64 --batch 4 --train all --guidance 1,4 --steps 2 \
    -o f -q --sample-every 0 --eval prompts.txt
echo "exit $?"
cut -d, -f1,2 f.run/eval.csv | sed 's/,[0-9].*/,N/'
