"""The commands of the command line; `brainmri.arguments` has their arguments and help."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from brainmri.arguments import Parser, parse
from brainmri.io.extras import explain_missing
from brainmri.io.limits import describe_os_error
from brainmri.zoo import hub, registry
from brainmri.zoo.entry import WEIGHTS, ModelEntry, read_config
from brainmri.zoo.metrics import AUC, VOLUMETRIC_DICE

if TYPE_CHECKING:
    from brainmri.batch.inputs import Input

MODELS_NOTE = """Dice: volumetric, mean over patients. AUC: of the verdict, by slice. Both on patients not used for training,
for three sequences, in whole studies where measured. The models' cards have protocols and intervals."""


def output_stems(inputs: list[Input]) -> list[str]:
    """A unique output name for each input: its name without the suffix, with a number where it repeats."""
    from brainmri.batch.inputs import input_name

    taken: set[str] = set()
    stems = []
    for source in inputs:
        stem, count = input_name(source), 2
        repeated = source.stem if isinstance(source, Path) else stem
        while stem.lower() in taken:  # some file systems ignore case
            stem, count = f"{repeated}-{count}", count + 1
        taken.add(stem.lower())
        stems.append(stem)
    return stems


def predict(options: argparse.Namespace) -> int:
    """Analyse every input and every study in a folder of studies; return 1 if any failed, else 0."""
    from brainmri.batch.inputs import given_inputs
    from brainmri.batch.output_folder import check_outputs, reserve_output_folder
    from brainmri.batch.ray_engine import run_locally, run_on_ray

    if options.engine != "ray" and (options.address, options.workers) != (None, None):
        raise ValueError("--address and --workers are for --engine ray; add --engine ray or remove them")
    found = given_inputs(options.paths, options.out)
    inputs = dict(zip(output_stems(found), found, strict=True))
    check_outputs(options.paths, inputs, options.out)
    networks = {name: getattr(options, name) for name in ("segmenter", "classifier", "device", "from_hub")}
    networks["runtime"] = registry.requested_runtime(options.runtime)  # of this process, for all workers
    networks["mask_threshold"] = options.threshold
    if options.engine == "ray":
        engine = run_on_ray(inputs, options.out, networks, options.address, options.workers, options.sequence)
    else:
        progress = show_slices() if len(inputs) == 1 else None
        engine = run_locally(inputs, options.out, networks, options.sequence, progress)
    with reserve_output_folder(options.out):
        rows = _report_rows(engine, inputs, options.out, options.json)
    failed = sum(row["status"] == "failed" for row in rows)
    if failed:
        others = f"; the results of the others are in {options.out}" if failed < len(rows) else ""
        print(f"{failed} of {len(rows)} inputs failed{others}", file=sys.stderr)
    elif not options.json:
        print(f"results are in {options.out}", file=sys.stderr)
    return 1 if failed else 0


def show_slices() -> Callable[[int, int], None]:
    """A progress bar over the slices of a study, as a function to call with the numbers of finished slices and of all."""
    from tqdm import tqdm

    bar = tqdm(unit="slice", leave=False, disable=None, delay=1e-3)  # with a delay, it appears with the first slices

    def show(done: int, total: int) -> None:
        if done <= bar.n:  # the next network, or the next study of the input
            bar.reset()
        bar.total = total
        bar.update(done - bar.n)
        if done == total:
            bar.clear()

    return show


def _report_rows(engine: Iterator[dict], inputs: dict[str, Input], out: Path, as_json: bool) -> list[dict]:
    """Print each row as it comes, and write the table of studies; return the rows."""
    from tqdm import tqdm

    from brainmri.batch.cohort import write_table
    from brainmri.batch.inputs import describe_input

    rows = {}
    try:
        for row in tqdm(engine, total=len(inputs), unit="input", disable=True if len(inputs) == 1 else None):
            name, _, part = row["input"].partition("/")  # an input of several studies has a row for each
            path = describe_input(inputs[name]) + (f" ({part})" if part else "")
            rows[row["input"]] = row
            if as_json:
                tqdm.write(json.dumps({"path": path} | row))
            elif row["status"] == "failed":
                tqdm.write(f"{path}: {row['problem']}", file=sys.stderr)
            else:
                before = " (done before)" if row["status"] == "done before" else ""
                tqdm.write(f"{path}: {row['verdict']}, {outlined(row)}{before}. {row['reason']}")
    finally:  # the table is also written if the run is stopped
        if any(row["kind"] == "study" for row in rows.values()):
            order = {name: number for number, name in enumerate(inputs)}
            write_table(sorted(rows.values(), key=lambda row: order[row["input"].partition("/")[0]]), out)
    return list(rows.values())


