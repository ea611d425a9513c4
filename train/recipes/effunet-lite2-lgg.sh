#!/bin/sh
# effunet-lite2-lgg: the mean of the weights of two runs of a U-Net on EfficientNet-lite2.
. "$(dirname "$0")/lite2.sh"

finish effunet-lite2-lgg lite2 "0 1 2 3 4" --half
