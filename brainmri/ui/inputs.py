"""What the uploaded files are: slices, studies, or several of them, as their bytes say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from brainmri.io.dicom_headers import is_dicom
from brainmri.io.files import StudyFile, is_zip
from brainmri.io.images import SUFFIXES, has_image_magic
from brainmri.io.input_grouping import group_pictures, group_volumes
from brainmri.io.limits import UnreadableImage
from brainmri.io.nifti import is_nifti
from brainmri.io.reading import holds_one_slice, open_study
from brainmri.io.sequences import Candidate
from brainmri.io.slice_grouping import NUMBERED

SLICE, STUDY = "slice", "study"
SIDECARS = (".json", ".tsv", ".bval", ".bvec")  # belong to the volumes beside them
MIN_STACK = 3  # fewer numbered slices are single slices, not a study


@dataclass(frozen=True, kw_only=True)
class Input:
    """One slice or study among uploaded files.

    Attributes:
        kind: "slice" or "study".
        label: its name in the list of inputs.
        files: paths of its files.
        study: its index, if the files hold several studies; as for `read_study`.
        candidates: what may be read as which sequence; empty for a slice and where channels are colours.
        pictures_left_out: how many pictures were uploaded beside the volume and are not analysed.
        unreadable: the names of files that were uploaded beside the input and are no images.
    """

    kind: str
    label: str
    files: tuple[str, ...]
    study: int | None = None
    candidates: tuple[Candidate, ...] = ()
    pictures_left_out: int = 0
    unreadable: tuple[str, ...] = ()


def list_inputs(paths: Sequence[str]) -> list[Input]:
    """Sort uploaded files into slices and studies.

    A zip is a study of its own, or several, also with slices of several folders or cases. DICOM files of several examinations or
    patients are several studies, and so are NIfTI files in which a sequence occurs twice. Images are single slices, unless at
    least three are named `<case>_<number>`.
    Images beside volumes are previews: they are left out and counted, and files that are no images are named. Masks beside
    slices are ignored.

    Raises:
        FileNotFoundError: if a file does not exist.
        UnreadableImage: if a study cannot be read.
    """
    files = [Path(path) for path in paths]
    archives = [file for file in files if is_zip(file)]
    loose = [file for file in files if file not in archives]
    images = [file for file in loose if _is_image(file) and holds_one_slice(file)]
    stacks = [file for file in loose if file not in images and _is_image(file)]
    volumes = [file for file in loose if _is_volume(file)]
    unreadable = tuple(file.name for file in loose if file not in {*images, *stacks, *volumes} and not _is_accessory(file))
    inputs = [one for archive in archives for one in _studies([archive])]
    if volumes:
        left_out = len(images) + len(stacks)
        found = [one for group in _group_volumes(volumes) for one in _studies(group)]
        inputs += [replace(one, pictures_left_out=left_out) for one in found]
    else:
        inputs += [one for stack in stacks for one in _studies([stack])]
        inputs += _slices(images)
    return [replace(one, unreadable=unreadable) for one in inputs] or _studies(files)


def files_label(files: Sequence[str | Path]) -> str:
    """What files are called together: the name of the first, and how many more there are."""
    first = Path(files[0]).name
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more"


def _is_image(file: Path) -> bool:
    with file.open("rb") as handle:
        return file.suffix.lower() in SUFFIXES or has_image_magic(handle.read(16))


def _is_accessory(file: Path) -> bool:
    """Whether a file is hidden or belongs to a volume, so that nobody expects it to be analysed."""
    return file.name.startswith(".") or file.suffix.lower() in SIDECARS


def _is_volume(file: Path) -> bool:
    opened = StudyFile(path=file)
    return is_nifti(opened) or is_dicom(opened)


def _group_volumes(volumes: list[Path]) -> list[list[Path]]:
    """The studies among uploaded volumes; files of which some are DICOM stay together."""
    files = [StudyFile(path=volume, listed=True) for volume in volumes]
    return group_volumes(files, choosable=True) if all(map(is_nifti, files)) else [volumes]


def _studies(files: list[Path]) -> list[Input]:
    """The studies in files that belong together."""
    paths, label = tuple(map(str, files)), files_label(files)
    try:
        source = open_study(paths)
        candidates = source.candidates
    except UnreadableImage as error:
        raise error.named(label) from None
    if source.count() == 1:
        return [Input(kind=STUDY, label=label, files=paths, candidates=candidates)]
    return [
        Input(kind=SLICE, label=picture, files=paths, study=number)
        if picture
        else Input(kind=STUDY, label=f"Study {number + 1}", files=paths, study=number, candidates=candidates)
        for number, picture in enumerate(source.pictures)
    ]


def _slices(images: list[Path]) -> list[Input]:
    """Single slices, and studies of numbered slices."""
    found = []
    for files in group_pictures([StudyFile(path=image, listed=True) for image in images], least=MIN_STACK):
        numbered = NUMBERED.fullmatch(files[0].stem)
        kind, label = (STUDY, numbered["case"]) if numbered and len(files) > 1 else (SLICE, files[0].name)
        found.append(Input(kind=kind, label=label, files=tuple(map(str, files))))
    return found
