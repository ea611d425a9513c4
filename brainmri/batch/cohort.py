"""Many inputs: what in a folder is a study of its own, what is done to one, what is done already, and one table of all."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from brainmri.analysis.pipeline import Pipeline
from brainmri.io.dicom import study_uid
from brainmri.io.files import StudyFile, folder_files, is_zip
from brainmri.io.limits import UnreadableImage
from brainmri.io.nifti import is_mask, is_nifti
from brainmri.io.reading import SUFFIXES, holds_one_slice, is_dicom, read_slice, read_study
from brainmri.io.sequences import sequence_of
from brainmri.report.outputs import RECORD, SLICE_RECORD, UNFINISHED, deliver, write_slice, write_study

TABLE = "studies"  # .csv and .parquet
# what an input is and what became of it; then of its record, as it stands there; and what is joined of it to one text
STATUS = dict.fromkeys(("input", "kind", "status", "problem"), "string")
OF_RECORD = {"verdict": "string"}
OF_RECORD |= dict.fromkeys(("slices", "lesion_count", "lesion_voxels"), "Int64")
OF_RECORD |= dict.fromkeys(("probability", "lesion_volume_ml", "largest_diameter_mm"), "Float64")
JOINED = dict.fromkeys(("carried_by_slices", "warnings", "input_sha256"), "string")
COLUMNS = STATUS | OF_RECORD | JOINED  # of the table, with their types, whatever is in them

log = logging.getLogger(__name__)


def inputs_in(path: Path) -> list[Path]:
    """What of a path is an input of its own: the path itself, or, where it is a folder of studies, each of them.

    A folder holds several studies when there are zips in it; NIfTI volumes whose names do not tell them apart as the
    sequences of one; or nothing but subfolders, unless those are one DICOM study's series or named for sequences.
    """
    if not path.is_dir():
        return [path]
    children = sorted(child for child in path.iterdir() if not child.name.startswith((".", "__MACOSX")))
    folders = [child for child in children if child.is_dir()]
    files = [child for child in children if child.is_file()]
    zips = [file for file in files if is_zip(file)]
    if zips:
        return sorted(zips + folders)
    volumes = [file for file in files if is_nifti(file.name) and not is_mask(file.name)]
    told = [sequence_of(file.name) for file in volumes]
    if len(volumes) > 1 and len({*told, None}) < len(told) + 1:
        return sorted(volumes + folders)
    images = [file for file in files if file.suffix.lower() in SUFFIXES or is_dicom(StudyFile(path=file))]
    if volumes or images or len(folders) < 2 or _one_study(folders):
        return [path]
    return folders


def _one_study(folders: list[Path]) -> bool:
    if all(sequence_of(folder.name) is not None for folder in folders):
        return True
    try:
        first = [next((file for file in folder_files(folder) if is_dicom(file)), None) for folder in folders]
        return None not in first and len({study_uid(file) for file in first}) == 1
    except UnreadableImage:  # more files than a study has, or a damaged one: each folder will say so itself
        return False


def process(pipe: Pipeline, path: Path, out: Path, name: str) -> dict:
    """Analyse one input and write its files.

    A slice's are `<name>.mask.png` and so on (`outputs.write_slice`), a study's lie in a folder `<name>` (`outputs.write_study`).
    An input is not analysed again when its record is there and tells of the same input, networks and thresholds.

    Returns:
        A row of the table: `kind` is "slice" or "study", `status` "done", "done before" or "failed" with the `problem` in words.
    """
    kind = "study"
    try:
        if holds_one_slice(path):
            kind, place = "slice", out / f"{name}.{SLICE_RECORD}"
            scan = read_slice(path)
        else:
            scan, place = read_study(path), out / name / RECORD
        record = _record_at(place)
        status = "done before"
        if record is None or not _same_making(record["provenance"], pipe.provenance(scan)):
            status = "done"
            if kind == "slice":
                write_slice(scan, pipe(scan), out, name)
            else:
                write_study(scan, pipe.study(scan), out / name)
            record = _record_at(place)
    except (OSError, ValueError) as error:
        return failed(name, str(error), kind)
    except Exception as error:  # one bad study must not end a night's work
        log.exception("an input failed")
        return failed(name, f"failed unexpectedly ({type(error).__name__}); it was logged", kind)
    out_of_distribution = (record.get("ood") or {}).get("out_of_distribution")  # then the probability speaks of nothing
    return {"input": name, "kind": kind, "status": status, "problem": None} | {
        **{column: record.get(column) for column in OF_RECORD},
        "probability": record["probability"] if kind == "slice" and not out_of_distribution else None,
        "lesion_voxels": record["area_px"] if kind == "slice" else record["lesion_voxels"],
        "carried_by_slices": " ".join(map(str, record.get("carried_by_slices", []))),
        "warnings": "; ".join(record["warnings"]),
        "input_sha256": record["provenance"]["input"]["sha256"],
    }


def failed(name: str, problem: str, kind: str = "study") -> dict:
    """The row of an input that could not be processed."""
    return dict.fromkeys(COLUMNS) | {"input": name, "kind": kind, "status": "failed", "problem": problem}


def write_table(rows: list[dict], out: Path) -> None:
    """All rows of `process` as `studies.csv` and `studies.parquet`."""
    import pandas

    table = pandas.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    with TemporaryDirectory(prefix=UNFINISHED, dir=out) as unfinished:
        files = [Path(unfinished) / f"{TABLE}.{end}" for end in ("csv", "parquet")]
        table.to_csv(files[0], index=False)
        table.to_parquet(files[1], index=False)
        deliver(files, out)


def _record_at(path: Path) -> dict | None:
    """What is recorded there of a finding whose files are complete, or None."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _same_making(one: dict, other: dict) -> bool:
    """Whether two provenances are of the same input, networks, thresholds and release, however they are run."""
    return all(one.get(key) == other[key] for key in other if key not in ("device", "runtime", "versions")) and (
        one["versions"]["brainmri"] == other["versions"]["brainmri"]
    )
