"""DICOM MR images to scans: the choice of study and series, and the T1 series on the grid of the FLAIR."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from brainmri.io.dicom_coverage import describe_uncovered
from brainmri.io.dicom_grouping import DicomStudy, Series, find_studies
from brainmri.io.dicom_headers import errors_as_refusals, is_dicom
from brainmri.io.dicom_pixels import decode
from brainmri.io.files import StudyFile, digest
from brainmri.io.limits import NAME, UnreadableImage, refuse
from brainmri.io.pixels import FLAIR
from brainmri.io.resample import describe_difference, explain_misfit, refuse_other_grid, resample, same_grid
from brainmri.io.scan import Scan
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

SAME, RESAMPLED = "same", "resampled"


@dataclass(frozen=True, kw_only=True)
class OpenDicom:
    """DICOM files with their headers read.

    Attributes:
        studies: the studies in the files.
    """

    studies: list[DicomStudy]

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The MR series, and what `read` reads each as.

        With several studies, only a study that can be read without a choice by the caller has defaults, if it is the only one.
        """
        with errors_as_refusals():
            number, choice, _ = _default(self.studies)
            candidates = []
            for index, study in enumerate(self.studies):
                labels = [_label(self.studies, index, series) for series in study.series]
                chosen = choice if index == number else Choice(indices={})
                candidates += chosen.candidates(labels, index)
            return tuple(candidates)

    @property
    def pictures(self) -> tuple[None, ...]:
        return (None,) * len(self.studies)

    def read(self, assign: Mapping[int, int | None] | None = None, study: int | None = None) -> Scan:
        """One study to a scan: its FLAIR series, with the T1 series on its grid, resampled if necessary.

        Series of different studies or patients are never joined.

        Args:
            assign: by channel, an index into `candidates`, instead of the choice by header and description.
            study: its index, if there are several.

        Raises:
            UnreadableImage: when no series can be chosen as FLAIR, there are several studies and none is chosen, an assigned
                series cannot be brought to the FLAIR's grid, or slices are damaged, duplicated or outside the limits.
        """
        with errors_as_refusals():
            return _read(self.studies, assign, study)


def _read(studies: list[DicomStudy], assign: Mapping[int, int | None] | None, number: int | None) -> Scan:
    all_series = [(index, series) for index, study in enumerate(studies) for series in study.series]
    all_labels = [_label(studies, index, series) for index, series in all_series]
    by_default = assign is None and number is None
    if assign is not None:
        choice = check_assignment(assign, all_labels, NAME)
        chosen = {channel: all_series[index][1] for channel, index in choice.indices.items()}
        numbers = {all_series[index][0] for index in choice.indices.values()}
        if len(numbers) > 1:
            raise refuse(NAME, "the assigned series belong to different studies or patients. Please assign those of one")
        number, labels = numbers.pop(), choice.labels(all_labels)
    else:
        number, choice, problem = _default(studies) if number is None else (number, _choose(studies[number].series), None)
        if problem or choice.problem:
            raise refuse(NAME, problem or choice.problem or "")
        series = studies[number].series
        chosen = {channel: series[index] for channel, index in choice.indices.items()}
        labels = choice.labels([_label(studies, number, one) for one in series])
    flair = chosen[FLAIR]
    geometry = flair.stack.geometry
    volumes = {FLAIR: decode(flair.stack)}
    uncovered = describe_uncovered(flair, studies[number].series)
    warnings = [*choice.warnings, *[uncovered] * bool(uncovered), *studies[number].warnings, *flair.stack.warnings]
    for channel in sorted(set(chosen) - {FLAIR}):
        other = chosen[channel]
        fit = _fit(other, flair)
        if fit not in (SAME, RESAMPLED):
            raise refuse_other_grid(NAME, channel, other.label, fit)
        volume = decode(other.stack)
        if fit == RESAMPLED and geometry and other.stack.geometry:
            difference = describe_difference(other.stack.geometry, geometry)
            warnings.append(f"the {SEQUENCES[channel]} lies on another grid than the FLAIR and was resampled: {difference}")
            volume = resample(volume, other.stack.geometry, geometry)
        volumes[channel] = volume
    read = dict.fromkeys(frame.file for channel in sorted(chosen) for frame in chosen[channel].stack.frames)
    if assign is None and (unused := len(studies[number].series) - len(chosen)):
        warnings.append(f"{unused} other series {'is' if unused == 1 else 'are'} not used")
    if by_default and len(studies) > 1:
        warnings.append(
            f"the files hold {len(studies)} studies; only study {number + 1} can be read without a choice of sequences"
        )
    return compose(
        volumes,
        geometry,
        name=NAME,
        sha256=digest(list(read)),
        warnings=warnings,
        labels=labels,
        single_sequence=choice.single_sequence,
        incomplete=uncovered or flair.stack.incomplete,
    )


