"""Time the demo's work: python -m train.benchmark [--segmenter NAME] [--device D] [--runs 30]

Once the networks are loaded: a slice from a file's bytes to its overlay, and a study of 60 slices from its file to the
finding, and to all the files of it on the disk.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import torch

from brainmri.outputs import write_study
from brainmri.predict import Pipeline
from brainmri.reading import read_bytes, read_study
from brainmri.render import overlay_picture
from brainmri.zoo import DEFAULT

EXAMPLES = Path(__file__).parent.parent / "assets" / "examples"
SLICES = 60


def timed(work: Callable[[], object], runs: int) -> list[float]:
    """Seconds of each run, in order of length; three more before them warm up."""
    seconds = []
    for _ in range(runs + 3):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return sorted(seconds[3:])


def long_study(folder: Path, slices: int = SLICES) -> Path:
    """The example study with as many slices, repeated or left out."""
    example = nibabel.load(EXAMPLES / "study-flair.nii.gz")
    volume = np.asarray(example.dataobj)
    volume = volume[..., np.arange(slices) * volume.shape[2] // slices]
    path = folder / "flair.nii.gz"
    nibabel.save(nibabel.Nifti1Image(volume, example.affine), path)
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segmenter", default=DEFAULT)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=30, help="of the slice; the study takes a tenth of them")
    options = parser.parse_args(arguments)
    pipe = Pipeline(options.segmenter, device=options.device)
    data = (EXAMPLES / "large-lesion.png").read_bytes()

    def one_slice() -> None:
        scan = read_bytes(data, "large-lesion.png")
        overlay_picture(scan.pixels, pipe(scan).mask)

    print(f"{options.segmenter} on {pipe.segmenter.device.type}, {torch.get_num_threads()} threads")
    kept = timed(one_slice, options.runs)
    median = statistics.median(kept)
    print(f"slice of 256x256, {options.runs} runs: median {median:.3f} s, fastest {kept[0]:.3f}, slowest {kept[-1]:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        path, out = long_study(Path(folder)), Path(folder) / "out"

        def whole() -> None:
            scan = read_study(path)
            write_study(scan, pipe.study(scan), out)

        for words, work in (("to its finding", lambda: pipe.study(path)), ("to all its files", whole)):
            kept = timed(work, max(1, options.runs // 10))
            median = statistics.median(kept)
            print(f"study of {SLICES} slices {words}, {len(kept)} runs: median {median:.2f} s, slowest {kept[-1]:.2f}")


if __name__ == "__main__":
    main()
