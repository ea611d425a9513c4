"""Train one recipe on every fold: python -m train.crossvalidate segmenter|classifier --data DIR --out CV [--folds 5] [options…]

Each fold is a run of its own, `CV/fold-K`, with whatever options `train.segmenter` or `train.classifier` takes. Finished folds
are left alone and an interrupted one resumes, so the same command may be given again and again until all are there. `--start CV`
starts each fold from another cross-validation's run of the same fold, and `--teacher CV` has such a run teach it. Then
`python -m train.release.release --validated CV/fold-*` measures every patient by the fold that never saw it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from brainmri.zoo.entry import SPLIT
from train import classifier, segmenter
from train.distributed import process_group

COMMANDS = {"segmenter": segmenter, "classifier": classifier}


def main(arguments: list[str] | None = None) -> list[Path]:
    """Train what is missing; returns the folds' run folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=list(COMMANDS))
    parser.add_argument("--out", type=Path, required=True, help="folder for the folds' runs")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--start", type=Path, help="folder with a run of each fold to start from")
    parser.add_argument("--teacher", type=Path, help="folder with a run of each fold to learn from")
    options, recipe = parser.parse_known_args(arguments)
    runs = [options.out / f"fold-{fold}" for fold in range(options.folds)]
    command = COMMANDS[options.command]
    with process_group(command.parse([*recipe, "--out", str(options.out)]).device):
        for fold, run in enumerate(runs):
            if (run / SPLIT).is_file():
                print(f"{run} is finished")
                continue
            others = {"--start": options.start, "--teacher": options.teacher}
            of_fold = [part for name, folder in others.items() if folder for part in (name, str(folder / run.name))]
            which = ["--folds", str(options.folds), "--fold", str(fold), "--out", str(run), "--resume"]
            command.main([*recipe, *of_fold, *which])
    return runs


if __name__ == "__main__":
    main(sys.argv[1:])
