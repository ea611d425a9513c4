"""Combine independently trained networks into an ensemble: python -m train.release.ensemble --out RUN RUN RUN…

Networks trained from different initial weights make different errors, so the mean of their probabilities is more accurate than
each of them (Lakshminarayanan et al. 2017). Unlike the mean of weights (`train.release.average`), it takes the time of all
networks. So the ensemble does not average over the mirrored slice: two networks without it take the time of one with it. The
out-of-distribution detector uses the first network's encoder.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from itertools import accumulate, chain
from pathlib import Path

from brainmri.zoo.entry import ModelEntry, TrainingStage, new_config, save_entry
from brainmri.zoo.nets.effunet import EffUNetEnsemble
from train.release.average import check_alike, open_runs

NAME, SUMMARY = "effunet-pair-lgg", "Two U-Nets on EfficientNet-lite2, with verdict heads, as an ensemble"


def unite(folders: list[Path], out: Path) -> ModelEntry:
    """Write the ensemble of the runs' networks as a run, whose record has all their stages, run by run, and this one."""
    runs, splits = open_runs(folders)
    check_alike(runs, splits)
    first = runs[0].entry
    if first.net != "EffUNet":
        raise SystemExit(f"expected runs of EffUNet, got {first.net} in {first.folder}")
    net = EffUNetEnsemble(len(runs), **first.arguments).eval()
    for member, run in zip(net.members, runs, strict=True):
        member.load_state_dict(run.net.state_dict())
    stages = [run.entry.training.stages for run in runs]
    command = ("train.release.ensemble", "--out", "RUN", *["RUN"] * len(runs))
    last_stages = tuple(accumulate(map(len, stages)))
    stage = TrainingStage(command=command, samples=0, patients=stages[0][-1].patients, unites=last_stages)
    config = new_config(
        name=NAME, net="EffUNetEnsemble", tasks=first.tasks, arguments={"members": len(runs), **first.arguments},
        preprocess=first.preprocess, summary=SUMMARY, flips=False,  # mirrored slices would add nothing; see EXPERIMENTS.md
        training=replace(first.training, stages=(*chain(*stages), stage)).config(),
    )  # fmt: skip
    return save_entry(out, net, config, splits[0])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="finished runs, two or more")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write")
    options = parser.parse_args(arguments)
    if len(options.runs) < 2:
        parser.error("expected two or more runs, got one")
    entry = unite(options.runs, options.out)
    print(f"{entry.name}: {len(options.runs)} networks, {entry.parameters:,} parameters in {entry.folder}")


if __name__ == "__main__":
    main()
