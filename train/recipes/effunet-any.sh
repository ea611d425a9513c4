#!/bin/sh
# effunet-any: effunet-lite2-lgg's network, trained further on any head. WIDER is the folder with the index.csv of other heads.
. "$(dirname "$0")/common.sh"
wider=${WIDER:?expected the folder with the index.csv of other heads; set WIDER=DIR}

any_head() { to=$1; shift; train train.generalist "$to" --wider "$wider" --encoder lite2 --size 192 --precision float32 "$@"; }

# the released weights see every patient and, at last, every picture; those that are measured do not see fold 0
any_head any/first --start effunet-lite2-lgg --fold 0 --epochs 13 --all-patients
any_head any/second --start "$runs/any/first" --fold 0 --epochs 7 --validate-every 7 --lr 1e-3 --seed 12 --workers 1 --all-patients
any_head any/third --start "$runs/any/second" --all --epochs 8 --validate-every 8 --lr 1e-3 --seed 22 --workers 0
any_head any/all --start "$runs/any/third" --all --epochs 9 --validate-every 9 --lr 1e-3 --seed 32 --workers 0
any_head any/fold-0-first --fold 0 --precision bfloat16 --epochs 27 --validate-every 9 --seed 41 --workers 0
any_head any/fold-0 --start "$runs/any/fold-0-first" --fold 0 --precision bfloat16 --epochs 20 --validate-every 20 --lr 1e-3 --seed 61 --workers 0

run train.release.release_inputs --run "$runs/any/all" --validated "$runs/any/fold-0" --data "$data" --wider "$wider"
run train.ood.fit_inputs effunet-any --validated "$runs/any/fold-0" --data "$data" --wider "$wider"
run train.ood.fit_scope effunet-any --specialist effunet-lite2-lgg --validated "$runs/any/fold-0" --data "$data" --wider "$wider"
