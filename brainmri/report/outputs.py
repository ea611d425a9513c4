"""Results as files: what the command line writes and the page offers for download."""

from __future__ import annotations

import csv
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from brainmri._version import __version__
from brainmri.analysis.findings import Finding, Study
from brainmri.io.limits import UnreadableImage, describe_os_error
from brainmri.io.scan import Scan
from brainmri.io.writers import write_nifti, write_png, write_segmentation, write_tiff
from brainmri.report.html import report_html
from brainmri.report.render import montage_picture, overlay_picture

RECORD = "study.json"
SLICE_RECORD = "finding.json"  # preceded by the slice's stem and a dot
UNFINISHED = ".unfinished-"  # prefix of temporary folders; complete files are moved out of them


class OutputError(OSError):
    """Results cannot be written; the message says where and why."""

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def output_errors(folder: Path) -> Iterator[None]:
    """Raise the errors of writing to a folder as `OutputError`."""
    try:
        yield
    except OSError as error:
        raise OutputError(error.errno, f"cannot write results to {folder} ({describe_os_error(error)})") from error


def is_results_folder(folder: Path) -> bool:
    """Whether a folder holds the results of a study, as `write_study` writes them."""
    return all((folder / name).is_file() for name in ("report.html", "slices.csv", RECORD))


def write_slice(scan: Scan, finding: Finding, folder: Path, stem: str) -> tuple[Path, Path, Path]:
    """Write mask (PNG, 0 and 255), overlay (PNG) and record (JSON) of one slice.

    The record is moved into the folder last, so it never describes files of another finding.

    Returns:
        The paths `<stem>.mask.png`, `<stem>.overlay.png` and `<stem>.finding.json`.

    Raises:
        OutputError: when the folder cannot be written.
    """
    with output_errors(folder), TemporaryDirectory(prefix=UNFINISHED, dir=folder) as unfinished:
        mask, overlay, record = (Path(unfinished) / f"{stem}.{end}" for end in ("mask.png", "overlay.png", SLICE_RECORD))
        write_png(mask, finding.mask, scan.orientation)
        overlay_picture(scan.pixels, finding.mask).save(overlay)
        record.write_text(json.dumps({"input": scan.name, **finding.record()}, indent=2) + "\n", encoding="utf-8")
        mask, overlay, record = move_files([mask, overlay, record], folder)
        return mask, overlay, record


def write_study(scan: Scan, study: Study, folder: Path) -> list[Path]:
    """Write all results of a study to a folder, which is created if missing.

    The files are a report (HTML), the table of slices (CSV), a montage (PNG) and the record (JSON). If the geometry is known,
    mask and probability map are written as NIfTI on the input's own grid, and for DICOM the mask also as a DICOM segmentation.
    Otherwise the mask is written as a TIFF stack. All files are written to a temporary folder and then moved, the record last,
    so a folder with a record is complete, even after an interruption.

    Returns:
        The paths of the files, the report first and the record last.

    Raises:
        OutputError: when the folder cannot be written.
    """
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=UNFINISHED, dir=folder) as unfinished:
            return move_files(_study_files(scan, study, Path(unfinished)), folder)


def move_files(files: list[Path], folder: Path) -> list[Path]:
    """Move files, in order, to a folder on the same file system. An old copy of the last file is removed first.

    Returns:
        The new paths.
    """
    (folder / files[-1].name).unlink(missing_ok=True)
    return [file.replace(folder / file.name) for file in files]


def _study_files(scan: Scan, study: Study, folder: Path) -> list[Path]:
    """Write the files of a study; return their paths, the report first and the record last."""
    volumes, problems = _write_volumes(scan, study, folder)
    study = replace(study, warnings=(*study.warnings, *problems))
    report, table, montage, record = (folder / name for name in ("report.html", "slices.csv", "montage.png", RECORD))
    overlays = montage_picture(scan.pixels, study)
    report.write_text(report_html(scan, study, scan.name, overlays), encoding="utf-8")
    with table.open("w", newline="", encoding="utf-8") as handle:
        rows = study.table()
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    overlays.save(montage)
    record.write_text(json.dumps({"input": scan.name, **study.record()}, indent=2) + "\n", encoding="utf-8")
    return [report, *volumes, table, montage, record]


def _write_volumes(scan: Scan, study: Study, folder: Path) -> tuple[list[Path], list[str]]:
    """Write masks and maps; return their paths, and the problems as warnings."""
    if study.geometry is None:
        stack = folder / "mask.tif"
        write_tiff(stack, study.mask, scan.orientation)
        return [stack], []
    mask, probability, segmentation = (folder / name for name in ("mask.nii.gz", "probability.nii.gz", "mask.dcm"))
    write_nifti(mask, study.mask, study.geometry)
    write_nifti(probability, study.probability_map, study.geometry)
    if not study.geometry.instances:
        return [mask, probability], []
    try:
        write_segmentation(segmentation, study.mask, study.geometry, __version__)
    except UnreadableImage as error:  # the series lacks elements that a segmentation must reference
        return [mask, probability], [f"no DICOM segmentation was written: {error}".rstrip(".")]
    return [mask, probability, segmentation], []


def pack(files: list[Path], path: Path) -> Path:
    """Write the files into a zip, in a folder with the zip's name, and return its path."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, f"{path.stem}/{file.name}")
    return path
