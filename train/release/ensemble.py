"""Combine independently trained networks into an ensemble: python -m train.release.ensemble --out RUN RUN RUN…

Networks trained from different initial weights make different errors, so the mean of their probabilities is more accurate than
each of them (Lakshminarayanan et al. 2017). Unlike the mean of weights (`train.release.average`), it takes the time of all
networks. So the ensemble does not average over the mirrored slice: two networks without it take the time of one with it. The
out-of-distribution detector uses the first network's encoder.
"""

from __future__ import annotations

from itertools import accumulate, chain
from pathlib import Path

from brainmri.zoo.entry import ModelEntry, new_config, save_entry
from brainmri.zoo.nets.effunet import EffUNetEnsemble
from train.release.combine import combined_training, load_alike, parse_runs

NAME, SUMMARY = "effunet-pair-lgg", "Two U-Nets on EfficientNet-lite2, with verdict heads, as an ensemble"


def unite(folders: list[Path], out: Path) -> ModelEntry:
    """Write the ensemble of the runs' networks as a run, whose record has all their stages, run by run, and this one."""
    runs, split = load_alike(folders)
    first = runs[0].entry
    if first.net != "EffUNet":
        raise SystemExit(f"expected runs of EffUNet, got {first.net} in {first.folder}")
    net = EffUNetEnsemble(len(runs), **first.arguments).eval()
    for member, run in zip(net.members, runs, strict=True):
        member.load_state_dict(run.net.state_dict())
    stages = [run.entry.training.stages for run in runs]
    last_stages = tuple(accumulate(map(len, stages)))
    training = combined_training("train.release.ensemble", runs, tuple(chain(*stages)), unites=last_stages)
    config = new_config(
        name=NAME, net="EffUNetEnsemble", tasks=first.tasks, arguments={"members": len(runs), **first.arguments},
        preprocess=first.preprocess, summary=SUMMARY, flips=False,  # mirrored slices would add nothing; see EXPERIMENTS.md
        training=training.config(),
    )  # fmt: skip
    return save_entry(out, net, config, split)


def main(arguments: list[str] | None = None) -> None:
    options = parse_runs(__doc__, arguments)
    entry = unite(options.runs, options.out)
    print(f"{entry.name}: {len(options.runs)} networks, {entry.parameters:,} parameters in {entry.folder}")


if __name__ == "__main__":
    main()
