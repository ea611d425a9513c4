"""Volume files (NIfTI, Analyze, MGH, NRRD, MetaImage) of one study to a scan: the choice of volumes, T1 on the FLAIR's grid.

nibabel and pydicom read the files: MONAI's readers order DICOM by instance number alone, skip MONOCHROME1 and check no limit.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from brainmri.io.files import StudyFile, digest
from brainmri.io.limits import UnreadableImage, refuse
from brainmri.io.pixels import FLAIR
from brainmri.io.resample import describe_difference, explain_misfit, refuse_other_grid, resample, same_grid
from brainmri.io.scan import Scan
from brainmri.io.sequence_names import describe, identify
from brainmri.io.sequences import (
    HOW_TO_CHOOSE,
    HOW_TO_CHOOSE_STUDY,
    SEQUENCES,
    Candidate,
    Choice,
    channel_of,
    check_assignment,
    choose_single,
)
from brainmri.io.stack import compose
from brainmri.io.volume_files import VolumeHead, load_voxels, read_head, volume_format
from brainmri.io.volume_grouping import CERTAIN, POSSIBLE, SURE, difference, in_other_folders, split_studies

_NAME = re.compile(r"\.(nii|mg[hz]|hdr|img|nrrd|nhdr|mh[ad])( ?\(\d+\))?(\.gz|\.zst)?$")
_VOXELS = re.compile(r"\.img(\.gz)?$")  # the half of a pair without header


def is_nifti(file: StudyFile) -> bool:
    """Whether a file is a volume that nibabel reads, by its first bytes, or has the name of one."""
    return bool(_NAME.search(file.name.name.lower())) or volume_format(file) is not None


def is_voxel_half(name: str) -> bool:
    """Whether a file is named as the half of a pair that has voxels but no header."""
    return bool(_VOXELS.search(name.lower()))


def voxel_halves(files: list[StudyFile]) -> dict[StudyFile, StudyFile]:
    """By the header of each pair among the files, its half with the voxels.

    Files that are listed may lie in folders of their own, so of these the name is enough if no other pair has it.
    """
    halves = [file for file in files if is_voxel_half(file.name.name)]
    headers = [file for file in files if file not in halves]
    names = [Counter(_stem_name(file) for file in part if file.listed) for part in (headers, halves)]
    by_path = {_stem(file): file for file in halves}
    by_name = {_stem_name(file): file for file in halves if all(counted[_stem_name(file)] == 1 for counted in names)}
    found = {file: by_path.get(_stem(file)) or by_name.get(_stem_name(file)) for file in headers}
    return {file: half for file, half in found.items() if half}


def is_mask(name: str) -> bool:
    """Whether a file is named as a mask."""
    return identify(name) == "segmentation"


@dataclass(frozen=True, kw_only=True)
class _Volume:
    """One volume of a file: all of it, or the part at an index along its fourth axis."""

    file: StudyFile
    head: VolumeHead
    label: str
    part: int | None = None
    folder: str = ""  # its name, where the volumes of the study lie in different folders

    @property
    def sequence(self) -> str | None:
        return identify(self.file.name.name) or identify(self.folder)


def _read(volumes: list[_Volume], images: list[StudyFile], name: str, assign: Mapping[int, int | None] | None) -> Scan:
    """The volumes of one study to a scan; arguments as of `_OpenNifti.read`."""
    labels = [volume.label for volume in volumes]
    choice = _choose(volumes, images) if assign is None else check_assignment(assign, labels, name)
    if choice.problem:
        raise refuse(name, choice.problem)
    chosen = {channel: volumes[index] for channel, index in choice.indices.items()}
    head = chosen[FLAIR].head
    warnings = [*choice.warnings, *head.warnings]
    heads = {chosen[channel].file: chosen[channel].head for channel in sorted(chosen)}  # a file is read once for all its volumes
    for channel, volume in chosen.items():
        if problem := _explain_misfit(volume, chosen[FLAIR]):
            raise refuse_other_grid(name, channel, volume.label, problem)
    voxels = {file: load_voxels(one, name) for file, one in heads.items()}
    sequences = {}
    for channel, volume in sorted(chosen.items()):
        found = voxels[volume.file] if volume.part is None else voxels[volume.file][..., volume.part]
        if not same_grid(volume.head.geometry, head.geometry):
            difference = describe_difference(volume.head.geometry, head.geometry)
            warnings.append(f"the {SEQUENCES[channel]} lies on another grid than the FLAIR and was resampled: {difference}")
            found = resample(found, volume.head.geometry, head.geometry) if np.isfinite(found).all() else found
        sequences[channel] = found
    return compose(
        sequences,
        head.geometry,
        name=name,
        sha256=digest(list(dict.fromkeys([*heads, *(one.file for one in heads.values())]))),
        warnings=warnings,
        labels=choice.labels(labels),
        single_sequence=choice.single_sequence,
    )


def _volumes(files: list[StudyFile], name: str) -> tuple[list[_Volume], list[StudyFile]]:
    """Every volume that can be read, in the order of the files, and the files but for masks, unless there are only masks.

    Raises:
        UnreadableImage: for an unreadable file that is named as a sequence, or when no file can be read.
    """
    halves = voxel_halves(files)
    headers = [file for file in files if not is_voxel_half(file.name.name)]
    if not headers:  # a header beside the voxels, which the caller need not name
        headers = [header for file in files if (header := _find_beside(file, ".hdr", ".HDR", ".hdr.gz"))]
    images = [file for file in headers if not is_mask(file.name.name)] or headers
    if not images:
        raise refuse(name, "got the voxels of a pair without their header. Please upload the .hdr and the .img file together")
    apart = len({file.name.parent for file in images if not file.listed}) > 1
    volumes, refusals = [], []
    for file in images:
        folder = file.name.parent.name if apart else ""
        try:
            head = read_head(file, name, halves.get(file) or _find_beside(file, ".img", ".IMG", ".img.gz"))
        except UnreadableImage as refusal:
            if channel_of(identify(file.name.name) or identify(folder)) is not None:
                raise
            refusals.append(refusal)  # a time series or a map beside the sequences
            continue
        repeated = sum(other.name.name == file.name.name for other in images) > 1
        label = f"{folder}/{file.name.name}" if folder and repeated else file.name.name
        if len(head.shape) == 3:
            volumes.append(_Volume(file=file, head=head, label=label, folder=folder))
            continue
        for part in range(head.shape[3]):
            which = f"volume {part + 1} of {head.shape[3]}"
            label_of_part = which if len(images) == 1 else f"{label}, {which}"
            volumes.append(_Volume(file=file, head=head, label=label_of_part, part=part, folder=folder))
    if not volumes:
        raise refusals[0]
    return volumes, images


def _stem(file: StudyFile) -> str:
    """The path without the suffix in which the halves of a pair differ."""
    return re.sub(r"\.(hdr|img)(\.gz)?$", "", file.name.as_posix(), flags=re.IGNORECASE)


def _stem_name(file: StudyFile) -> str:
    return PurePosixPath(_stem(file)).name


def _find_beside(file: StudyFile, *suffixes: str) -> StudyFile | None:
    """The other half of a pair, beside a file on the disk."""
    stem = _stem(file)
    if file.member is not None or stem == file.name.as_posix():  # in a zip, or no half of a pair
        return None
    found = next((path for path in (Path(stem + suffix) for suffix in suffixes) if path.is_file()), None)
    return None if found is None else StudyFile(path=found)


def _choose(volumes: list[_Volume], images: list[StudyFile]) -> Choice:
    """The volume of each sequence, by the names of the files."""
    if len(images) == 1:
        return _choose_from_one(volumes)
    named: dict[int, list[int]] = {}
    for index, volume in enumerate(volumes):
        channel = channel_of(volume.sequence)
        if channel is not None:
            named.setdefault(channel, []).append(index)
    matched = {volumes[index].file for found in named.values() for index in found}
    warnings, problem = [], None
    if others := len(images) - len(matched):
        warnings.append(f"{others} NIfTI files are ignored: their names match none of the three sequences")
    if doubled := [c for c, found in named.items() if len({volumes[index].file for index in found}) > 1]:
        problem = f"two NIfTI files are named as {SEQUENCES[doubled[0]]}. Please upload one of them, or {HOW_TO_CHOOSE}"
    elif FLAIR not in named:
        names = "flair, t1 or pre, t1ce or post"
        problem = f"none of {len(images)} NIfTI files is named as FLAIR ({names}). Please upload one of them, or {HOW_TO_CHOOSE}"
    indices = {channel: found[0] for channel, found in named.items() if len(found) == 1}
    flair = named.get(FLAIR, [])
    if not doubled and len(flair) > 1:  # all three along its fourth axis
        return Choice(indices={channel: flair[channel] for channel in SEQUENCES}, warnings=tuple(warnings))
    if FLAIR in indices:
        for channel in sorted(set(named) - set(doubled) - {FLAIR}):
            one, flair = volumes[named[channel][0]], volumes[indices[FLAIR]]
            unlike = difference(one.file, flair.file)
            problem_of_one = _explain_misfit(one, flair, by_name=True)
            if channel not in indices or problem_of_one:
                files = f" ({one.label} beside {flair.label})" if unlike in SURE else ""
                warnings.append(f"the {SEQUENCES[channel]} {problem_of_one or 'has several volumes'} and was left out{files}")
                indices.pop(channel, None)
            elif unlike == POSSIBLE:
                warnings.append(
                    f"{one.label} and {flair.label} are read together, but their names differ; check that both show one patient"
                    " at one visit"
                )
            elif in_other_folders(one.file, flair.file):
                warnings.append(f"the {SEQUENCES[channel]} is in another folder than the FLAIR; check that both show one patient")
    return Choice(indices=indices, warnings=tuple(warnings), problem=problem)


def _choose_from_one(volumes: list[_Volume]) -> Choice:
    """The choice from the volumes of one file."""
    sequence = volumes[0].sequence
    if volumes[0].part is None:
        return choose_single(sequence, "the file")
    if sequence is not None and channel_of(sequence) is None:
        return Choice(
            indices={},
            problem=f"is named as {describe(sequence)}, not as T1, FLAIR and post-contrast T1. Please {HOW_TO_CHOOSE}",
        )
    whose = f"the file is named as {sequence}, but its" if sequence else "the file's"
    note = f"{whose} three volumes are read as pre-contrast T1, FLAIR and post-contrast T1"  # no header tells their order
    return Choice(indices={channel: channel for channel in SEQUENCES}, warnings=(note,))


def _explain_misfit(volume: _Volume, flair: _Volume, by_name: bool = False) -> str | None:
    """Why a volume cannot be read with the FLAIR; None if it can, resampled if necessary.

    Args:
        by_name: whether the two were chosen by their names, which then must not name different patients.
    """
    found = difference(volume.file, flair.file)
    if found == CERTAIN or (by_name and found in SURE):
        return "is named as another patient or visit than the FLAIR"
    if same_grid(volume.head.geometry, flair.head.geometry):
        return None
    problem = explain_misfit(volume.head.geometry, flair.head.geometry)
    return f"lies on another grid than the FLAIR and {problem}" if problem else None


@dataclass(frozen=True, kw_only=True)
class _OpenNifti:
    """Volume files.

    Attributes:
        studies: the files of each patient and visit.
        name: of all of them, for messages.
    """

    studies: list[list[StudyFile]]
    name: str

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The volumes, and what `read` reads each as if there is one study; headers only."""
        found = []
        for number, (volumes, images) in enumerate(self._volumes()):
            choice = _choose(volumes, images) if len(self.studies) == 1 else Choice(indices={})
            found += choice.candidates([self._label(number, volume) for volume in volumes], number)
        return tuple(found)

    @property
    def pictures(self) -> tuple[None, ...]:
        return (None,) * len(self.studies)

    def read(self, assign: Mapping[int, int | None] | None = None, study: int | None = None) -> Scan:
        """One study to a scan.

        A study is one FLAIR volume; one file with three, pre-contrast T1, FLAIR and post-contrast T1 along its fourth axis; or a
        file for each sequence, chosen by name, resampled to the FLAIR's grid. Masks and other sequences are ignored.

        Args:
            assign: by channel, an index into `candidates`, instead of the choice by name.
            study: its index, if there are several.

        Raises:
            UnreadableImage: when no file can be chosen as FLAIR, there are several studies and none is chosen, an assigned
                sequence cannot be resampled to the FLAIR's grid, or a file is damaged or outside the limits.
        """
        if assign is None and study is None and len(self.studies) > 1:
            listed = ", ".join("/".join(files[0].name.parts[-2:]) for files in self.studies[:6])
            raise refuse(
                self.name,
                f"got {len(self.studies)} studies, of different patients or visits ({listed}). {HOW_TO_CHOOSE_STUDY}",
            )
        if assign is None:
            return _read(*_volumes(self.studies[study or 0], self.name), self.name, None)
        volumes = [(number, volume) for number, (found, _) in enumerate(self._volumes()) for volume in found]
        choice = check_assignment(assign, [volume.label for _, volume in volumes], self.name)
        numbers = {volumes[index][0] for index in choice.indices.values()}
        if len(numbers) > 1:
            raise refuse(self.name, "the assigned volumes belong to different patients or visits. Please assign those of one")
        first = [number for number, _ in volumes].index(number := numbers.pop())
        found, images = _volumes(self.studies[number], self.name)
        return _read(found, images, self.name, {channel: index - first for channel, index in choice.indices.items()})

    def _volumes(self) -> Iterator[tuple[list[_Volume], list[StudyFile]]]:
        for files in self.studies:
            yield _volumes(files, self.name)

    def _label(self, number: int, volume: _Volume) -> str:
        """The volume's label; of several studies with the number, and with a folder where file names repeat."""
        if len(self.studies) == 1:
            return volume.label
        name = volume.file.name
        repeated = sum(file.name.name == name.name for files in self.studies for file in files) > 1
        folder = f"{name.parts[-2 - volume.label.count('/')]}/" if repeated else ""
        return f"study {number + 1}, {folder}{volume.label}"


class NiftiReader:
    """NIfTI, Analyze, MGH, NRRD and MetaImage, recognised by their first bytes or their name."""

    format = "NIfTI"
    preview = False

    def sniff(self, file: StudyFile) -> bool:
        return is_nifti(file)

    def open(self, files: list[StudyFile], name: str) -> _OpenNifti:
        return _OpenNifti(studies=split_studies(files), name=name)
