"""Let networks that learnt apart answer together: python -m train.release.ensemble --out RUN RUN RUN…

Networks trained from different beginnings err differently, so that the mean of their probabilities errs less than either does
(Lakshminarayanan et al. 2017); unlike the mean of weights (`train.release.average`) it takes the time of all of them. So slices are not
looked at mirrored too: two networks then take the time of one that does. The first one's encoder is also what a gate looks at.
"""

from __future__ import annotations

import argparse
from itertools import accumulate, chain
from pathlib import Path

from brainmri.zoo.entry import ModelEntry, new_config, save_entry
from brainmri.zoo.nets.effunet import EffUNetEnsemble
from train.release.average import check_alike, open_runs

NAME, SUMMARY = "effunet-pair-lgg", "Two U-Nets on EfficientNet-lite2, with verdict heads, that answer together"


def unite(folders: list[Path], out: Path) -> ModelEntry:
    """Write runs of one network as a run of their ensemble, whose stages are theirs, one run's after another's, and this."""
    runs, splits = open_runs(folders)
    check_alike(runs, splits)
    first = runs[0].entry
    if first.net != "EffUNet":
        raise SystemExit(f"an ensemble is made of EffUNets; {first.folder} holds a {first.net}")
    net = EffUNetEnsemble(len(runs), **first.arguments).eval()
    for member, run in zip(net.members, runs, strict=True):
        member.load_state_dict(run.net.state_dict())
    stages = [run.entry.training["stages"] for run in runs]
    command = " ".join(["python -m train.release.ensemble --out RUN", *["RUN"] * len(runs)])
    stage = {"command": command, "samples": 0, "patients": stages[0][-1]["patients"]}
    stage["unites"] = list(accumulate(map(len, stages)))
    config = new_config(
        name=NAME, net="EffUNetEnsemble", tasks=first.tasks, arguments={"members": len(runs), **first.arguments},
        preprocess=first.preprocess, summary=SUMMARY, flips=False,  # the mirrored views would add nothing; see EXPERIMENTS.md
        training=first.training | {"stages": [*chain(*stages), stage]},
    )  # fmt: skip
    return save_entry(out, net, config, splits[0])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="finished runs, two or more")
    parser.add_argument("--out", type=Path, required=True, help="run folder to write")
    options = parser.parse_args(arguments)
    if len(options.runs) < 2:
        parser.error("one run came; an ensemble takes two or more")
    entry = unite(options.runs, options.out)
    print(f"{entry.name}: {len(options.runs)} networks, {entry.parameters:,} parameters in {entry.folder}")


if __name__ == "__main__":
    main()
