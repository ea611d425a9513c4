"""People's own data as a `Dataset`: recognised, described by the options of the command, and found again from a run's record."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from brainmri.analysis.recognition import SEQUENCE_OF_FILE
from brainmri.io.pixels import FLAIR
from brainmri.io.sequence_names import identify
from brainmri.zoo.attributes import THREE_SEQUENCES
from train.datasets.base import Dataset, Slice
from train.datasets.own.base import PICTURES, Found, Layout, Sample, describe_folder, suffix_of
from train.datasets.own.layouts import LAYOUTS
from train.datasets.own.reading import (
    Channels,
    OwnSlice,
    Picture,
    Volume,
    VolumeSlice,
    choose_channels,
    explain_sample,
    picture_size,
    read_geometry,
)

NO_LICENCE = "licence not stated"
INTENDED_USE = """\
Research and teaching on brain MR images like those that it was trained on. Not a medical device; no clinical decision may rest
on it. Images of other scanners, sequences and diseases than in the training data are outside what it has seen."""


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """How people's own data are read and described.

    Attributes:
        name: of the dataset.
        licence: identifier of the Hub, such as "cc-by-4.0"; None if it is not stated.
        description: Markdown, for model cards.
        channels: see `choose_channels`.
        tumour_labels: values, ranges such as "128-255" or names of labels that are tumour; empty for the only label.
        every: use every n-th slice of a volume.
        sequence: what single images are whose names do not say it, one of `brainmri.zoo.attributes.SEQUENCES`.
    """

    name: str = "own data"
    licence: str | None = None
    description: str = ""
    channels: tuple[str, ...] = ()
    tumour_labels: tuple[str, ...] = ()
    every: int = 1
    sequence: str | None = None

    @classmethod
    def from_record(cls, stored: dict) -> OwnData:
        """The record of what `split.json` stores."""
        known: dict = {key: tuple(value) if isinstance(value, list) else value for key, value in stored.items()}
        return cls(**known)


def find_layout(root: str | Path) -> Layout:
    """The layout of a dataset.

    Raises:
        FileNotFoundError: when there is no such folder or file.
        ValueError: for another layout, with what was found and an example of each.
    """
    root = Path(root)
    if not root.exists():
        raise FileNotFoundError(
            f"expected the folder of a dataset, or a CSV file, got {root}, which does not exist; correct --data"
        )
    for layout in LAYOUTS:
        if layout.matches(root):
            return layout
    examples = "\n".join(f"  {layout.name}: {layout.example}" for layout in LAYOUTS)
    raise ValueError(f"expected a dataset in one of these layouts, got {describe_folder(root)} in {root}:\n{examples}")


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a folder holds, read as `OwnData` says.

    Attributes:
        layout: its layout.
        usable: the samples that can be used, with their channels.
        problems: by sample label, why others cannot.
        labels: the values of the masks that are tumour; empty for the only value.
        notes: see `Found`.
    """

    layout: Layout
    usable: tuple[tuple[Sample, Channels], ...]
    problems: dict[str, str]
    labels: tuple[int, ...]
    notes: tuple[str, ...]


def read_contents(root: str | Path, data: OwnData) -> Contents:
    """The samples under a folder, from names and headers.

    Raises:
        FileNotFoundError, ValueError: see `find_layout`; and for missing files, and labels or channels that do not exist.
    """
    layout = find_layout(root)
    found = layout.find(Path(root))
    usable, problems = [], {}
    for sample in found.samples:
        channels = choose_channels(sample, data.channels)
        if problem := explain_sample(sample, channels):
            problems[f"{sample.patient}: {sample.label}"] = problem
        else:
            usable.append((sample, channels))
    return Contents(
        layout=layout, usable=tuple(usable), problems=problems, labels=choose_labels(found, data.tumour_labels), notes=found.notes
    )


def choose_labels(found: Found, wanted: tuple[str, ...]) -> tuple[int, ...]:
    """The values of the masks that are tumour; empty for the only value besides 0.

    Raises:
        ValueError: for an unknown name, or when the dataset names several labels and none is chosen.
    """
    if not wanted:
        if found.tumour or len(found.labels) <= 1:
            return found.tumour or tuple(found.labels.values())
        shown = ", ".join(f"{value} {name}" for name, value in found.labels.items())
        values = " ".join(str(value) for value in found.labels.values())
        raise ValueError(f"expected the labels that are tumour, because the dataset names several ({shown}); choose, for example "
                         f"--tumour-labels {values}")  # fmt: skip
    chosen: list[int] = []
    for word in wanted:
        if match := re.fullmatch(r"(\d+)(?:-(\d+))?", word):
            chosen += range(int(match[1]), int(match[2] or match[1]) + 1)
        elif word in found.labels:
            chosen.append(found.labels[word])
        else:
            known = f", or a name: {', '.join(found.labels)}" if found.labels else ""
            raise ValueError(f"expected --tumour-labels as values or ranges such as 1 2 or 128-255{known}; got {word}")
    return tuple(chosen)


