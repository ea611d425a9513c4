#!/bin/sh
# resunet-lgg: the paper's network, in stages of growing size; it learns from runs of train/recipes/effunet-pair-lgg.sh.
# On a CPU without bfloat16 instructions, use --precision auto.
. "$(dirname "$0")/common.sh"

# stage TO FROM [options]: each fold with the first stage of effunet-lite2 as teacher, all patients with effunet-pair
stage() {
  to=resunet-$1 from=${2:+resunet-$2}; shift 2
  set -- --net resunet --batch 8 --samples 2000 --evenness 0.5 --precision bfloat16 --workers 0 "$@"
  run train.crossvalidate segmenter --data "$data" --out "$runs/$to" ${from:+--start "$runs/$from"} --teacher "$runs/lite2-1" "$@"
  train train.segmenter "$to/all" --all ${from:+--start "$runs/$from/all"} --teacher "$runs/pair/all" "$@"
}

stage 1 "" --size 128 --lr 3e-3 --seed 20 --epochs 30 --validate-every 10
stage 2 1 --size 192 --lr 2e-3 --seed 21 --epochs 24 --validate-every 12
stage 3 2 --size 192 --lr 1.5e-3 --seed 22 --epochs 12 --validate-every 12
finish resunet-lgg resunet-3 "0 1 2 3 4"
