"""The process in which the page decodes uploads, so that none of them can hang or crash the server.

    python -m brainmri.ui.worker BYTES      # of memory that it may take

Answers a request at a time until its input ends: a line of JSON in, a line of JSON out, and after that of a scan its pixels, raw
float32. Nothing is pickled; torch and gradio are not imported.
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
from typing import BinaryIO

import nibabel  # noqa: F401  the readers' own late imports, made before the first request
import numpy as np
import pydicom.pixels  # noqa: F401

from brainmri.io.limits import UnreadableImage
from brainmri.io.reading import list_sequences, read_slice, read_study
from brainmri.io.scan import Geometry, Instance, Scan

READERS = {"read_slice": read_slice, "read_study": read_study, "list_sequences": list_sequences}


def record_from_scan(scan: Scan) -> dict:
    """A scan but for its pixels as JSON can hold it; `scan_from_record` is the way back."""
    return json.loads(json.dumps(asdict(replace(scan, pixels=None)), default=_to_json))


def _to_json(value: np.ndarray | Path) -> list | str:
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


def scan_from_record(record: dict, pixels: np.ndarray) -> Scan:
    """The scan of a record, equal to the one that was read in every field."""
    geometry = record["geometry"]
    if geometry is not None:
        instances = tuple(Instance(**{**one, "path": Path(one["path"])}) for one in geometry["instances"])
        affine = np.array(geometry["affine"], np.float64)
        geometry = Geometry(**{**geometry, "shape": tuple(geometry["shape"]), "affine": affine, "instances": instances})
    tuples = {name: tuple(record[name]) for name in ("warnings", "sequences")}
    return Scan(**{**record, **tuples, "geometry": geometry, "pixels": pixels})


def limit_memory(bytes_: int) -> None:
    """As far as the system can: Linux can, elsewhere the time limit alone holds. No core is dumped, which would hold pixels."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_AS, (bytes_, bytes_))


def answer(call: str, source: str | list[str], assign: list | None = None) -> tuple[dict, np.ndarray | None]:
    """What a reader says, as a record, and a scan's pixels.

    Args:
        call: name of the reader.
        source: what it takes.
        assign: for `read_study`, the pairs of its mapping, which JSON could not key by numbers.
    """
    try:
        if call == "list_sequences":
            return {"candidates": [asdict(candidate) for candidate in list_sequences(source)]}, None
        scan = read_slice(source) if call == "read_slice" else read_study(source, None if assign is None else dict(assign))
        return {"scan": record_from_scan(scan), "shape": scan.pixels.shape}, scan.pixels
    except FileNotFoundError as error:
        return {"missing": str(error)}, None
    except (UnreadableImage, MemoryError) as error:
        return {"exhausted": True} if _is_out_of_memory(error) else {"refused": str(error)}, None
    except Exception:
        return {"failed": traceback.format_exc()}, None


def _is_out_of_memory(error: BaseException | None) -> bool:
    """Whether memory was what failed, at whatever depth a reader caught it."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__context__
    return error is not None


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer until the requests end."""
    answers.write(b"{}\n")  # ready
    answers.flush()
    for line in requests:
        request = json.loads(line)
        # whoever asked ends it in time; this is for a worker whose server was killed
        faulthandler.dump_traceback_later(2 * request.pop("seconds"), exit=True)
        record, pixels = answer(**request)
        answers.write(json.dumps(record).encode() + b"\n")
        if pixels is not None:
            answers.write(memoryview(np.ascontiguousarray(pixels)).cast("B"))
        answers.flush()
        faulthandler.cancel_dump_traceback_later()


def main() -> None:
    limit_memory(int(sys.argv[1]))
    logging.disable()  # what libraries say of a file may quote it; what a reader has to say is in its answer
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a decoder prints is no answer
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