def find_own_slices(root: str | Path, data: OwnData) -> dict[str, list[Slice]]:
    """The slices of every patient, in order.

    Raises:
        FileNotFoundError, ValueError: see `read_contents`; and when a sample cannot be used.
    """
    contents = read_contents(root, data)
    if contents.problems:
        first = next(iter(contents.problems.values()))
        raise ValueError(
            f"expected masks that fit their images, got {len(contents.problems)} that do not. The first: {first}. "
            f"python -m train.check --data {root} lists all"
        )
    for note in contents.notes:
        print(f"note: {note}")
    return slices_of(contents, data.every)


def find_own_sequences(root: str | Path, data: OwnData) -> tuple[str, ...]:
    """What the images under a folder are, by their names and by `OwnData.sequence`; without those that neither names.

    Raises:
        FileNotFoundError, ValueError: see `find_layout` and `choose_channels`.
    """
    found = set()
    for sample in find_layout(root).find(Path(root)).samples:
        channels = choose_channels(sample, data.channels)
        named = THREE_SEQUENCES if len(channels) > 1 else identify(dict(channels)[FLAIR].sequence)
        found.add(SEQUENCE_OF_FILE.get(named or "", named) or data.sequence)
    return tuple(sorted(found - {None}))


def slices_of(contents: Contents, every: int) -> dict[str, list[Slice]]:
    """The slices of the samples that can be used, by patient.

    Args:
        every: use every n-th slice of a volume.
    """
    by_patient: dict[str, list[tuple[Sample, Channels]]] = {}
    for sample, channels in contents.usable:
        by_patient.setdefault(sample.patient, []).append((sample, channels))
    cases = {}
    for patient, samples in by_patient.items():
        shapes = [_shape(channels) for _, channels in samples]  # (slices, height, width) of each
        canvas = max(shape[1] for shape in shapes), max(shape[2] for shape in shapes)
        slices: list[Slice] = []
        for (sample, channels), shape in zip(samples, shapes, strict=True):
            slices += _slices(sample, channels, contents.labels, shape[0], canvas, len(slices) + 1, every)
        cases[patient] = slices
    return cases


def _shape(channels: Channels) -> tuple[int, int, int]:
    source = dict(channels)[FLAIR]
    if suffix_of(source.path) in PICTURES:
        return (1, *picture_size(source.path))
    return read_geometry(source).scan_shape


def _slices(
    sample: Sample, channels: Channels, labels: tuple[int, ...], depth: int, canvas: tuple[int, int], first: int, every: int
) -> list[OwnSlice]:
    """The slices of a sample, numbered from `first`."""
    path = dict(channels)[FLAIR].path
    if suffix_of(path) in PICTURES:
        return [
            Picture(
                case=sample.patient, number=first, image=path, mask=sample.mask, canvas=canvas, channels=channels, labels=labels
            )
        ]
    volume = Volume(name=sample.label, channels=channels, mask=sample.mask, labels=labels)
    return [
        VolumeSlice(
            case=sample.patient, number=first + number, image=path, mask=sample.mask, canvas=canvas, volume=volume, index=index
        )
        for number, index in enumerate(range(0, depth, every))
    ]


def own_dataset(data: OwnData, manifest: Path | None = None) -> Dataset:
    """The dataset that commands, records and cards use.

    Args:
        manifest: file with the folds (`train.folds`); None to split the patients found.

    Raises:
        ValueError: for a licence that is no identifier.
    """
    if data.licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", data.licence):
        raise ValueError(
            f"expected --licence as an identifier of the Hub such as cc-by-4.0, mit or other, got {data.licence!r}; see "
            "https://huggingface.co/docs/hub/repositories-licenses"
        )
    return Dataset(
        key="own",
        name=data.name,
        source="own data",
        licence=data.licence or NO_LICENCE,
        licence_id=data.licence or "",
        hub_id="",
        citation="",
        intended_use=INTENDED_USE,
        held_out=frozenset(),
        find_slices=partial(find_own_slices, data=data),
        find_sequences=partial(find_own_sequences, data=data),
        institution_of=lambda case: "not stated",
        manifest=manifest,
        description=data.description,
        record=asdict(data),
    )


def recorded_dataset(record: dict) -> Dataset:
    """The dataset of a run, from what its `split.json` stores."""
    return own_dataset(OwnData.from_record(record))
