"""Find the inputs of a run: the studies and slices in folders, and among the files that are given."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from brainmri.io.dicom_headers import is_dicom, study_uid
from brainmri.io.files import StudyFile, folder_files, is_zip
from brainmri.io.images import SUFFIXES
from brainmri.io.input_grouping import group_pictures, group_volumes
from brainmri.io.limits import UnreadableImage
from brainmri.io.name_words import patient_words
from brainmri.io.nifti import is_mask, is_nifti, is_voxel_half
from brainmri.io.sequences import sequence_of
from brainmri.io.volume_grouping import split_studies
from brainmri.report.outputs import RECORD, is_results_folder

NO_SUBJECTS = ("code", "derivatives", "sourcedata", "stimuli", "phenotype", "logs")  # folders of a BIDS dataset

# a slice or a study: a file or a folder, or the files of one study in a folder with others
Input = Path | tuple[Path, ...]


def given_inputs(paths: Iterable[Path], out: Path | None = None) -> list[Input]:
    """The inputs of all given paths, as `find_inputs` finds them; volumes of one study, in one folder, are one input."""
    paths = list(paths)
    folders: dict[Path, list[Path]] = {}
    for path in paths:
        if path.is_file() and _is_volume(path):
            folders.setdefault(path.parent, []).append(path)
    joined: dict[Path, Input] = {}
    for volumes in folders.values():
        for one in _group_volumes(dict.fromkeys(volumes)):
            if isinstance(one, tuple):
                joined |= dict.fromkeys(one, one)
    inputs: list[Input] = []
    for path in paths:
        if path not in joined:
            inputs += find_inputs(path, out)
        elif joined[path] not in inputs:
            inputs.append(joined[path])
    return inputs


def find_inputs(path: Path, out: Path | None = None) -> list[Input]:
    """The inputs at a path: the path itself or, if it is a folder of studies, each study in it.

    The output folder `out` and the results of earlier runs are no inputs.

    A folder holds several studies if it contains zips, NIfTI volumes of several studies (`group_volumes`), or only subfolders
    that are neither the series of one DICOM study nor named after sequences. Then every zip, study, subfolder and picture in it
    is an input; pictures beside the volumes of a single study are taken for previews. Of a BIDS dataset, the subjects are the
    studies. In a folder of pictures that are no slices of one head, every picture is an input.
    """
    if not path.is_dir():
        return [path]
    results = results_in(path, out)
    children = sorted(
        child for child in path.iterdir() if not child.name.startswith((".", "__MACOSX")) and child.resolve() not in results
    )
    bids = any(child.name == "dataset_description.json" for child in children)
    folders = [child for child in children if child.is_dir() and not (bids and child.name in NO_SUBJECTS)]
    files = [child for child in children if child.is_file()]
    zips = [file for file in files if is_zip(file) or file.suffix.lower() == ".zip"]
    volumes = [file for file in files if _is_volume(file)]
    dicom = [file for file in files if file not in zips + volumes and is_dicom(StudyFile(path=file))]
    studies = _group_volumes(volumes)
    if zips or len(studies) > 1 or (studies and _hold_studies(path, folders)):
        pictures = [file for file in files if file.suffix.lower() in SUFFIXES and file not in zips + volumes + dicom]
        series = [one_input(dicom)] if dicom else []
        return sorted([*zips, *studies, *folders, *_group_pictures(pictures), *series], key=_first)
    if volumes or dicom:
        return [path]
    if pictures := _group_pictures([file for file in files if file.suffix.lower() in SUFFIXES]):
        return pictures if len(pictures) > 1 and not any(isinstance(one, tuple) for one in pictures) else [path]
    if (len(folders) < 2 and not bids) or not folders or _is_one_study(folders):
        return [path]
    return [*folders]


def _group_volumes(volumes: Iterable[Path]) -> list[Input]:
    """The studies among the volumes of one folder. Nobody can choose the sequences of unnamed ones, so each is a study."""
    return [one_input(files) for files in group_volumes([StudyFile(path=path) for path in volumes], choosable=False)]


def one_input(paths: list[Path]) -> Input:
    """The input of one or more paths."""
    return tuple(paths) if len(paths) > 1 else paths[0]


def describe_input(source: Input) -> str:
    """The path of an input for printed lines, or what the paths of its files begin with."""
    return str(source) if isinstance(source, Path) else f"{source[0].parent / input_name(source)} ({len(source)} files)"


def input_name(source: Input) -> str:
    """The name of an input without suffix; of several files, the words that their names begin with, else their folder's name.

    >>> input_name((Path("P-01-t1n.nii.gz"), Path("P-01-t2f.nii.gz")))
    'P-01'
    """
    if isinstance(source, Path):
        return source.resolve().name if source.is_dir() else source.stem.removesuffix(".nii")
    common = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*(path.name for path in source), strict=False))
    words = re.sub(r"[-_. ]*[^-_. ]*$", "", "".join(letters[0] for letters in common))
    return words if patient_words(words).key else source[0].resolve().parent.name or "study"


def results_in(path: Path, out: Path | None) -> set[Path]:
    """The folders below a path that hold results: the output folder, and those of earlier runs."""
    folders = [record.parent for record in path.rglob(RECORD) if is_results_folder(record.parent)] if path.is_dir() else []
    return {folder.resolve() for folder in (*folders, *filter(None, [out])) if path.resolve() in folder.resolve().parents}


def _is_volume(path: Path) -> bool:
    """Whether a file is a volume to analyse, not a mask or the voxels of a pair."""
    return is_nifti(StudyFile(path=path)) and not (is_mask(path.name) or is_voxel_half(path.name))


def _first(source: Input) -> Path:
    return source if isinstance(source, Path) else source[0]


def _group_pictures(pictures: list[Path]) -> list[Input]:
    """The pictures beside several studies: slices that are numbered for one case are a study, others are slices."""
    return [one_input(files) for files in group_pictures([StudyFile(path=path) for path in pictures], least=2)]


def _hold_studies(path: Path, folders: list[Path]) -> bool:
    """Whether folders beside the volumes of a study hold other studies, not more files of the same."""
    try:
        files = [file for folder in folders for file in folder_files(folder)]
        volumes = [file for file in files if is_nifti(file) and not is_mask(file.name.name)]
        beside = [StudyFile(path=child) for child in sorted(path.iterdir()) if child.is_file() and _is_volume(child)]
        return len(split_studies([*beside, *volumes])) > 1 or any(is_dicom(file) for file in files if file not in volumes)
    except UnreadableImage:  # reading the folder reports it
        return False


def _is_one_study(folders: list[Path]) -> bool:
    """Whether the folders are the sequences or DICOM series of one study."""
    if all(sequence_of(folder.name) is not None for folder in folders):
        return True
    try:
        first = [next((file for file in folder_files(folder) if is_dicom(file)), None) for folder in folders]
        found = [file for file in first if file is not None]
        return len(found) == len(folders) and len({study_uid(file) for file in found}) == 1
    except UnreadableImage:  # too many files or a damaged one: reading the folder reports it
        return False
