#!/bin/sh
# resunet-paper: the paper's segmenter by the paper's protocol, which splits by slice.
. "$(dirname "$0")/common.sh"

run train.paper.reproduce paper --data "$data" --out "$runs/paper" --size 128 --only segmenter --resume --release
