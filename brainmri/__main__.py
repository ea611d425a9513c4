"""Command line: brainmri {serve, predict, models, download, check, bench}."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from brainmri.io.extras import explain_missing
from brainmri.io.limits import describe_os_error
from brainmri.zoo import hub, registry
from brainmri.zoo.attributes import SEQUENCES, THREE_SEQUENCES
from brainmri.zoo.entry import WEIGHTS, read_config

FROM_HUB = "take the zoo's weights from the Hub or its cache, never the embedded copies"


def output_stems(paths: list[Path]) -> list[str]:
    """A unique output name for each input: its name without the suffix, with a number where it repeats."""
    taken: set[str] = set()
    stems = []
    for path in paths:
        stem, count = path.resolve().name if path.is_dir() else path.stem.removesuffix(".nii"), 2
        while stem.lower() in taken:  # some file systems ignore case
            stem, count = f"{path.stem}-{count}", count + 1
        taken.add(stem.lower())
        stems.append(stem)
    return stems


def predict(options: argparse.Namespace) -> int:
    """Analyse every input and every study in a folder of studies; return 1 if any failed, else 0."""
    from brainmri.batch.cohort import find_inputs
    from brainmri.batch.output_folder import check_outputs, reserve_output_folder
    from brainmri.batch.ray_engine import run_locally, run_on_ray

    if options.engine != "ray" and (options.address, options.workers) != (None, None):
        raise ValueError("--address and --workers are for --engine ray; add --engine ray or remove them")
    paths = [path for given in options.paths for path in find_inputs(given, options.out)]
    inputs = dict(zip(output_stems(paths), paths, strict=True))
    check_outputs(options.paths, inputs, options.out)
    networks = {name: getattr(options, name) for name in ("segmenter", "classifier", "device", "from_hub")}
    networks["runtime"] = registry.requested_runtime(options.runtime)  # of this process, for all workers
    if options.engine == "ray":
        engine = run_on_ray(inputs, options.out, networks, options.address, options.workers, options.sequence)
    else:
        engine = run_locally(inputs, options.out, networks, options.sequence)
    with reserve_output_folder(options.out):
        rows = _report_rows(engine, inputs, options.out)
    failed = sum(row["status"] == "failed" for row in rows)
    if failed:
        print(f"{failed} of {len(rows)} inputs failed; the others are in {options.out}", file=sys.stderr)
    return 1 if failed else 0


def _report_rows(engine: Iterator[dict], inputs: dict[str, Path], out: Path) -> list[dict]:
    """Print each row as it comes, and write the table of studies; return the rows."""
    from tqdm import tqdm

    from brainmri.analysis.findings import percent
    from brainmri.batch.cohort import write_table

    rows = {}
    try:
        for row in tqdm(engine, total=len(inputs), unit="input", disable=len(inputs) == 1):
            name, _, part = row["input"].partition("/")  # an input of several studies has a row for each
            path = f"{inputs[name]} ({part})" if part else inputs[name]
            rows[row["input"]] = row
            if row["status"] == "failed":
                tqdm.write(f"{path}: {row['problem']}", file=sys.stderr)
            else:
                before = " (done before)" if row["status"] == "done before" else ""
                size = f"{row['lesion_volume_ml']:.1f} mL" if row["lesion_volume_ml"] else f"{row['lesion_voxels']} pixels"
                probability = "" if row["probability"] is None else f" ({percent(row['probability'])} for tumour)"
                tqdm.write(f"{path}: {row['verdict']}{probability}, {size} outlined{before}")
    finally:  # the table is also written if the run is stopped
        if any(row["kind"] == "study" for row in rows.values()):
            order = {name: number for number, name in enumerate(inputs)}
            write_table(sorted(rows.values(), key=lambda row: order[row["input"].partition("/")[0]]), out)
    return list(rows.values())


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
        for e in entries:
            default = "  (default)" if e.name == registry.DEFAULT else ""
            print(f"{e.name:16} {' + '.join(e.tasks):30} {e.parameters / 1e6:6.2f} M  {e.summary}{default}")
    return 0


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

    if options.runs < 1:
        raise ValueError(f"expected at least 1 run, got {options.runs}; change --runs")
    names = options.names or sorted(registry.embedded(), key=lambda name: name != registry.DEFAULT)
    found = benchmark.measure(names, options.device, options.runs)
    print(benchmark.format_table(found))
    benchmark.write_results(found, options.out, options.chart)
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="brainmri", description="Brain-tumour MRI: research demo, not a medical device.")
    commands = parser.add_subparsers(dest="command")
    serving = commands.add_parser("serve", help="serve the web page (the default)")
    serving.add_argument(
        "--models", nargs="*", default=[], metavar="DIR_OR_REPO", help="additional models: local folders or OWNER/NAME on the Hub"
    )
    serving.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto, or BRAINMRI_DEVICE)")
    serving.add_argument("--from-hub", action="store_true", help=FROM_HUB)
    serving.set_defaults(run=serve)
    run = commands.add_parser("predict", help="write verdict, mask and overlay for slices and studies")
    run.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="slices; studies as files, folders or zips; folders of studies"
    )
    run.add_argument(
        "--out",
        type=Path,
        required=True,
        help="output folder: <stem>.mask.png, .overlay.png and .finding.json for a slice, a folder <stem> for a study",
    )
    run.add_argument(
        "--segmenter", help=f"model for the mask: zoo entry, folder or OWNER/NAME on the Hub (default: {registry.DEFAULT})"
    )
    run.add_argument(
        "--classifier", help="model for the verdict (default: the segmenter if it classifies too, else the default model)"
    )
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto, or BRAINMRI_DEVICE)")
    run.add_argument("--from-hub", action="store_true", help=FROM_HUB)
    run.add_argument(
        "--sequence",
        choices=[name for name in SEQUENCES if name != THREE_SEQUENCES],
        help="MR sequence of greyscale slices and of studies with a single sequence (default: recognise it)",
    )
    run.add_argument(
        "--runtime", help="auto (fastest), torch (float32), half, compiled, openvino, int8 (default: torch, or BRAINMRI_RUNTIME)"
    )
    run.add_argument("--engine", choices=("local", "ray"), default="local", help="local: one input at a time; ray: a Ray cluster")
    run.add_argument("--address", help="address of a running Ray cluster, or auto (default: start one on this machine)")
    run.add_argument("--workers", type=int, metavar="N", help="number of Ray actors (default: one per CPU, or four per GPU)")
    run.set_defaults(run=predict)
    listing = commands.add_parser("models", help="list the models")
    listing.add_argument("sources", nargs="*", metavar="DIR_OR_REPO", help="also list this folder or OWNER/NAME on the Hub")
    listing.add_argument("--json", action="store_true", help="print JSON with all metrics")
    listing.set_defaults(run=models)
    pulling = commands.add_parser("download", help="download models from the Hugging Face Hub into its local cache")
    pulling.add_argument(
        "names", nargs="*", metavar="NAME", help=f"zoo entry or OWNER/NAME on the Hub (default: {registry.DEFAULT})"
    )
    pulling.add_argument("--all", action="store_true", help="download every entry of the zoo")
    pulling.add_argument("--revision", help="commit, tag or branch instead of the pinned commit")
    pulling.set_defaults(run=download)
    checking = commands.add_parser("check", help="verify model outputs on this machine")
    checking.add_argument(
        "names", nargs="*", metavar="NAME", help="zoo entry, folder or OWNER/NAME on the Hub (default: all entries)"
    )
    checking.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto, or BRAINMRI_DEVICE)")
    checking.add_argument("--from-hub", action="store_true", help=FROM_HUB)
    checking.set_defaults(run=check)
    timing = commands.add_parser("bench", help="benchmark the inference backends on this machine")
    timing.add_argument(
        "names", nargs="*", metavar="NAME", help="zoo entry, folder or OWNER/NAME on the Hub (default: all included entries)"
    )
    timing.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto, or BRAINMRI_DEVICE)")
    timing.add_argument("--runs", type=int, default=24, help="runs for a median; slow tasks use fewer (default: 24)")
    timing.add_argument("--out", type=Path, help="write the figures to this JSON file")
    timing.add_argument("--chart", type=Path, help="write a chart to this SVG file")
    timing.set_defaults(run=bench)
    options = parser.parse_args(arguments)
    if options.command is None:
        options = parser.parse_args(["serve"])
    try:
        return options.run(options)
    except OSError as error:  # a folder that cannot be read or written
        parser.error(describe_os_error(error))
    except (ValueError, hub.HubError) as error:  # unknown model or device, Hub unavailable
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
