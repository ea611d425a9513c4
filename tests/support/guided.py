"""Coverage-guided fuzzing of the readers: python -m tests.support.guided KIND [--runs 10000] [--seconds S] [--keep DIR] (Linux)

libFuzzer, through atheris, changes real files of a kind (`tests.support.seeds`) and continues with those that reach new
code, in this project or in the libraries that read them. The files are read in this process, not in a worker as uploads are.
A finding is an unexpected error, a run of more than 10 s, or more than 1.5 GiB of memory, including that of the process itself.
The first finding ends the run, and its file is kept in DIR. `tests.support.fuzz` checks more per file and reads files as the
page does.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["brainmri", "nibabel", "pydicom", "tifffile"]):
    from brainmri.io.limits import UnreadableImage
    from brainmri.io.reading import list_sequences, read_slice, read_study

from tests.support.seeds import KINDS, SUFFIX, seeds

SECONDS, MEMORY = 10, 1536


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=[kind for kind in KINDS if kind != "zip"])  # fuzz.py rebuilds zips
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=0, help="stop after this many seconds (default: no limit)")
    parser.add_argument("--keep", type=Path, default=Path("."), help="folder for the file with the finding")
    options = parser.parse_args()
    options.keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        corpus, path = Path(name) / "corpus", Path(name) / f"fuzzed{SUFFIX[options.kind]}"
        corpus.mkdir()
        for number, data in enumerate(seeds(options.kind)):
            (corpus / str(number)).write_bytes(data)

        def one(data: bytes) -> None:
            path.write_bytes(data)
            for read in (read_slice, list_sequences, read_study):
                try:
                    found = read(path)
                except UnreadableImage:
                    continue
                if read is not list_sequences and not (found.pixels.min() >= 0 and found.pixels.max() <= 1):
                    raise AssertionError(f"pixels from {found.pixels.min()} to {found.pixels.max()}")

        limits = [f"-timeout={SECONDS}", f"-rss_limit_mb={MEMORY}", f"-runs={options.runs}", f"-max_total_time={options.seconds}"]
        atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={options.keep}/", str(corpus)], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
