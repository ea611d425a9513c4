"""The recipes of the entries: their commands exist, and are those in the entries' training records."""

import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from brainmri.zoo.records import Training, TrainingStage
from brainmri.zoo.registry import embedded
from train import classifier, generalist, segmenter
from train.release.release import recipe
from train.run import without_paths

RECIPES = Path(segmenter.__file__).parent / "recipes"
SHARED = {"common.sh", "lite2.sh"}
PARSERS = {"train.segmenter": segmenter.parse, "train.classifier": classifier.parse, "train.generalist": generalist.parse}


def commands(name: str) -> list[list[str]]:
    """The commands that a recipe runs, each a module and its arguments."""
    environment = {**os.environ, "PYTHON": "echo", "WIDER": "WIDER"}
    shell = subprocess.run([RECIPES / f"{name}.sh", "DIR", "RUNS"], env=environment, capture_output=True, text=True, check=True)
    lines = [shlex.split(line) for line in shell.stdout.splitlines()]
    assert all(line[0] == "-m" for line in lines)
    return [line[1:] for line in lines]


def test_every_entry_has_a_recipe():
    assert {path.stem for path in RECIPES.glob("*.sh") if path.name not in SHARED} == set(embedded())


@pytest.mark.parametrize("name", [path.stem for path in sorted(RECIPES.glob("*.sh")) if path.name not in SHARED])
def test_a_recipe_trains_the_stages_in_the_entrys_record(name):
    entry, stages = embedded()[name], []
    for module, *arguments in commands(name):
        if module in PARSERS:
            PARSERS[module](arguments)
        if (module in PARSERS or module == "train.paper.reproduce") and "fold-" not in arguments[arguments.index("--out") + 1]:
            stages.append((module, *without_paths(arguments)))
    # a recipe that starts from another entry does not repeat the stages of that entry's recipe
    recorded = [stage for stage in entry.training.stages if stage.command[0] in {module for module, *_ in stages}]
    made = [TrainingStage(command=tuple(command), samples=0, patients=0) for command in stages]

    def options(kept):
        return recipe(replace(entry, training=Training(stages=tuple(replace(stage, samples=0) for stage in kept))))

    assert options(made) == options(recorded)
    assert entry.int8 is None or commands(name)[-1][:2] == ["train.release.quantise", name]


def test_a_recipe_names_what_it_needs():
    shell = subprocess.run([RECIPES / "effunet-lgg.sh"], capture_output=True, text=True, check=False)
    assert shell.returncode != 0
    assert "expected the folder of the LGG dataset" in shell.stderr
