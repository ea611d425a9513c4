"""Many inputs in turn: what in a folder is a study of its own, what is done already, and one table of all."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from brainmri.dicom import study_uid
from brainmri.files import StudyFile, folder_files, is_zip
from brainmri.outputs import RECORD, write_slice, write_study
from brainmri.predict import Pipeline
from brainmri.reading import SUFFIXES, holds_one_slice, is_dicom, read_slice, read_study
from brainmri.scan import UnreadableImage
from brainmri.sequences import sequence_of
from brainmri.volumes import is_mask, is_nifti

TABLE = "studies"  # .csv and .parquet
# of a study's record, as it stands there; and what is joined of it to one text
COLUMNS = ("verdict", "slices", "lesion_count", "lesion_voxels", "lesion_volume_ml", "largest_diameter_mm")
JOINED = ("carried_by_slices", "warnings", "input_sha256")

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
    A study is not analysed again when its folder is complete and tells of the same input, networks and thresholds.

    Returns:
        A row of the table: `kind` is "slice" or "study", `status` "done", "done before" or "failed" with the `problem` in words.
    """
    row = {"input": name, "kind": "study", "status": "done", "problem": None}
    try:
        if holds_one_slice(path):
            row["kind"] = "slice"
            scan = read_slice(path)
            finding = pipe(scan)
            write_slice(scan, finding, out, name)
            return row | {"verdict": finding.verdict, "lesion_voxels": finding.area_px}
        scan = read_study(path)
        record = _record_of(out / name)
        if record and _same_making(record["provenance"], pipe.provenance(scan)):
            row["status"] = "done before"
        else:
            study = pipe.study(scan)
            write_study(scan, study, out / name)
            record = study.record()
        return row | {column: record.get(column) for column in COLUMNS} | {
            "carried_by_slices": " ".join(map(str, record["carried_by_slices"])),
            "warnings": "; ".join(record["warnings"]),
            "input_sha256": record["provenance"]["input"]["sha256"],
        }  # fmt: skip
    except (OSError, ValueError) as error:
        return row | {"status": "failed", "problem": str(error)}
    except Exception as error:  # one bad study must not end a night's work
        log.exception("an input failed")
        return row | {"status": "failed", "problem": f"failed unexpectedly ({type(error).__name__}); it was logged"}


def write_table(rows: list[dict], out: Path) -> None:
    """All rows of `process` as `studies.csv` and `studies.parquet`."""
    import pandas

    table = pandas.DataFrame(rows, columns=["input", "kind", "status", "problem", *COLUMNS, *JOINED])
    table.to_csv(out / f"{TABLE}.csv", index=False)
    table.astype({column: "string" for column in ("problem", "verdict", *JOINED)}).to_parquet(
        out / f"{TABLE}.parquet", index=False
    )


def _record_of(folder: Path) -> dict | None:
    """The record of a folder that is complete, or None."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _same_making(one: dict, other: dict) -> bool:
    """Whether two provenances are of the same input, networks, thresholds and release; on whatever device."""
    return all(one.get(key) == other[key] for key in other if key not in ("device", "versions")) and (
        one["versions"]["brainmri"] == other["versions"]["brainmri"]
    )
