"""The entry points for reading: one slice, or a study in any format of `READERS`.

Limits are checked on the file's size and header before pixels are decoded. Every refusal is an `UnreadableImage` whose message
names the problem and the accepted inputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from brainmri.io.dicom import DicomReader
from brainmri.io.dicom_headers import is_dicom
from brainmri.io.files import StudyFile, folder_files, is_zip, listed_files, zip_files
from brainmri.io.foreign import describe_foreign
from brainmri.io.images import (
    SUFFIXES,
    ImageReader,
    channel_warnings,
    has_image_magic,
    image_orientation,
    image_pixels,
    read_array,
    read_slice_file,
    refuse_assignment,
    unit_pixels,
)
from brainmri.io.limits import FORMATS, MAX_STUDY_BYTES, NAME, UnreadableImage, describe_size, refuse
from brainmri.io.nifti import NiftiReader, is_nifti
from brainmri.io.orientation import orientation_warnings, turn_upright
from brainmri.io.readers import OpenStudy, Reader
from brainmri.io.scan import Scan
from brainmri.io.sequences import Candidate
from brainmri.io.tiff import MAGIC as TIFF_MAGIC
from brainmri.io.tiff import holds_one_page

DICOM_INDEX = "DICOMDIR"  # lists the files in its folder and below
# tried in this order; a new format is one module and one entry here
READERS: list[Reader] = [DicomReader(), NiftiReader(), ImageReader()]


def read_slice(source: str | Path | Image.Image | np.ndarray) -> Scan:
    """One slice from a file, a PIL image or an array.

    Args:
        source: a path; a PIL image; or an array (H, W), (H, W, 3) or (H, W, 4), 8-bit, 16-bit or float
            (16-bit and float are scaled from their own minimum to their own maximum).

    Raises:
        FileNotFoundError: when the path is not a file.
        UnreadableImage: when it is not an accepted, undamaged slice within the limits.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            raise refuse(path.name, "expected one slice, got a folder. Please read it as a study")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not a file")
        file = StudyFile(path=path)
        with file.open() as handle:
            is_image = has_image_magic(handle.read(16))
        found = None if is_image else "a DICOM file" if is_dicom(file) else "a volume" if is_nifti(file) else None
        if found:
            raise refuse(path.name, f"expected one slice as a picture, got {found}. Please read it as a study")
        return read_slice_file(file)
    if isinstance(source, Image.Image):
        pixels, name, orientation = image_pixels(source, "image"), "image", image_orientation(source)
    elif isinstance(source, np.ndarray):
        pixels, name, orientation = source, "array", 1
    else:
        raise UnreadableImage(f"expected a path, a PIL image or a NumPy array, got a {type(source).__name__}")
    unit = unit_pixels(turn_upright(pixels, orientation), name)
    digest = hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()
    warnings = (*channel_warnings(unit), *orientation_warnings(orientation))
    return Scan(pixels=unit, name=name, sha256=digest, warnings=warnings, orientation=orientation)


def holds_one_slice(path: Path) -> bool:
    """Whether a path is one slice, not a study: a file that is not a volume, a zip or a stack of pages."""
    if not path.exists():
        return path.suffix.lower() in SUFFIXES  # for the message that it does not exist
    file = StudyFile(path=path)
    if not path.is_file() or is_nifti(file) or is_zip(path) or is_dicom(file):
        return False
    with file.open() as handle:
        return handle.read(4) not in TIFF_MAGIC or holds_one_page(handle)


@dataclass(frozen=True, kw_only=True)
class StudySource:
    """One study, or several, with the headers read and without pixels.

    Attributes:
        study: the files of the format that was found.
        archive: the zip that the files are from, or None.
        pictures_left_out: how many pictures lie beside the files of a volume.
    """

    study: OpenStudy
    archive: StudyFile | None
    pictures_left_out: int = 0

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """As `list_sequences` gives them."""
        return self.study.candidates

    def count(self) -> int:
        """How many studies there are: several for files of several examinations, patients or cases, else 1."""
        return len(self.pictures)

    @property
    def pictures(self) -> tuple[str | None, ...]:
        """As `OpenStudy.pictures`."""
        return self.study.pictures

    def read(self, assign: Mapping[int, int | None] | None = None, study: int | None = None) -> Scan:
        """The scan; arguments and errors are those of `read_study`."""
        if study is not None and not 0 <= study < self.count():
            raise UnreadableImage(f"expected the index of a study, from 0 to {self.count() - 1}, got {study}")
        scan = self.study.read(assign, study)
        scan = warn_of_pictures(scan, self.pictures_left_out)
        return replace(scan, sha256=self.archive.digest()) if self.archive else scan


def warn_of_pictures(scan: Scan, number: int) -> Scan:
    """The scan with a warning that so many pictures beside its volume are left out."""
    if not number:
        return scan
    pictures = "1 picture beside the volume was" if number == 1 else f"{number} pictures beside the volume were"
    return replace(scan, warnings=(*scan.warnings, f"{pictures} left out; to analyse slices, upload them without the volume"))


