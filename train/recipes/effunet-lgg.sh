#!/bin/sh
# effunet-lgg: U-Net on EfficientNet-lite0, in one stage.
. "$(dirname "$0")/common.sh"

folds_and_all effunet "" --net effunet --lr 2e-3 --batch 8 --epochs 10 --samples 2000 --validate-every 10 --precision float32 \
  --workers 0
finish effunet-lgg effunet "0 1 2 3 4"
