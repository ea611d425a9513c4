"""Train one recipe on every fold: python -m train.crossvalidate COMMAND --data DIR --out CV [--folds 5] [options…]

Each fold is a run in `CV/fold-K`, with any options of the command: `segmenter`, `classifier` or `generalist`. Finished folds
are skipped and an interrupted fold resumes, so the same command can be repeated until all folds are finished. `--start CV`
starts each fold from the same fold of another cross-validation, and `--teacher CV` uses that fold as teacher; any other run
or entry serves all folds. Then `python -m train.release.release --validated CV/fold-*` evaluates every patient with the fold
that did not train on it, and `python -m train.evaluation.inputs CV/fold-*` every group of pictures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from brainmri.zoo.entry import SPLIT
from train import classifier, generalist, segmenter
from train.distributed import process_group

COMMANDS = {"segmenter": segmenter, "classifier": classifier, "generalist": generalist}


def main(arguments: list[str] | None = None) -> list[Path]:
    """Train the folds that are not finished; returns the run folders of all folds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs of the folds")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--start", type=Path, help="folder with a run of each fold to start from, or a start of all folds")
    parser.add_argument("--teacher", type=Path, help="folder with a run of each fold to learn from, or a teacher of all folds")
    options, recipe = parser.parse_known_args(arguments)
    runs = [options.out / f"fold-{fold}" for fold in range(options.folds)]
    command = COMMANDS[options.command]
    with process_group(command.parse([*recipe, "--out", str(options.out)]).device):
        for fold, run in enumerate(runs):
            if (run / SPLIT).is_file():
                print(f"{run} is finished")
                continue
            others = {"--start": options.start, "--teacher": options.teacher}
            paths = [part for name, folder in others.items() if folder for part in (name, str(_of_fold(folder, run.name)))]
            of_fold = ["--folds", str(options.folds), "--fold", str(fold), "--out", str(run), "--resume"]
            command.main([*recipe, *paths, *of_fold])
    return runs


def _of_fold(folder: Path, fold: str) -> Path:
    """The run of a fold in a cross-validation; what is none, for example an entry, is for every fold."""
    return folder / fold if (folder / fold).is_dir() else folder


if __name__ == "__main__":
    main(sys.argv[1:])
