#!/bin/sh
# resnet50-lgg: the paper's classifier, in three stages; the later ones learn from effunet-lgg's runs (train/recipes/effunet-lgg.sh).
. "$(dirname "$0")/common.sh"

# the later stages twice: without fold 0, to measure, and with all patients
stage() {
  to=$1 from=$2 teacher=$3; shift 3
  train train.classifier "$to" --size 96 --samples 2000 --precision float32 --workers 0 \
    ${from:+--start "$runs/$from"} ${teacher:+--teacher "$runs/$teacher"} "$@"
}

stage resnet50-1 "" "" --lr 1e-3 --epochs 12 --validate-every 3
for part in fold-0 all; do
  if [ "$part" = all ]; then every=--all; else every=; fi
  stage "resnet50-2/$part" resnet50-1 "effunet/$part" --lr 6e-4 --batch 8 --seed 4 --epochs 8 --validate-every 4 $every
  stage "resnet50-3/$part" "resnet50-2/$part" "effunet/$part" --lr 4e-4 --batch 8 --seed 5 --epochs 8 --validate-every 4 $every
done
finish resnet50-lgg resnet50-3 0 --half
