"""Which volume files belong together: those of one patient and visit, by what their files and folders are called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from brainmri.io.files import StudyFile
from brainmri.io.name_words import PatientWords, names_image, patient_words
from brainmri.io.pixels import FLAIR
from brainmri.io.sequences import sequence_of

# how BIDS, BraTS and other collections number their patients and visits
_PATIENT = re.compile(
    r"sub-[a-z0-9]+|brats[a-z0-9]*(?:[-_][a-z]+)*[-_]\d+(?:-\d{3}(?!\d))?|tcga[-_][a-z0-9]{2}[-_][a-z0-9]{4}"
    r"|(?:ucsf-pdgm|upenn-gbm)-\d+(?:_\d+)?|(?<![a-z])(?:patient|pat|subject|subj|case|pt)(?:[-_ ]?id)?[-_ ]?\d+"
)
_VISIT = re.compile(r"(?<![a-z])(?:ses-[a-z0-9]+|(?:visit|time[-_ ]?point|tp|session|week|month)[-_ ]?\d+(?:-\d+)?)")
# BIDS's folders of a visit
_KINDS = {"anat", "dwi", "func", "fmap", "perf"}
CERTAIN, LIKELY, POSSIBLE = "certain", "likely", "possible"
SURE = (CERTAIN, LIKELY)


def case_of(file: StudyFile) -> str | None:
    """The patient and visit that a file's name gives, each else its folders; None where neither does."""
    names = file.name.name.lower(), file.name.as_posix().lower()
    found = (next((match[0] for name in names if (match := part.search(name))), None) for part in (_PATIENT, _VISIT))
    return "_".join(filter(None, found)) or None


def difference(file: StudyFile, flair: StudyFile) -> str | None:
    """How surely the names of a file and a FLAIR are of different patients or visits: `CERTAIN`, `LIKELY`, `POSSIBLE` or None.

    It is certain where a collection numbers them, likely where dates differ or the names have no word in common beside those of
    the sequence, and possible where they have one, or where only numbers, which may be those of series, or one name differ.
    """
    cases = case_of(file), case_of(flair)
    if all(cases) and cases[0] != cases[1]:
        return CERTAIN
    one, other = _words(file), _words(flair)
    if one.dates and other.dates and one.dates != other.dates:
        return LIKELY
    numbered = [_PATIENT.search(name.name.name.lower()) is not None for name in (file, flair)]
    if cases[0] == cases[1] and (all(numbered) or one == other):
        return None
    apart = one.words and other.words and not (one.words & other.words or any(numbered))
    return LIKELY if apart else POSSIBLE


def split_studies(files: list[StudyFile]) -> list[list[StudyFile]]:
    """The files of each patient and visit, in the order of the files.

    The files are one study, unless a sequence occurs several times and the names or folders of its files tell them apart.
    """
    keys = {file: case_of(file) or ("" if file.listed else _home(file.name.parent).as_posix()) for file in files}
    places: dict[int, set[str]] = {}
    for file in files:
        if (channel := _channel(file)) is not None:
            places.setdefault(channel, set()).add(keys[file])
    if all(len(found) == 1 for found in places.values()):
        return _split_by_words(files)
    return _group((keys[file], file) for file in files)


def _split_by_words(files: list[StudyFile]) -> list[list[StudyFile]]:
    """The files of one place: a study for each patient whose name is in all of its files' names, if several have a FLAIR."""
    channels = {file: _channel(file) for file in files}
    keys = {file: _words(file).key for file, channel in channels.items() if channel is not None}
    flairs = [keys[file] for file, channel in channels.items() if channel == FLAIR]
    named = all(keys.values()) and len(flairs) == len(set(flairs)) > 1
    if not named or len(set(keys.values())) == len(keys):  # single files may be several images of one sequence: a choice
        return [files]
    return _group((key if (key := _words(file).key) in keys.values() else flairs[0], file) for file in files)


def in_other_folders(file: StudyFile, other: StudyFile) -> bool:
    """Whether two files are in different folders, not counting folders named after sequences or processing steps."""
    if file.listed or other.listed:
        return False
    folders = [one.name.parent for one in (file, other)]
    if folders[0] == folders[1]:
        return False
    if folders[0].name != folders[1].name and not any(names_image(folder.name) for folder in folders):
        return True
    homes = [_home(folder, of_processing=True) for folder in folders]
    return homes[0] != homes[1] and not any(home in folder.parents for home, folder in zip(homes, folders[::-1], strict=True))


def _channel(file: StudyFile) -> int | None:
    """The channel that a file's name or, unless it is listed, its folder gives."""
    channel = sequence_of(file.name.name)
    return sequence_of(file.name.parent.name) if channel is None and not file.listed else channel


def _words(file: StudyFile) -> PatientWords:
    """What in a file's name may be of a patient or a visit, without the numbers of collections."""
    return patient_words(_VISIT.sub("_", _PATIENT.sub("_", file.name.name.lower())))


def _group(keyed: Iterable[tuple[str, StudyFile]]) -> list[list[StudyFile]]:
    studies: dict[str, list[StudyFile]] = {}
    for key, file in keyed:
        studies.setdefault(key, []).append(file)
    return list(studies.values())


def _home(folder: PurePosixPath, of_processing: bool = False) -> PurePosixPath:
    """A folder, or the one above it that is not named as a sequence or a kind of image, or `of_processing`."""
    while folder.name and (
        names_image(folder.name)
        or folder.name.lower() in _KINDS
        or (of_processing and not patient_words(folder.name.lower()).key)
    ):
        folder = folder.parent
    return folder
