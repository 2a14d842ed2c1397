# Other programs' names for the same things give the same picture.
"$DDIT" generate --model "$TINY" --prompt "red apple" --width 64 --height 80 --steps 2 --seed 5 --cfg-scale 2 --output a.png -q
"$DDIT" generate --ckpt_dir "$TINY" -p "red apple" --size '64*80' --sample_steps 2 --base_seed 5 --sample_guide_scale 2 --save_file b.png -q
DDIT_MODEL=$TINY "$DDIT" generate -q -S5 -ob.png --num-inference-steps=2 --cfg_scale=2 -W64 -H80 -p "red apple" --cache none
cmp a.png b.png && echo same
