"""Feed damaged files to the readers: python -m tests.support.fuzz --runs 1000 [--seed 0] [--minutes M] [--keep DIR]

Every mutant goes through the readers in a worker process, as an upload does. A finding is a response that is no scan, list or
refusal, a crash, over 10 s of CPU time or 60 s of wall time, over 1 GiB of memory, or a scan that breaks its
contract or whose result files cannot be written.
The same seed and number make the same mutant; `--keep` saves the mutants with findings.
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
from tests.support.mutants import mutant
from tests.support.seeds import KINDS, SUFFIX

SECONDS, CLOCK, MEMORY = 10, 60, 2**30
CALLS = ("read_slice", "list_sequences", "read_study")


def peak_memory(worker: Worker) -> int:
    """Peak memory of the worker in bytes; Linux only."""
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def cpu_seconds(worker: Worker) -> float:
    """CPU time of the worker; unlike wall time, it does not depend on what else runs. Linux only."""
    return int(Path(f"/proc/{worker.process.pid}/schedstat").read_text().split()[0]) / 1e9


def scan_error(record: dict, pixels: np.ndarray, folder: Path) -> str | None:
    """What is wrong with a scan or with the result files on its grid; None if nothing is."""
    if not (pixels.ndim in (3, 4) and pixels.shape[-1] == 3 and pixels.size):
        return f"pixels of shape {pixels.shape}"
    if not (pixels.min() >= 0 and pixels.max() <= 1):  # false for NaN as well
        return f"pixels from {pixels.min()} to {pixels.max()}"
    geometry = scan_from_record(record, pixels).geometry
    if geometry is None:
        return None
    if geometry.scan_shape != pixels.shape[:3]:
        return f"geometry of shape {geometry.scan_shape} for pixels of shape {pixels.shape}"
    mask = np.zeros(pixels.shape[:3], bool)
    began = time.process_time()
    try:
        write_nifti(folder / "mask.nii.gz", mask, geometry)
        if geometry.instances:
            write_segmentation(folder / "mask.dcm", mask, geometry, "fuzz")
    except UnreadableImage:
        pass  # shown on the page
    except Exception as error:
        return f"result files cannot be written: {type(error).__name__}: {error}"
    took = time.process_time() - began
    return f"result files took {took:.0f} s" if took > SECONDS else None


class Fuzzer:
    """Feeds mutants to a worker and counts them.

    Args:
        folder: where each mutant is written, one at a time.
        seed: seed shared by all mutants.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.worker = Worker()
        self.runs, self.read = Counter(), Counter()  # mutants and scans by kind

    def make(self, run: int) -> tuple[str, bytes]:
        """Kind and bytes of the mutant with this number."""
        kind = KINDS[run % len(KINDS)]
        return kind, mutant(np.random.default_rng([self.seed, run]), kind)

    def run(self, run: int) -> list[str]:
        """Findings for the mutant with this number."""
        kind, data = self.make(run)
        path = self.folder / f"mutant{SUFFIX[kind]}"
        path.write_bytes(data)
        found = [f"{kind} {run} {call}: {finding}" for call in CALLS if (finding := self._check(call, path, kind))]
        self.runs[kind] += 1
        return found

    def _check(self, call: str, path: Path, kind: str) -> str | None:
        if not self.worker.usable:
            self.worker.stop()
            self.worker = Worker()
        before = cpu_seconds(self.worker)
        try:
            record, pixels = self.worker.request(CLOCK, call=call, source=str(path))
        except WorkerDied as error:
            return str(error)
        if "failed" in record:
            return record["failed"].strip().splitlines()[-1]
        if "exhausted" in record or peak_memory(self.worker) > MEMORY:
            self.worker.stop()
            return f"more than {MEMORY / 2**30:.0f} GiB of memory ({path.stat().st_size} bytes)"
        if (took := cpu_seconds(self.worker) - before) > SECONDS:
            return f"it took {took:.0f} s"
        if pixels is not None:
            self.read[kind] += 1
            return scan_error(record["scan"], pixels, self.folder)
        return None


def fuzz(runs: range, seed: int, minutes: float = np.inf, keep: Path | None = None) -> list[str]:
    """Run the mutants with these numbers, print each finding and a summary, and return the findings."""
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory() as name:
        fuzzer = Fuzzer(Path(name), seed)
        for run in runs:
            if time.monotonic() - began > 60 * minutes:
                break
            findings = fuzzer.run(run)
            if findings and keep:
                keep.mkdir(parents=True, exist_ok=True)
                kind, data = fuzzer.make(run)
                (keep / f"{seed}-{run}{SUFFIX[kind]}").write_bytes(data)
            for finding in findings:
                print(finding, flush=True)
            found += findings
        fuzzer.worker.stop()
    kinds = ", ".join(f"{count} {kind}" for kind, count in fuzzer.runs.items())
    scans = ", ".join(f"{count} {kind}" for kind, count in fuzzer.read.items())
    seconds = time.monotonic() - began
    print(f"{fuzzer.runs.total()} mutants ({kinds}) in {seconds:.0f} s, seed {seed}, {len(found)} findings; scans: {scans}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=np.inf, help="stop after this many minutes")
    parser.add_argument("--keep", type=Path, help="folder for mutants with findings")
    options = parser.parse_args()
    raise SystemExit(bool(fuzz(range(options.first, options.first + options.runs), options.seed, options.minutes, options.keep)))


if __name__ == "__main__":
    main()
