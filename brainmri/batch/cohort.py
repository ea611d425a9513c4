"""Analyse many inputs: find the studies in a folder, process each one, skip finished ones, and write one table of all."""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from brainmri.analysis.forward import Progress
from brainmri.analysis.pipeline import Pipeline
from brainmri.io.dicom_headers import is_dicom, study_uid
from brainmri.io.files import StudyFile, folder_files, is_zip
from brainmri.io.images import SUFFIXES
from brainmri.io.limits import UnreadableImage, describe_os_error
from brainmri.io.nifti import is_mask, is_nifti, is_voxel_half
from brainmri.io.reading import StudySource, holds_one_slice, open_study, read_slice
from brainmri.io.sequences import sequence_of
from brainmri.report.outputs import (
    RECORD,
    SLICE_RECORD,
    UNFINISHED,
    OutputError,
    is_results_folder,
    move_files,
    output_errors,
    write_slice,
    write_study,
)

TABLE = "studies"  # .csv and .parquet
STATUS_COLUMNS = dict.fromkeys(("input", "kind", "status", "problem"), "string")
RECORD_COLUMNS = dict.fromkeys(("verdict", "reason"), "string")  # copied from the record
RECORD_COLUMNS |= dict.fromkeys(("slices", "lesion_count", "lesion_voxels"), "Int64")
RECORD_COLUMNS |= dict.fromkeys(("probability", "lesion_volume_ml", "largest_diameter_mm"), "Float64")
TEXT_COLUMNS = dict.fromkeys(("carried_by_slices", "warnings", "input_sha256"), "string")  # lists of the record as text
NO_SUBJECTS = ("code", "derivatives", "sourcedata", "stimuli", "phenotype", "logs")  # folders of a BIDS dataset
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # after these errors no results can be written
COLUMNS = STATUS_COLUMNS | RECORD_COLUMNS | TEXT_COLUMNS  # fixed types, also where a column is empty

log = logging.getLogger(__name__)


def find_inputs(path: Path, out: Path | None = None) -> list[Path]:
    """The inputs at a path: the path itself or, if it is a folder of studies, each study in it.

    The output folder `out` and the results of earlier runs are no inputs.

    A folder holds several studies if it contains zips, NIfTI volumes whose names are not the distinct sequences of one study,
    or only subfolders that are neither the series of one DICOM study nor named after sequences. Of a BIDS dataset, the subjects
    are the studies.
    """
    if not path.is_dir():
        return [path]
    results = _results_in(path, out)
    children = sorted(
        child for child in path.iterdir() if not child.name.startswith((".", "__MACOSX")) and child.resolve() not in results
    )
    bids = any(child.name == "dataset_description.json" for child in children)
    folders = [child for child in children if child.is_dir() and not (bids and child.name in NO_SUBJECTS)]
    files = [child for child in children if child.is_file()]
    zips = [file for file in files if is_zip(file)]
    if zips:
        return sorted(zips + folders)
    volumes = [file for file in files if is_nifti(StudyFile(path=file)) and not (is_mask(file.name) or is_voxel_half(file.name))]
    sequences = [sequence_of(file.name) for file in volumes]
    if len(volumes) > 1 and len({*sequences, None}) < len(sequences) + 1:
        return sorted(volumes + folders)
    if volumes or any(file.suffix.lower() in SUFFIXES or is_dicom(StudyFile(path=file)) for file in files):
        return [path]
    if (len(folders) < 2 and not bids) or not folders or _is_one_study(folders):
        return [path]
    return folders


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


def _results_in(path: Path, out: Path | None) -> set[Path]:
    """The folders below a path that hold results: the output folder, and those of earlier runs."""
    folders = [record.parent for record in path.rglob(RECORD) if is_results_folder(record.parent)] if path.is_dir() else []
    return {folder.resolve() for folder in (*folders, *filter(None, [out])) if path.resolve() in folder.resolve().parents}


