"""Which of several files are one input: the volumes of one study, the numbered pictures of one head, or a file by itself."""

from __future__ import annotations

from pathlib import Path

from brainmri.io.files import StudyFile
from brainmri.io.images import separate_pictures
from brainmri.io.nifti import voxel_halves
from brainmri.io.pixels import FLAIR
from brainmri.io.sequence_names import identify
from brainmri.io.sequences import sequence_of
from brainmri.io.slice_grouping import NUMBERED, find_masks
from brainmri.io.volume_grouping import SURE, difference, split_studies


def group_volumes(volumes: list[StudyFile], choosable: bool) -> list[list[Path]]:
    """The studies among the volumes of one place: the files of each, or its only file.

    A FLAIR and the other sequences of its patient and visit are one study. Volumes that are named as no sequence, as the same
    sequence twice or as another patient are studies of their own.

    Args:
        choosable: whether a person can choose which file is which sequence. Then all files stay together if they may be one study
            and no two of them are named as the same sequence.
    """
    halves = voxel_halves(volumes)
    whole = [file for file in volumes if file not in halves.values()]
    groups = split_studies(whole)
    if not (choosable and len(groups) == 1 and _names_differ(whole)):
        groups = [study for group in groups for study in _split_group(group)]
    return [[half.path for file in group for half in (file, halves.get(file)) if half] for group in groups]


def group_pictures(pictures: list[StudyFile], least: int) -> list[list[Path]]:
    """The pictures of one place without masks: single ones, and those of one size that are numbered for one case.

    Args:
        least: how many pictures of a case, `<case>_<number>`, are one study; fewer are single slices.
    """
    masks = find_masks(pictures)
    cases: dict[str | StudyFile, list[StudyFile]] = {}
    for picture in pictures:
        if picture not in masks:
            numbered = NUMBERED.fullmatch(picture.name.stem)
            cases.setdefault(numbered["case"] if numbered else picture, []).append(picture)
    groups = [separate_pictures(group) if len(group) >= least else [[picture] for picture in group] for group in cases.values()]
    return [[picture.path for picture in part] for group in groups for part in group]


def _split_group(files: list[StudyFile]) -> list[list[StudyFile]]:
    """The files of one patient and visit that are named as sequences of one study, and the other files one by one."""
    flair = [file for file in files if sequence_of(file.name.name) == FLAIR]
    named = [file for file in files if identify(file.name.name) is not None]
    if len(flair) == 1:
        named = [file for file in named if difference(file, flair[0]) not in SURE]
    # without a FLAIR, other sequences such as T2 are analysed by themselves
    if not _names_differ(named) or (not flair and any(sequence_of(file.name.name) is None for file in named)):
        named = []
    return [*([named] if named else []), *([file] for file in files if file not in named)]


def _names_differ(files: list[StudyFile]) -> bool:
    """Whether no two files are named as the same of the three sequences."""
    channels = [channel for file in files if (channel := sequence_of(file.name.name)) is not None]
    return len(channels) == len(set(channels))
