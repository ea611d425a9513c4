#!/bin/sh
# resunet-any: the paper's network with heads for the verdict and the attributes, on any head; its last stage learns from a network like
# that of effunet-any. Fold 0 is held out: it measures the weights. WIDER is the folder with the index.csv of other heads.
. "$(dirname "$0")/common.sh"
wider=${WIDER:?expected the folder with the index.csv of other heads; set WIDER=DIR}

any_head() { to=$1; shift; train train.generalist "$to" --wider "$wider" --fold 0 --precision bfloat16 --workers 0 "$@"; }

any_head resunet-any/fold-0-teacher --encoder lite2 --size 192 --epochs 27 --validate-every 9 --seed 41
any_head resunet-any/first --net resunet --size 192 --epochs 22 --validate-every 11 --lr 3e-3 --seed 51
any_head resunet-any/second --start "$runs/resunet-any/first" --net resunet --size 128 --epochs 20 --validate-every 10 --lr 2.5e-3 --seed 52
any_head resunet-any/third --start "$runs/resunet-any/second" --teacher "$runs/resunet-any/fold-0-teacher" --net resunet --size 192 --epochs 10 \
  --validate-every 10 --lr 2e-3 --seed 53

run train.release.release_inputs --name resunet-any --run "$runs/resunet-any/third" --validated "$runs/resunet-any/third" \
  --data "$data" --wider "$wider"
run train.ood.fit_inputs resunet-any --validated "$runs/resunet-any/third" --data "$data" --wider "$wider"
