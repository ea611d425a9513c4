"""Which volume files belong together: those of one patient and visit, by what their files and folders are called."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from brainmri.io.files import StudyFile
from brainmri.io.sequence_names import identify
from brainmri.io.sequences import sequence_of

# how BIDS, BraTS and other collections number their patients and visits
_CASE = re.compile(
    r"sub-[a-z0-9]+(?:[_/]ses-[a-z0-9]+)?|brats[a-z0-9]*(?:[-_][a-z]+)*[-_]\d+(?:-\d{3}(?!\d))?|tcga-[a-z0-9]{2}-[a-z0-9]{4}"
    r"|(?:ucsf-pdgm|upenn-gbm)-\d+(?:_\d+)?|(?<![a-z])(?:patient|pat|subject|subj|case|pt)[-_ ]?\d+"
)
# BIDS's folders of a visit
_KINDS = {"anat", "dwi", "func", "fmap", "perf"}


def case_of(file: StudyFile) -> str | None:
    """The patient and visit that a file's name gives, else its folders; None where neither does."""
    words = file.name.name.lower(), file.name.as_posix().lower()
    found = next((match for word in words if (match := _CASE.search(word))), None)
    return found and found[0].replace("/", "_")


def split_studies(files: list[StudyFile]) -> list[list[StudyFile]]:
    """The files of each patient and visit, in the order of the files.

    The files are one study, unless a sequence occurs several times and the names or folders of its files tell them apart.
    """
    keys = {file: case_of(file) or ("" if file.listed else _home(file.name.parent).as_posix()) for file in files}
    places: dict[int, set[str]] = {}
    for file in files:
        channel = sequence_of(file.name.name)
        if channel is None and not file.listed:
            channel = sequence_of(file.name.parent.name)
        if channel is not None:
            places.setdefault(channel, set()).add(keys[file])
    if all(len(found) == 1 for found in places.values()):
        return [files]
    studies: dict[str, list[StudyFile]] = {}
    for file in files:
        studies.setdefault(keys[file], []).append(file)
    return list(studies.values())


def _home(folder: PurePosixPath) -> PurePosixPath:
    """A folder, or the one above it that is not named as a sequence or a kind of image."""
    while folder.name and (identify(folder.name) is not None or folder.name.lower() in _KINDS):
        folder = folder.parent
    return folder