def open_study(source: str | Path | Sequence[str | Path], ignore: Collection[Path] = ()) -> StudySource:
    """Find the files of a study and read their headers, once for the number of studies, the sequences and the pixels.

    Args:
        source: a path, or a list of the paths of files, as for `read_study`.
        ignore: folders whose files are left out, for results inside the source.

    Raises:
        FileNotFoundError: when a path does not exist.
        UnreadableImage: when the source holds no study, or a header is damaged or outside the limits.
    """
    paths = _paths(source)
    if len(paths) != 1:
        return _choose_reader(listed_files(paths), NAME)
    path = paths[0]
    if path.is_dir():
        return _choose_reader(folder_files(path, ignore), path.name)
    if not path.is_file():
        if path.is_symlink():
            raise FileNotFoundError(f"{path} is a link to a missing file. Please fetch it, as with datalad get")
        raise FileNotFoundError(f"{path} is neither a file nor a folder")
    if path.stat().st_size > MAX_STUDY_BYTES:
        raise refuse(NAME, describe_size(path.stat().st_size))
    if path.name.upper() == DICOM_INDEX:
        return _choose_reader(folder_files(path.parent, ignore), NAME)
    if is_zip(path):
        return _choose_reader(zip_files(path), path.name, archive=StudyFile(path=path))
    return _choose_reader([StudyFile(path=path)], path.name)


def _paths(source: object) -> list[Path]:
    """The path or the paths of a source."""
    given = source if isinstance(source, Iterable) and not isinstance(source, str | bytes) else [source]
    paths = []
    for one in given:
        if not isinstance(one, str | Path):
            found = f"{'several objects, of' if given is source else 'an object of'} type {type(one).__name__}"
            raise UnreadableImage(f"expected a path, a list of paths, or an array (S, H, W) or (S, H, W, 3), got {found}")
        paths.append(Path(one))
    return paths


def read_study(
    source: str | Path | Sequence[str | Path] | np.ndarray,
    assign: Mapping[int, int | None] | None = None,
    study: int | None = None,
) -> Scan:
    """A study: slices, a multi-page TIFF, NIfTI or DICOM, in a file, a folder or a zip, or as several files; or an array.

    Args:
        source: a path, or a list of the paths of files. Slices are named `<case>_<number>`, counted along the head; masks
            (`…_mask`) are ignored. Or an array (S, H, W) or (S, H, W, 3) of 8-bit, 16-bit or float, axial, from the neck upwards.
        assign: for NIfTI and DICOM, which file or series is which sequence, instead of the choice by names and descriptions: by
            channel (0 pre-contrast T1, 1 FLAIR, 2 post-contrast T1) an index into `list_sequences(source)`. FLAIR is used for a
            channel that is missing or None.
        study: for files of several examinations, patients or cases, which one, from 0 to `count_studies(source)` - 1.

    Returns:
        The scan, pixels (S, H, W, 3); with its geometry for NIfTI and DICOM files that have one.

    Raises:
        FileNotFoundError: when a path does not exist.
        UnreadableImage: when the source holds no study, or several and none is chosen, is damaged or outside the limits, or
            cannot be read as assigned.
    """
    if isinstance(source, np.ndarray):
        refuse_assignment(assign, "an array")
        return read_array(source)
    return open_study(source).read(assign, study)


def count_studies(source: str | Path | Sequence[str | Path] | np.ndarray) -> int:
    """How many studies a source holds: several for files of several examinations, patients or cases, else 1; headers only.

    Raises:
        FileNotFoundError, UnreadableImage: as `open_study` does.
    """
    return 1 if isinstance(source, np.ndarray) else open_study(source).count()


def list_sequences(source: str | Path | Sequence[str | Path] | np.ndarray) -> tuple[Candidate, ...]:
    """The volumes or series of a study, and the sequence that `read_study` reads each as by default.

    Only headers are read, so the pixels may still be refused.

    Args:
        source: as for `read_study`.

    Returns:
        The volumes of NIfTI files or the series of DICOM files; empty for slices, TIFF stacks and arrays, whose channels are
        their colours. None of them has channel 1 where no FLAIR can be chosen: the caller has to assign it.

    Raises:
        FileNotFoundError, UnreadableImage: as `open_study` does.
    """
    return () if isinstance(source, np.ndarray) else open_study(source).candidates


def _choose_reader(files: list[StudyFile], name: str, archive: StudyFile | None = None) -> StudySource:
    """Open the files by the reader of their format."""
    by_reader: dict[int, list[StudyFile]] = {}
    for file in files:
        number = next((number for number, reader in enumerate(READERS) if reader.sniff(file)), None)
        if number is not None:
            by_reader.setdefault(number, []).append(file)
    if not by_reader:
        raise refuse(NAME, _describe_files(files, alone=[file.path.name for file in files] == [name] and not archive))
    volumes = sorted(number for number in by_reader if not READERS[number].preview)
    if len(volumes) > 1:
        formats = " and ".join(READERS[number].format for number in volumes)
        raise refuse(NAME, f"got {formats} files together. Please upload one study of one format")
    chosen = volumes[0] if volumes else min(by_reader)
    found = by_reader[chosen]
    left_out = sum(len(by_reader[number]) for number in by_reader if number != chosen)
    return StudySource(study=READERS[chosen].open(found, name), archive=archive, pictures_left_out=left_out)


def _describe_files(files: list[StudyFile], alone: bool) -> str:
    """The problem of files that no reader takes; `alone` where one was given by itself, not in a folder or a zip."""
    foreign = None
    for file in files[:100]:
        with file.open() as handle:
            foreign = foreign or describe_foreign(handle.read(512))
    if foreign:
        return f"is {foreign}" if alone else f"expected MRI files, got a file that is {foreign}"
    if alone:
        return f"is not an MRI file. Please upload {FORMATS}"
    return f"expected MRI files, got {f'{len(files)} of another kind' if files else 'no files'}. Please upload {FORMATS}"