def _label(studies: list[DicomStudy], index: int, series: Series) -> str:
    return series.label if len(studies) == 1 else f"study {index + 1}, {series.label}"


def _default(studies: list[DicomStudy]) -> tuple[int, Choice, str | None]:
    """The study that is read without a choice by the caller, the choice in it, and why there is none."""
    choices = [_choose(study.series) for study in studies]
    if len(studies) == 1:
        return 0, choices[0], None
    readable = [number for number, choice in enumerate(choices) if choice.problem is None]
    if len(readable) == 1:
        return readable[0], choices[readable[0]], None
    listed = "; ".join(_label(studies, n, series) for n, study in enumerate(studies[:6]) for series in study.series[:4])
    problem = f"got {len(studies)} studies, of different examinations or patients ({listed}). {HOW_TO_CHOOSE_STUDY}"
    return -1, Choice(indices={}), problem


def _choose(series: list[Series]) -> Choice:
    """The series for each channel: of several FLAIR series an axial one, of several T1 series the one on the FLAIR's grid."""
    if len(series) == 1:
        return choose_single(series[0].sequence, "the series")
    named = {channel: [i for i, s in enumerate(series) if channel_of(s.sequence) == channel] for channel in SEQUENCES}
    flairs, indices, warnings, problem = named[FLAIR], {}, [], None
    if flairs:
        indices[FLAIR] = max(flairs, key=lambda index: (_is_axial(series[index]), len(series[index].frames)))
        if len(flairs) > 1:
            warnings.append(f"got {len(flairs)} FLAIR series; the one {series[indices[FLAIR]]} is used")
    else:
        listed = "; ".join(f"{one}{f' ({one.sequence})' if one.sequence else ''}" for one in series[:12])
        listed += "; and more" if len(series) > 12 else ""
        problem = f"none of {len(series)} series is a FLAIR ({listed}). Please upload one series alone, or {HOW_TO_CHOOSE}"
    for channel in sorted(set(SEQUENCES) - {FLAIR}):
        candidates = named[channel]
        if not flairs:
            if len(candidates) == 1:
                indices[channel] = candidates[0]
            continue
        fits = {index: _fit(series[index], series[indices[FLAIR]]) for index in candidates}
        fitting = [i for i in candidates if fits[i] == SAME] or [i for i in candidates if fits[i] == RESAMPLED]
        axial = [index for index in fitting if _is_axial(series[index])]
        best = axial if len(axial) == 1 else fitting
        if len(best) == 1:
            indices[channel] = best[0]
        elif candidates:
            why = f"was found in {len(best)} series" if best else f"{fits[candidates[0]]}"
            warnings.append(f"the {SEQUENCES[channel]} {why} and was left out")
    return Choice(indices=indices, warnings=tuple(warnings), problem=problem)


def _is_axial(series: Series) -> bool:
    frame = series.frames[0]
    return frame.orientation is not None and int(np.abs(np.cross(frame.orientation[:3], frame.orientation[3:])).argmax()) == 2


def _fit(series: Series, flair: Series) -> str:
    """`SAME` or `RESAMPLED` if a series can be read on the FLAIR's grid, else why not."""
    if series.frame_of_reference != flair.frame_of_reference and series.frame_of_reference and flair.frame_of_reference:
        return "lies in another frame of reference than the FLAIR"
    try:
        source, target = series.stack.geometry, flair.stack.geometry
    except UnreadableImage:
        return "cannot be read"
    if (
        source
        and series.stack.incomplete
        and not (target and same_grid(source, target) and set(source.missing) <= set(target.missing))
    ):
        return "lacks slices"
    if source is None or target is None:
        return "lies on another grid than the FLAIR and has no positions"
    if same_grid(source, target):
        return SAME
    problem = explain_misfit(source, target)
    return f"lies on another grid than the FLAIR and {problem}" if problem else RESAMPLED


class DicomReader:
    """DICOM, recognised by its first bytes."""

    format = "DICOM"
    preview = False

    def sniff(self, file: StudyFile) -> bool:
        return is_dicom(file)

    def open(self, files: list[StudyFile], name: str) -> OpenDicom:
        """Files of any number of series, in any order, single or multi-frame; other objects are ignored."""
        with errors_as_refusals():
            return OpenDicom(studies=find_studies(files))
