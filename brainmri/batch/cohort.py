"""Analyse many inputs: process each one, skip finished ones, and write one table of all."""

from __future__ import annotations

import errno
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from brainmri.analysis.forward import Progress
from brainmri.analysis.pipeline import Pipeline
from brainmri.batch.inputs import Input, results_in
from brainmri.io.limits import NAME, UnreadableImage, describe_os_error
from brainmri.io.reading import StudySource, holds_one_slice, open_study, read_slice
from brainmri.report.outputs import (
    RECORD,
    SLICE_RECORD,
    UNFINISHED,
    OutputError,
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
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # after these errors no results can be written
COLUMNS = STATUS_COLUMNS | RECORD_COLUMNS | TEXT_COLUMNS  # fixed types, also where a column is empty

log = logging.getLogger(__name__)


def process(
    pipe: Pipeline, path: Input, out: Path, name: str, sequence: str | None = None, progress: Progress | None = None
) -> list[dict]:
    """Analyse one input and write its files.

    A slice gets the files `<name>.mask.png` and so on (`outputs.write_slice`), a study a folder `<name>` (`outputs.write_study`);
    if the input holds several studies, they get folders `<name>/study-1` and so on, or of single pictures `<name>/<picture>`. A
    slice or study is skipped if its record exists and names the same input, networks, thresholds and release.

    Args:
        path: of the input, or those of its files.
        sequence: the MR sequence of slices, and of studies with a single one; None to recognise it.
        progress: as for `Pipeline.study`.

    Returns:
        A row of the table for the slice or for each study: `kind` is "slice" or "study"; `status` is "done", "done before" or
        "failed"; `problem` says why it failed.

    Raises:
        OutputError: when the disk of `out` is full or read-only, since no other input could be written either.
    """
    kind, source_name = "study", path.name if isinstance(path, Path) else NAME
    try:
        if isinstance(path, Path) and holds_one_slice(path):
            kind = "slice"
            return [_process_slice(pipe, path, out, name, sequence)]
        source = open_study(path, ignore=results_in(path, out) if isinstance(path, Path) else ())
        names = _study_names(source.pictures)
    except Exception as error:
        return [failed_row(name, _problem(error, source_name), kind)]

    def process_study(number: int | None, name: str) -> dict:
        try:
            return _process_study(pipe, source, number, out, name, sequence, progress)
        except Exception as error:
            return failed_row(name, _problem(error, source_name))

    if len(names) == 1:
        return [process_study(None, name)]
    return [process_study(number, f"{name}/{study}") for number, study in enumerate(names)]


def _study_names(pictures: Sequence[str | None]) -> list[str]:
    """The folders of an input's studies: the names of single pictures without suffix, else `study-1` and so on."""
    stems = [PurePosixPath(picture).with_suffix("").as_posix().replace("/", "-") if picture else "" for picture in pictures]
    unclear = {stem for stem, times in Counter(stems).items() if times > 1 or not stem or stem.startswith("study-")}
    return [f"study-{number}" if stem in unclear else stem for number, stem in enumerate(stems, 1)]


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
