"""Run commands against the stand-in Hub (`tests.support.hub_server`), each in a process with a cache of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import brainmri

ROOT = Path(__file__).parents[2]
ENTRIES = {entry.name: entry for entry in brainmri.list_models()}
CLOSED = "http://127.0.0.1:9"  # nothing listens on the discard port


def environment(url: str, home: Path, **variables: str | None) -> dict[str, str]:
    """The environment of a process with its own cache and `url` as the Hub; variables set to None are removed."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "BRAINMRI_"))}
    wanted = {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_owner"} | variables
    return {k: v for k, v in (inherited | wanted).items() if v is not None}


def error_line(done: subprocess.CompletedProcess) -> str:
    """The one line that a failed command prints, without a traceback."""
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    lines = [
        line
        for line in done.stderr.splitlines()
        if line.startswith(("owner/", "other/")) or "error: " in line or " was not published" in line
    ]
    assert len(lines) == 1, done.stderr
    return lines[0]
