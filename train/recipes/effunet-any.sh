#!/bin/sh
# effunet-any: effunet-lite2-lgg's network, trained further on any head. WIDER is the folder with the index.csv of other heads.
. "$(dirname "$0")/common.sh"
wider=${WIDER:?expected the folder with the index.csv of other heads; set WIDER=DIR}

any_head() { to=$1; shift; train train.generalist "$to" --wider "$wider" --encoder lite2 "$@"; }

# the released weights see every patient and, at last, every picture; those that are measured do not see fold 0
float32="--size 192 --precision float32"
any_head any/first --start effunet-lite2-lgg --fold 0 $float32 --epochs 13 --all-patients
any_head any/second --start "$runs/any/first" --fold 0 $float32 --epochs 7 --validate-every 7 --lr 1e-3 --seed 12 --workers 1 --all-patients
any_head any/third --start "$runs/any/second" --all $float32 --epochs 8 --validate-every 8 --lr 1e-3 --seed 22 --workers 0
any_head any/fourth --start "$runs/any/third" --all $float32 --epochs 9 --validate-every 9 --lr 1e-3 --seed 32 --workers 0
any_head any/fold-0-first --fold 0 --size 192 --precision bfloat16 --batch 4 --epochs 27 --validate-every 9 --lr 1e-3 --seed 41 --workers 0

# a stage of mostly T1c, then one of more single sequences; the mean of the weights before and after each keeps most of both
at256="--size 256 --precision bfloat16 --batch 4 --lr 8e-4 --workers 0"
any_head any/t1c --start "$runs/any/fourth" --all --mix T1c $at256 --epochs 14 --validate-every 14 --seed 122
any_head any/fold-0-t1c --start "$runs/any/fold-0-first" --fold 0 --mix T1c $at256 --epochs 14 --validate-every 7 --seed 121
run train.release.interpolate "$runs/any/fourth" "$runs/any/t1c" --out "$runs/any/mean" --no-flips
run train.release.interpolate "$runs/any/fold-0-first" "$runs/any/fold-0-t1c" --out "$runs/any/fold-0-mean" --no-flips
any_head any/single --start "$runs/any/mean" --all --mix single $at256 --epochs 15 --validate-every 15 --seed 132
any_head any/fold-0-single --start "$runs/any/fold-0-mean" --fold 0 --mix single $at256 --epochs 15 --validate-every 15 --seed 131
run train.release.interpolate "$runs/any/mean" "$runs/any/single" --out "$runs/any/all" --no-flips
run train.release.interpolate "$runs/any/fold-0-mean" "$runs/any/fold-0-single" --out "$runs/any/fold-0" --no-flips

run train.release.release_inputs --run "$runs/any/all" --validated "$runs/any/fold-0" --data "$data" --wider "$wider"
run train.ood.fit_inputs effunet-any --validated "$runs/any/fold-0" --data "$data" --wider "$wider"
run train.ood.fit_scope effunet-any --specialist effunet-lite2-lgg --validated "$runs/any/fold-0" --data "$data" --wider "$wider"

# how much the figures differ between the folds of the pictures' groups, in short runs
run train.crossvalidate generalist --data "$data" --wider "$wider" --out "$runs/any/cv" --encoder lite2 --start effunet-lite2-lgg \
  --all-patients --size 192 --precision bfloat16 --batch 4 --epochs 10 --validate-every 100 --lr 1e-3 --workers 0
run train.evaluation.inputs "$runs"/any/cv/fold-* --wider "$wider"
