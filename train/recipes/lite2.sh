# The runs of effunet-lite2-lgg and effunet-pair-lgg: stages of growing size. Their last stage is trained twice, and averaged.
. "$(dirname "$0")/common.sh"

# stage TO FROM [options]: of an EfficientNet-lite2
stage() {
  to=$1 from=$2; shift 2
  folds_and_all "lite2-$to" "${from:+lite2-$from}" --net effunet-lite2 --batch 8 --samples 2000 --evenness 0.5 \
    --precision bfloat16 --workers 0 "$@"
}

stage 1 "" --size 128 --lr 2e-3 --epochs 8 --validate-every 8
stage 2 1 --size 192 --lr 1.5e-3 --seed 1 --epochs 8 --validate-every 8
stage 3 2 --size 256 --lr 1e-3 --seed 2 --epochs 5 --validate-every 5
stage 3b 2 --size 256 --lr 1e-3 --seed 3 --epochs 5 --validate-every 5
for part in fold-0 fold-1 fold-2 fold-3 fold-4 all; do
  run train.release.average --out "$runs/lite2/$part" "$runs/lite2-3/$part" "$runs/lite2-3b/$part"
done
