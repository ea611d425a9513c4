#!/bin/sh
# effunet-any: effunet-lite2-lgg's network, trained further on any head. WIDER is the folder with the index.csv of other heads.
. "$(dirname "$0")/common.sh"
wider=${WIDER:?expected the folder with the index.csv of other heads; set WIDER=DIR}

any_head() { to=$1; shift; train train.generalist "$to" --wider "$wider" --encoder lite2 --size 192 --precision float32 --fold 0 "$@"; }

# the released weights see every patient, those that are measured do not see fold 0
any_head any/first --start effunet-lite2-lgg --epochs 13 --all-patients
any_head any/all --start "$runs/any/first" --epochs 7 --validate-every 7 --lr 1e-3 --seed 12 --workers 1 --all-patients
any_head any/fold-0 --epochs 14 --workers 1

run train.release.release_inputs --run "$runs/any/all" --validated "$runs/any/fold-0" --data "$data" --wider "$wider"
run train.ood.fit_inputs effunet-any --validated "$runs/any/fold-0" --data "$data" --wider "$wider"
