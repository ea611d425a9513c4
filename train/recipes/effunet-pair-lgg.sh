#!/bin/sh
# effunet-pair-lgg: an ensemble of effunet-lite2-lgg's network and one that is trained again with other seeds.
. "$(dirname "$0")/lite2.sh"

stage b1 "" --size 128 --lr 2e-3 --seed 10 --epochs 8 --validate-every 8
stage b2 b1 --size 192 --lr 1.5e-3 --seed 11 --epochs 8 --validate-every 8
stage b3 b2 --size 256 --lr 1e-3 --seed 12 --epochs 5 --validate-every 5
for part in fold-0 fold-1 fold-2 fold-3 fold-4 all; do
  run train.release.ensemble --out "$runs/pair/$part" "$runs/lite2/$part" "$runs/lite2-b3/$part"
done
finish effunet-pair-lgg pair "0 1 2 3 4" --half
