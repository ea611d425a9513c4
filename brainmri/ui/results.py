"""What the page and its endpoints share: the files of a result, and the assignment of sequences."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from gradio.utils import get_upload_folder

from brainmri.analysis.findings import Finding, Study
from brainmri.io.pixels import FLAIR
from brainmri.io.scan import Scan
from brainmri.io.sequences import POST, PRE
from brainmri.report.outputs import pack, write_slice, write_study
from brainmri.ui.common import make_output_folder, safe_stem

CHANNELS = (FLAIR, PRE, POST)  # in the order of the fields and of the endpoint's parameters
ABSENT = -1  # value of a field without a sequence


def assignment(chosen: Sequence[int | None]) -> dict[int, int | None]:
    """Indices of the sequences, in the order of `CHANNELS`, as `read_study` takes them."""
    return {channel: None if number == ABSENT else number for channel, number in zip(CHANNELS, chosen, strict=True)}


TOKEN = re.compile(r"[\w-]{22}")


def keep_result(result: dict) -> str:
    """Store what the page shows, as JSON, until it expires; return the token that reopens it."""
    token = secrets.token_urlsafe(16)
    kept_path(token, "json").write_text(json.dumps(result), encoding="utf-8")
    return token


def kept_result(token: str) -> dict:
    """What `keep_result` stored.

    Raises:
        FileNotFoundError: for an unknown or expired token.
    """
    return json.loads(kept_path(token, "json").read_text(encoding="utf-8"))


def kept_path(token: str, ending: str) -> Path:
    """The path of one of the files of a kept result.

    Raises:
        FileNotFoundError: for what is no token.
    """
    if not TOKEN.fullmatch(token):
        raise FileNotFoundError(token)
    folder = Path(get_upload_folder()) / "kept"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{token}.{ending}"


def slice_files(scan: Scan, finding: Finding) -> tuple[str, str, str]:
    """Write mask, overlay and record of a slice; return their paths."""
    mask, overlay, record = write_slice(scan, finding, make_output_folder(), safe_stem(scan.name, "slice"))
    return str(mask), str(overlay), str(record)


def pack_slice(scan: Scan, finding: Finding) -> tuple[str, dict]:
    """Write the files of a slice into a zip; return its path and the record."""
    stem, folder = safe_stem(scan.name, "slice"), make_output_folder()
    files = write_slice(scan, finding, folder, stem)
    return str(pack(list(files), folder / f"{stem}.zip")), finding.record()


def pack_study(scan: Scan, study: Study) -> tuple[str, str, dict]:
    """Write the files of a study into a zip.

    Returns:
        The paths of the zip and of the report, and the written record, which has the warnings of writing.
    """
    folder = make_output_folder() / safe_stem(scan.name, "study")
    files = write_study(scan, study, folder)
    return (
        str(pack(files, folder.with_name(f"{folder.name}.zip"))),
        str(files[0]),
        json.loads(files[-1].read_text(encoding="utf-8")),
    )