def outlined(row: dict) -> str:
    """How much is outlined, in a few words."""
    from brainmri.analysis.findings import count

    if not row["lesion_voxels"]:
        return "nothing outlined"
    if row["lesion_volume_ml"] is not None:
        return f"{row['lesion_volume_ml']:.1f} mL outlined"
    return f"{count(row['lesion_voxels'], 'pixel' if row['kind'] == 'slice' else 'voxel')} outlined"


def serve(options: argparse.Namespace) -> int:
    """Serve the web page until the process is stopped."""
    try:
        from brainmri.ui import page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError(explain_missing("the page", "Gradio", "app")) from None
    page.run(options.models, options.device, options.from_hub)
    return 0


def models(options: argparse.Namespace) -> int:
    """List the zoo, as a table or as JSON."""
    entries = [*registry.list_models(), *(registry.find_entry(source) for source in options.sources)]
    if options.json:
        rows = [
            {**registry.describe(e), "metrics": read_config(e.folder)["metrics"], "default": e.name == registry.DEFAULT}
            for e in entries
        ]
        print(json.dumps(rows, indent=2))
    else:
        print(format_models(entries))
    return 0


def format_models(entries: list[ModelEntry]) -> str:
    """A table of models in aligned columns."""
    from brainmri.report.overview import headline, input_names, output_names

    table = [("model", "gives", "input", "Dice", "AUC", "MB", "licence")]
    for entry in entries:
        table.append((
            f"{entry.name} (default)" if entry.name == registry.DEFAULT else entry.name,
            output_names(entry),
            input_names(entry),
            headline(entry, VOLUMETRIC_DICE),
            headline(entry, AUC),
            f"{(entry.folder / WEIGHTS).stat().st_size / 1e6:.0f}",
            registry.licence(entry) or "unknown",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([*lines, "", MODELS_NOTE])


def download(options: argparse.Namespace) -> int:
    """Download entries from the Hub into the local cache; return 1 if any failed, else 0.

    Entries that are not published need no download if they are embedded.
    """
    embedded, published = registry.embedded(), registry.pins()
    names = options.names or (registry.list_names() if options.all else [registry.DEFAULT])
    failed = False
    for name in names:
        if name in embedded and name not in published and not os.environ.get(registry.OWNER):
            print(f"{name}: not published on the Hub; the embedded copy is used, in {embedded[name].folder}")
            continue
        try:
            entry = registry.pull(name, options.revision)
        except (ValueError, hub.HubError) as error:
            failed = True
            print(f"{name}: {error}", file=sys.stderr)
            continue
        size = (entry.folder / WEIGHTS).stat().st_size
        print(f"{name}: {size / 1e6:.1f} MB, SHA-256 {entry.sha256[:12]}…, in {entry.folder}")
    return 1 if failed else 0


def check(options: argparse.Namespace) -> int:
    """Verify every entry on the bundled slice; return 1 if any output differs from the stored one, else 0."""
    from brainmri.analysis import selfcheck
    from brainmri.zoo.backends import AUTO, create_backend

    checks = []
    for name in options.names or registry.list_names(options.from_hub):
        model = registry.load(name, device=options.device, from_hub=options.from_hub)
        checks.append(selfcheck.check(model))
        fastest = create_backend(model.entry, model.net, model.device, model.ood, AUTO)  # what the page runs
        if fastest.kind != checks[-1].runtime:
            checks.append(selfcheck.check(replace(model, backend=fastest)))
    for found in checks:
        print(found.sentence)
    return 0 if all(found.passed for found in checks) else 1


def bench(options: argparse.Namespace) -> int:
    """Time networks on every available backend and on plain PyTorch."""
    from brainmri import bench as benchmark

    names = options.names or sorted(registry.embedded(), key=lambda name: name != registry.DEFAULT)
    found = benchmark.measure(names, options.device, options.runs, partial(print, flush=True))
    benchmark.write_results(found, options.out, options.chart)
    return 0


COMMANDS = {"serve": serve, "predict": predict, "models": models, "download": download, "check": check, "bench": bench}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit status.

    Raises:
        SystemExit: after help or version, and for wrong arguments, after a line that says why.
    """
    options = parse(arguments)
    parser: Parser = options.parser
    try:
        return COMMANDS[options.command](options)
    except OSError as error:  # a folder that cannot be read or written
        parser.error(describe_os_error(error))
    except (ValueError, hub.HubError) as error:  # unknown model or device, Hub unavailable
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
