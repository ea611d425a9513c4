"""Time the demo's work: python -m train.benchmark [--segmenter NAME] [--device D] [--runs 30]

From a file's bytes to its overlay, once the networks are loaded: reading, preprocessing, networks, mask, overlay.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch

from brainmri.predict import Pipeline
from brainmri.reading import read_bytes
from brainmri.render import overlay_picture
from brainmri.zoo import DEFAULT

EXAMPLE = Path(__file__).parent.parent / "assets" / "examples" / "large-lesion.png"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segmenter", default=DEFAULT)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args(arguments)
    pipe, data = Pipeline(options.segmenter, device=options.device), EXAMPLE.read_bytes()
    milliseconds = []
    for _ in range(options.runs + 3):  # the first three warm up
        began = time.perf_counter()
        scan = read_bytes(data, EXAMPLE.name)
        overlay_picture(scan.pixels, pipe(scan).mask)
        milliseconds.append(1000 * (time.perf_counter() - began))
    kept = sorted(milliseconds[3:])
    print(
        f"{options.segmenter} on {pipe.segmenter.device.type}, {torch.get_num_threads()} threads, {options.runs} runs, 256x256: "
        f"median {statistics.median(kept):.0f} ms, fastest {kept[0]:.0f}, slowest {kept[-1]:.0f}"
    )


if __name__ == "__main__":
    main()
