"""Many visitors at once: python -m tests.support.load [--visitors 50] [--seconds 120] [--studies 0.1] [--crowds 2]

Serves the page in a separate process and sends requests of many visitors to it. Every visitor uploads different slices and
studies, and every result is compared with its upload, which reveals results that were sent to the wrong visitor. Visitors come in
several crowds with a pause after each, to distinguish warm-up from a memory leak. Prints a table; exits with 1 if a result was
lost or mixed up, or if a request failed for another reason than a full queue.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import psutil
from gradio_client import Client, handle_file
from gradio_client.utils import QueueError
from PIL import Image

from tests.support.serving import ROOT, served

EXAMPLES = ROOT / "assets" / "examples"
STUDY_SLICES = 8
KEEP, SWEEP = 90, 5  # seconds; the page's defaults are minutes, too long for a test
SERVE = f"from brainmri.ui import page; page.MAX_FILE_AGE, page.CLEANUP_INTERVAL = {KEEP}, {SWEEP}; page.run([], 'auto')"


@dataclass
class Tally:
    """Counts over all visits."""

    outcomes: Counter = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"slice": [], "study": []})
    waited: int = 0
    failures: list[str] = field(default_factory=list)


def resident(process: subprocess.Popen) -> int:
    """Resident memory of a process and its children in bytes."""
    parent = psutil.Process(process.pid)
    return sum(p.memory_info().rss for p in [parent, *parent.children(recursive=True)])


def files_in(folder: Path) -> int:
    return sum(len(files) for *_, files in os.walk(folder))


def make_slice(generator: np.random.Generator, path: Path) -> Path:
    """Save an example slice with noise, so that every upload is different."""
    examples = sorted(EXAMPLES.glob("*.png"))
    pixels = np.asarray(Image.open(examples[generator.integers(len(examples))]).convert("RGB")).astype(np.int16)
    noisy = np.clip(pixels + generator.integers(-3, 4, pixels.shape), 0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(path)
    return path


def make_study(generator: np.random.Generator, path: Path) -> Path:
    """Save some slices of the example volume with noise."""
    image = nibabel.load(EXAMPLES / "study-flair.nii.gz")
    first = int(generator.integers(image.shape[2] - STUDY_SLICES))
    part = np.asarray(image.dataobj)[:, :, first : first + STUDY_SLICES].astype(np.int16)
    noisy = np.clip(part + generator.integers(-3, 4, part.shape), 0, None).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(noisy, image.affine), path)
    return path


def visit(client: Client, kind: str, path: Path, tally: Tally) -> None:
    """Send one file, wait for the result, and check that it belongs to this file."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    began = time.perf_counter()
    sent = handle_file(path)
    try:
        job = client.submit(sent if kind == "slice" else [sent], api_name="/predict" if kind == "slice" else "/study")
        while not job.done():
            if (job.status().rank or 0) > 0:
                tally.waited += 1
                break
            time.sleep(0.25)  # the visitors share the cores with the server
        record, *rest = job.result()
    except QueueError:  # the queue is full
        tally.outcomes["refused"] += 1
        return
    except Exception as error:
        tally.failures.append(f"{kind}: {type(error).__name__}: {error}")
        return
    tally.seconds[kind].append(time.perf_counter() - began)
    mixed = record["provenance"]["input"]["sha256"] != digest
    if kind == "slice":
        mask = np.asarray(Image.open(io.BytesIO(Path(rest[1]).read_bytes())))
        mixed |= np.count_nonzero(mask) != record["area_px"] or Path(rest[1]).name != f"{path.stem}.mask.png"
    tally.outcomes["mixed up" if mixed else "answered"] += 1


async def visitor(number: int, url: str, share: float, until: float, folder: Path, tally: Tally) -> None:
    """Send one file after the other, with pauses, until the time is over."""
    generator = np.random.default_rng(number)
    home = folder / str(number)
    home.mkdir(parents=True)
    client = await asyncio.to_thread(
        Client, url, verbose=False, analytics_enabled=False, download_files=str(home / "downloads"), httpx_kwargs={"timeout": 120}
    )
    turn = 0
    while time.perf_counter() < until:
        kind = "study" if generator.random() < share else "slice"
        make, suffix = (make_study, ".nii.gz") if kind == "study" else (make_slice, ".png")
        path = make(generator, home / f"visitor{number}-{turn}{suffix}")
        await asyncio.to_thread(visit, client, kind, path, tally)
        await asyncio.sleep(generator.uniform(1, 3))
        turn += 1


async def crowd(url: str, visitors: int, seconds: float, share: float, folder: Path, tally: Tally) -> None:
    """Run all visitors at the same time."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(visitors))
    until = time.perf_counter() + seconds
    await asyncio.gather(*(visitor(n, url, share, until, folder, tally) for n in range(visitors)))


def run(visitors: int, seconds: float, share: float, crowds: int) -> tuple[Tally, dict]:
    """Serve the page, warm it up, send the crowds, and wait after each until the page is idle again.

    Returns:
        The tally, and a dictionary: resident bytes of the idle page `before` and `after` each crowd and at the `peak`, and the
        number of temporary files `left` after they should have been deleted.
    """
    with tempfile.TemporaryDirectory() as home, served(Path(home), "-c", SERVE) as (process, url, _):
        at_start = files_in(Path(home) / "cache")  # the examples'
        asyncio.run(crowd(url, min(visitors, 4), min(seconds, 15), 0.5, Path(home) / "warm", Tally()))
        tally, measured = Tally(), {"before": resident(process), "peak": 0, "after": []}

        async def watched(number: int) -> None:
            task = asyncio.create_task(crowd(url, visitors, seconds, share, Path(home) / f"crowd-{number}", tally))
            while not task.done():
                measured["peak"] = max(measured["peak"], resident(process))
                await asyncio.sleep(0.5)
            await task

        for number in range(crowds):
            asyncio.run(watched(number))
            time.sleep(KEEP + 3 * SWEEP)
            measured["after"].append(resident(process))
        measured["left"] = files_in(Path(home) / "cache") - at_start
    return tally, measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--visitors", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--studies", type=float, default=0.1, help=f"share of visits with a study of {STUDY_SLICES} slices")
    parser.add_argument("--crowds", type=int, default=2, help="number of crowds, one after the other")
    options = parser.parse_args()
    tally, measured = run(options.visitors, options.seconds, options.studies, options.crowds)
    print(f"{options.crowds} times {options.visitors} visitors for {options.seconds:.0f} s, {os.cpu_count()} cores")
    for outcome in ("answered", "refused", "mixed up"):
        print(f"{outcome:<12}{tally.outcomes[outcome]:>8}")
    print(f"{'queued':<12}{tally.waited:>8}")
    for kind, times in tally.seconds.items():
        if times:
            print(f"{kind}: median {np.median(times):.1f} s, 95th percentile {np.percentile(times, 95):.1f} s")
    rests = ", ".join(f"{size / 2**20:.0f}" for size in (measured["before"], *measured["after"]))
    print(f"memory: idle before and after each crowd {rests} MiB, peak {measured['peak'] / 2**20:.0f} MiB")
    print(f"temporary files left {KEEP + 3 * SWEEP} s later: {measured['left']}")
    for failure in tally.failures[:20]:
        print("FAILED", failure)
    sys.exit(bool(tally.failures or tally.outcomes["mixed up"] or measured["left"]))


if __name__ == "__main__":
    main()
