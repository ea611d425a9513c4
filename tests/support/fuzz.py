"""Feed damaged files to the readers: python -m tests.support.fuzz --runs 1000 [--seed 0] [--minutes M] [--keep DIR]

Every mutant goes through the readers in a worker process, as an upload does. A finding is any answer but a scan, a list or a
refusal, a crash, more than 10 s of computing or a minute by the clock, more than 1 GiB of memory, or a scan that breaks its
promises or whose files cannot be written.
The same seed and number make the same mutant; `--keep` takes the files of what was found.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from brainmri.io.limits import UnreadableImage
from brainmri.io.writers import write_nifti, write_segmentation
from brainmri.ui.decoding import Worker, WorkerDied
from brainmri.ui.worker import scan_from_record
from tests.support.mutants import KINDS, SUFFIX, mutant

SECONDS, CLOCK, MEMORY = 10, 60, 2**30
CALLS = ("read_slice", "list_sequences", "read_study")


def peak_memory(worker: Worker) -> int:
    """Bytes that the worker held at most; Linux only."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def computed(worker: Worker) -> float:
    """Seconds of a processor that the worker had; the clock's would depend on what else runs. Linux only."""
    return int(Path(f"/proc/{worker.process.pid}/schedstat").read_text().split()[0]) / 1e9


def broken_promise(record: dict, pixels: np.ndarray, folder: Path) -> str | None:
    """What is wrong with a scan, or with the files of a result on its grid."""
    if not (pixels.ndim in (3, 4) and pixels.shape[-1] == 3 and pixels.size):
        return f"pixels of shape {pixels.shape}"
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # false for NaN as well
        return f"pixels from {pixels.min()} to {pixels.max()}"
    geometry = scan_from_record(record, pixels).geometry
    if geometry is None:
        return None
    if geometry.axial_shape != pixels.shape[:3]:
        return f"a geometry of {geometry.axial_shape} for pixels of {pixels.shape}"
    mask = np.zeros(pixels.shape[:3], bool)
    began = time.process_time()
    try:
        write_nifti(folder / "mask.nii.gz", mask, geometry)
        if geometry.instances:
            write_segmentation(folder / "mask.dcm", mask, geometry, "fuzz")
    except UnreadableImage:
        pass  # told on the page
    except Exception as error:
        return f"its files cannot be written: {type(error).__name__}: {error}"
    took = time.process_time() - began
    return f"its files took {took:.0f} s" if took > SECONDS else None


class Fuzzer:
    """A worker and what it was found to do.

    Args:
        folder: for the mutants, one at a time.
        seed: of all of them.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.worker = Worker()
        self.runs, self.read = Counter(), Counter()  # by kind: mutants, and scans read from them

    def make(self, run: int) -> tuple[str, bytes]:
        """The mutant of a number, and its kind."""
        kind = KINDS[run % len(KINDS)]
        return kind, mutant(np.random.default_rng([self.seed, run]), kind)

    def run(self, run: int) -> list[str]:
        """What is found with the mutant of a number."""
        kind, data = self.make(run)
        path = self.folder / f"mutant{SUFFIX[kind]}"
        path.write_bytes(data)
        found = [f"{kind} {run} {call}: {finding}" for call in CALLS if (finding := self._ask(call, path, kind))]
        self.runs[kind] += 1
        return found

    def _ask(self, call: str, path: Path, kind: str) -> str | None:
        if not self.worker.fit:
            self.worker.stop()
            self.worker = Worker()
        before = computed(self.worker)
        try:
            record, pixels = self.worker.request(CLOCK, call=call, source=str(path))
        except WorkerDied as lost:
            return str(lost)
        if "failed" in record:
            return record["failed"].strip().splitlines()[-1]
        if "exhausted" in record or peak_memory(self.worker) > MEMORY:
            self.worker.stop()
            return f"more than {MEMORY / 2**30:.0f} GiB of memory ({path.stat().st_size} bytes)"
        if (took := computed(self.worker) - before) > SECONDS:
            return f"it took {took:.0f} s"
        if pixels is not None:
            self.read[kind] += 1
            return broken_promise(record["scan"], pixels, self.folder)
        return None


def fuzz(runs: range, seed: int, minutes: float = np.inf, keep: Path | None = None) -> list[str]:
    """Findings of so many runs, printed as they come, and how many there were of each kind."""
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as name:
        fuzzer = Fuzzer(Path(name), seed)
        for run in runs:
            if time.monotonic() - began > 60 * minutes:
                break
            news = fuzzer.run(run)
            if news and keep:
                keep.mkdir(parents=True, exist_ok=True)
                kind, data = fuzzer.make(run)
                (keep / f"{seed}-{run}{SUFFIX[kind]}").write_bytes(data)
            for one in news:
                print(one, flush=True)
            found += news
        fuzzer.worker.stop()
    kinds = ", ".join(f"{count} {kind}" for kind, count in fuzzer.runs.items())
    scans = ", ".join(f"{count} {kind}" for kind, count in fuzzer.read.items())
    seconds = time.monotonic() - began
    print(f"{fuzzer.runs.total()} mutants ({kinds}) in {seconds:.0f} s, seed {seed}, {len(found)} findings; scans: {scans}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=np.inf, help="end sooner")
    parser.add_argument("--keep", type=Path, help="folder for the files of what was found")
    options = parser.parse_args()
    raise SystemExit(bool(fuzz(range(options.first, options.first + options.runs), options.seed, options.minutes, options.keep)))


if __name__ == "__main__":
    main()
