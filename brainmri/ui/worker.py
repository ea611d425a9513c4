"""The process that decodes uploads, so that none can hang or crash the server.

    python -m brainmri.ui.worker BYTES      # memory limit

Handles one request at a time until its input ends: a line of JSON in, a line of JSON out, followed by a scan's pixels as raw
float32. Nothing is pickled. torch and gradio are not imported.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import sys
import traceback
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO

import nibabel  # noqa: F401  imported lazily by the readers; loaded before the first request
import numpy as np

from brainmri.io.limits import UnreadableImage
from brainmri.io.reading import list_sequences, read_slice, read_study
from brainmri.io.scan import Geometry, Instance, NiftiSpace, Scan
from brainmri.ui.inputs import list_inputs

with contextlib.suppress(ImportError):
    import pydicom.pixels  # noqa: F401


def record_from_scan(scan: Scan) -> dict:
    """A scan without its pixels as JSON types; `scan_from_record` is the inverse."""
    return json.loads(json.dumps(asdict(replace(scan, pixels=None)), default=_to_json))


def _to_json(value: np.ndarray | Path) -> list | str:
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


def scan_from_record(record: dict, pixels: np.ndarray) -> Scan:
    """Rebuild the scan from its record and pixels."""
    geometry = record["geometry"]
    if geometry is not None:
        instances = tuple(Instance(**{**one, "path": Path(one["path"])}) for one in geometry["instances"])
        arrays = {"affine": np.array(geometry["affine"], np.float64), "nifti": _nifti_space(geometry["nifti"])}
        tuples = {name: tuple(geometry[name]) for name in ("shape", "missing")}
        geometry = Geometry(**{**geometry, **arrays, **tuples, "instances": instances})
    tuples = {name: tuple(record[name]) for name in ("warnings", "sequences")}
    return Scan(**{**record, **tuples, "geometry": geometry, "pixels": pixels})


def _nifti_space(record: dict | None) -> NiftiSpace | None:
    if record is None:
        return None
    forms = {name: None if record[name] is None else np.array(record[name], np.float64) for name in ("sform", "qform")}
    return NiftiSpace(**forms, codes=tuple(record["codes"]), unit=record["unit"])


def limit_memory(bytes_: int) -> None:
    """Limit the address space where the system supports it (Linux). Disable core dumps, which would hold pixels."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))


def handle(call: str, source: Any, assign: list | None = None, study: int | None = None) -> tuple[dict, np.ndarray | None]:
    """Call a reader.

    Args:
        call: "list_inputs", "list_sequences", "read_slice" or "read_study".
        source: its file (str) or files (list of str).
        assign: for `read_study`, its mapping as pairs, since JSON has no integer keys.
        study: for `read_study`.

    Returns:
        The result or the error as a record, and a scan's pixels.
    """
    try:
        if call == "list_inputs":
            return {"inputs": [asdict(one) for one in list_inputs(source)]}, None
        if call == "list_sequences":
            return {"candidates": [asdict(candidate) for candidate in list_sequences(source)]}, None
        pairs = None if assign is None else dict(assign)
        scan = read_slice(source) if call == "read_slice" else read_study(source, pairs, study)
        return {"scan": record_from_scan(scan), "shape": scan.pixels.shape}, scan.pixels
    except FileNotFoundError as error:
        return {"missing": str(error)}, None
    except (UnreadableImage, MemoryError) as error:
        return {"exhausted": True} if _is_out_of_memory(error) else _refused(error), None
    except Exception:
        return {"failed": traceback.format_exc()}, None


def _refused(error: BaseException) -> dict:
    """A refusal as a record: the problem, and the name of a file where the reader gives it."""
    assert isinstance(error, UnreadableImage)
    return {"refused": error.problem, "name": error.name}


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether the error, or any error before it, is a MemoryError."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__context__
    return error is not None


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Handle requests until the input ends."""
    answers.write(b"{}\n")  # ready
    answers.flush()
    for line in requests:
        request = json.loads(line)
        # the server enforces the time limit; this is for a worker whose server was killed
        faulthandler.dump_traceback_later(2 * request.pop("seconds"), exit=True)
        record, pixels = handle(**request)
        answers.write(json.dumps(record).encode() + b"\n")
        if pixels is not None:
            answers.write(np.ascontiguousarray(pixels).data.cast("B"))
        answers.flush()
        faulthandler.cancel_dump_traceback_later()


def main() -> None:
    limit_memory(int(sys.argv[1]))
    logging.disable()  # messages of libraries may quote the file
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output of decoders must not mix with responses
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