def process(
    pipe: Pipeline, path: Path, out: Path, name: str, sequence: str | None = None, progress: Progress | None = None
) -> list[dict]:
    """Analyse one input and write its files.

    A slice gets the files `<name>.mask.png` and so on (`outputs.write_slice`), a study a folder `<name>` (`outputs.write_study`);
    if the input holds several studies, they get folders `<name>/study-1` and so on. A slice or study is skipped if its record
    exists and names the same input, networks, thresholds and release.

    Args:
        sequence: the MR sequence of slices, and of studies with a single one; None to recognise it.
        progress: as for `Pipeline.study`.

    Returns:
        A row of the table for the slice or for each study: `kind` is "slice" or "study"; `status` is "done", "done before" or
        "failed"; `problem` says why it failed.

    Raises:
        OutputError: when the disk of `out` is full or read-only, since no other input could be written either.
    """
    kind = "study"
    try:
        if holds_one_slice(path):
            kind = "slice"
            return [_process_slice(pipe, path, out, name, sequence)]
        source = open_study(path, ignore=_results_in(path, out))
        count = source.count()
    except Exception as error:
        return [failed_row(name, _problem(error, path.name), kind)]

    def process_study(number: int | None, name: str) -> dict:
        try:
            return _process_study(pipe, source, number, out, name, sequence, progress)
        except Exception as error:
            return failed_row(name, _problem(error, path.name))

    if count == 1:
        return [process_study(None, name)]
    return [process_study(number, f"{name}/study-{number + 1}") for number in range(count)]


def _process_slice(pipe: Pipeline, path: Path, out: Path, name: str, sequence: str | None) -> dict:
    scan, record_path = read_slice(path), out / f"{name}.{SLICE_RECORD}"
    record, status = _read_record(record_path), "done before"
    if record is None or not _same_analysis(record["provenance"], pipe.provenance(scan, sequence=sequence)):
        write_slice(scan, pipe(scan, sequence), out, name)
        record, status = json.loads(record_path.read_text(encoding="utf-8")), "done"
    out_of_distribution = (record.get("ood") or {}).get("out_of_distribution")  # then the probability means nothing
    return _row(name, "slice", status, record) | {
        "probability": None if out_of_distribution else record["probability"],
        "lesion_voxels": record["area_px"],
    }


def _process_study(
    pipe: Pipeline,
    source: StudySource,
    number: int | None,
    out: Path,
    name: str,
    sequence: str | None,
    progress: Progress | None,
) -> dict:
    scan, record_path = source.read(study=number), out / name / RECORD
    record, status = _read_record(record_path), "done before"
    if record is None or not _same_analysis(record["provenance"], pipe.provenance(scan, sequence=sequence)):
        write_study(scan, pipe.study(scan, progress, sequence), out / name)
        record, status = json.loads(record_path.read_text(encoding="utf-8")), "done"
    return _row(name, "study", status, record)


def _row(name: str, kind: str, status: str, record: dict) -> dict:
    return {"input": name, "kind": kind, "status": status, "problem": None} | {
        **{column: record.get(column) for column in RECORD_COLUMNS},
        "carried_by_slices": " ".join(map(str, record.get("carried_by_slices", []))),
        "warnings": "; ".join(record["warnings"]),
        "input_sha256": record["provenance"]["input"]["sha256"],
    }


def _problem(error: Exception, name: str) -> str:
    """Why the input of this name failed; one bad input must not end the run, but a full disk does."""
    if isinstance(error, OutputError) and error.errno in NO_SPACE:
        raise error
    if isinstance(error, OSError):
        return describe_os_error(error)
    if isinstance(error, UnreadableImage):
        return error.beside(name)  # the table and the printed line begin with the name
    if isinstance(error, ValueError):
        return str(error)
    log.error("input failed unexpectedly", exc_info=error)
    return f"failed unexpectedly ({type(error).__name__}); see the log"


def failed_row(name: str, problem: str, kind: str = "study") -> dict:
    """The table row of an input that could not be processed."""
    return dict.fromkeys(COLUMNS) | {"input": name, "kind": kind, "status": "failed", "problem": problem}


def write_table(rows: list[dict], out: Path) -> None:
    """Write the rows of `process` to `studies.csv` and `studies.parquet`.

    Raises:
        OutputError: when the folder cannot be written.
    """
    import pandas

    table = pandas.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    with output_errors(out), TemporaryDirectory(prefix=UNFINISHED, dir=out) as unfinished:
        files = [Path(unfinished) / f"{TABLE}.{end}" for end in ("csv", "parquet")]
        table.to_csv(files[0], index=False)
        table.to_parquet(files[1], index=False)
        move_files(files, out)


def _read_record(path: Path) -> dict | None:
    """The record of a finished analysis; None if it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _same_analysis(one: dict, other: dict) -> bool:
    """Whether two provenances have the same input, networks, calibration and release.

    Devices may differ. Threshold, review band and whether the specialist decided follow from the input and the calibration.
    """

    def key(provenance: dict) -> dict:
        differing = {"device": None, "decided": None}
        models = {role: {**(provenance.get(role) or {}), **differing} for role in ("segmenter", "classifier", "specialist")}
        kept = {name: value for name, value in provenance.items() if name not in ("mask_threshold", "review_band")}
        return kept | models | {"versions": provenance["versions"]["brainmri"]}

    return key(one) == key(other)
