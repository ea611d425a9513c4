# What the recipes share. Usage of each: train/recipes/NAME.sh DIR [RUNS], DIR the LGG dataset, RUNS the folder for the runs.
# Repeat a recipe to continue it: finished runs are kept, and an interrupted one resumes.
set -eu
data=${1:?expected the folder of the LGG dataset; run train/recipes/NAME.sh DIR [RUNS]}
runs=${2:-runs}
python=${PYTHON:-python}

run() { "$python" -m "$@"; }

# train MODULE TO [options]: one run, unless it is finished
train() {
  module=$1 to=$2; shift 2
  if [ -f "$runs/$to/split.json" ]; then echo "$runs/$to is finished"; return; fi
  run "$module" --data "$data" --out "$runs/$to" --resume "$@"
}

# folds_and_all TO FROM [options]: the segmenter on each fold, and on all patients; FROM a stage to start from, or ""
folds_and_all() {
  to=$1 from=$2; shift 2
  run train.crossvalidate segmenter --data "$data" --out "$runs/$to" ${from:+--start "$runs/$from"} "$@"
  train train.segmenter "$to/all" --all ${from:+--start "$runs/$from/all"} "$@"
}

# finish NAME TO FOLDS [options of release]: metrics and calibration, out-of-distribution check if it has one, 8-bit network
finish() {
  name=$1 to=$2 folds=$3; shift 3
  validated=""; for fold in $folds; do validated="$validated $runs/$to/fold-$fold"; done
  run train.release.release --data "$data" --run "$runs/$to/all" --validated $validated "$@"
  case $name in effunet*) run train.ood.fit "$name" --data "$data" --validated $validated ;; esac
  run train.release.quantise "$name" --data "$data" --validated $validated
}
