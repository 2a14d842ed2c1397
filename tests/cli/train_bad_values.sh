# Trainings that are refused before any work: one sentence, status 2 (3 if a file is at fault); nothing is left behind.
t() { try "$DDIT" train -o a.safetensors "$@"; }
try "$DDIT" train
try "$DDIT" train prompts.txt
t prompts.txt
t --bogus
t --stepz 4
t --promts p.txt
t --prompts
t --resume=1
try "$DDIT" train -o a.png
try "$DDIT" train -o .safetensors
try "$DDIT" train -o ''
try "$DDIT" train -o -
try "$DDIT" train -o missing/a.safetensors
mkdir a.safetensors
t
rmdir a.safetensors
t --train everything
t --preset best
t --factors 3
t --factors 4,2
t --rank -1
t --rank 1.5
t --residual quadratic
t --mixed 1.1
t --steps -1
t --steps 1e3
t --steps 9999999999
t --minutes 0
t --minutes soon
t --steps 10 --minutes 1
t --batch 0
t --accumulate 0
t --optimizer sgd
t --lr 0
t --lr nan
t --patch-lr -1
t --weight-decay -1
t --warmup -1
t --decay exponential
t --clip -1
t --ema 1
t --loss-floor -0.1
t --trajectories 0
t --points 0
t -W 100
t --size 256
t --caption-dropout 2
t --caption-dropout 0.1
t --levels normal
t -s -1
t -s -2
t -s 1.5
t -t 0
t --precision f16
t --backend gpu
t --backend cuda
t --save-every 0
t --sample-every -1
t --prompts p.txt --data pictures
t --data pictures --points 4
t --data pictures --trajectories 4
t --prompts p.txt --levels uniform
t --steps 0
t --steps 0 --eval e.safetensors --resume
try "$DDIT" train --train all -o model.safetensors --data pictures
for option in factors=2 rank=8 lora=all residual=none mixed=0.5 init=b.safetensors preset=paper; do
    try "$DDIT" train --train all -o model --data pictures --$option
done
: >file
try "$DDIT" train --train all -o file --data pictures
rm file
ls -A
