"""The command line: python -m brainmri predict PATH… --out DIR, models, download, check, bench."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from brainmri.zoo import hub, registry
from brainmri.zoo.entry import WEIGHTS


def output_stems(paths: list[Path]) -> list[str]:
    """A name of its own for each input's outputs: its name without the suffix, numbered from the second of the same on."""
    taken: set[str] = set()
    stems = []
    for path in paths:
        stem, count = path.name if path.is_dir() else path.stem.removesuffix(".nii"), 2
        while stem.lower() in taken:  # some file systems don't tell case apart
            stem, count = f"{path.stem}-{count}", count + 1
        taken.add(stem.lower())
        stems.append(stem)
    return stems


def predict(options: argparse.Namespace) -> int:
    """Analyse every input, and every study in a folder of them; 1 when any of them failed, 0 else."""
    from tqdm import tqdm

    from brainmri.analysis.findings import percent
    from brainmri.batch.cohort import find_inputs, write_table
    from brainmri.batch.ray_engine import run_locally, run_on_ray

    if options.engine != "ray" and (options.address, options.workers) != (None, None):
        raise ValueError("--address and --workers are for --engine ray; the local engine is one worker on this machine")
    options.out.mkdir(parents=True, exist_ok=True)
    paths = [path for given in options.paths for path in find_inputs(given) if path.resolve() != options.out.resolve()]
    if not paths:
        raise ValueError(f"expected inputs, got only {options.out}, the folder for the results; add files or folders")
    inputs = dict(zip(output_stems(paths), paths, strict=True))
    networks = {"segmenter": options.segmenter, "classifier": options.classifier, "device": options.device}
    if options.engine == "ray":
        engine = run_on_ray(inputs, options.out, networks, options.address, options.workers)
    else:
        engine = run_locally(inputs, options.out, networks)
    rows = {}
    try:
        for row in tqdm(engine, total=len(inputs), unit="input", disable=len(inputs) == 1):
            path = inputs[row["input"]]
            rows[row["input"]] = row
            if row["status"] == "failed":
                tqdm.write(f"{path}: {row['problem']}", file=sys.stderr)
            else:
                before = " (done before)" if row["status"] == "done before" else ""
                size = f"{row['lesion_volume_ml']:.1f} mL" if row["lesion_volume_ml"] else f"{row['lesion_voxels']} pixels"
                sure = "" if row["probability"] is None else f" ({percent(row['probability'])} for tumour)"
                tqdm.write(f"{path}: {row['verdict']}{sure}, {size} outlined{before}")
    finally:  # what is done stays told when somebody stops it
        if any(row["kind"] == "study" for row in rows.values()):
            write_table([rows[name] for name in inputs if name in rows], options.out)
    failed = sum(row["status"] == "failed" for row in rows.values())
    if failed:
        print(f"{failed} of {len(inputs)} inputs failed; the others are in {options.out}", file=sys.stderr)
    return 1 if failed else 0


def models(options: argparse.Namespace) -> int:
    """List the zoo, as a table or as JSON."""
    entries = [*registry.list_models(), *(registry.find_entry(source) for source in options.sources)]
    if options.json:
        rows = [{**registry.describe(e), "metrics": e.metrics, "default": e.name == registry.DEFAULT} for e in entries]
        print(json.dumps(rows, indent=2))
    else:
        for e in entries:
            default = "  (default)" if e.name == registry.DEFAULT else ""
            print(f"{e.name:16} {' + '.join(e.tasks):30} {e.parameters / 1e6:6.2f} M  {e.summary}{default}")
    return 0


def download(options: argparse.Namespace) -> int:
    """Pull entries from the Hub into the local cache; 1 when any of them could not be had, 0 else."""
    names = options.names or (sorted({*registry.embedded(), *registry.pins()}) if options.all else [registry.DEFAULT])
    failed = False
    for name in names:
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
    """Answer the bundled slice with every entry; 1 when any of them drifted from its stored answer, 0 else."""
    from brainmri.analysis import selfcheck

    names = options.names or sorted({*registry.embedded(), *registry.pins()})
    checks = []
    for name in names:
        model = registry.load(name, device=options.device)
        checks.append(selfcheck.check(model))
        model.backend.select_fastest()
        if model.backend.kind != checks[-1].runtime:
            checks.append(selfcheck.check(model))
    for found in checks:
        print(found.sentence)
    return 0 if all(found.well for found in checks) else 1


def bench(options: argparse.Namespace) -> int:
    """Time every runtime of some networks beside plain PyTorch."""
    from brainmri import bench as benchmark

    if options.runs < 1:
        raise ValueError(f"{options.runs} runs were asked for; at least one makes a median")
    names = options.names or sorted(registry.embedded(), key=lambda name: name != registry.DEFAULT)
    found = benchmark.measure(names, options.device, options.runs)
    print(benchmark.table(found))
    benchmark.write(found, options.out, options.chart)
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m brainmri", description="Brain-tumour MRI: research demo, not a medical device."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("predict", help="verdict, mask and overlay for slices and whole studies")
    run.add_argument(
        "paths", nargs="+", type=Path, metavar="PATH", help="slices; studies as files, folders or zips; folders of studies"
    )
    run.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for <stem>.mask.png, <stem>.overlay.png, <stem>.finding.json of slices, a folder <stem> for each study",
    )
    run.add_argument("--segmenter", help=f"zoo entry, folder or OWNER/NAME for the mask (default {registry.DEFAULT})")
    run.add_argument("--classifier", help="the same for the verdict (default: the segmenter's own head, or the default's)")
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    run.add_argument("--engine", choices=("local", "ray"), default="local", help="one input after the other, or a Ray cluster")
    run.add_argument("--address", help="of a running Ray cluster, or auto (default: one of this machine's cores, for this run)")
    run.add_argument("--workers", type=int, metavar="N", help="Ray actors (default: one a CPU; where there are GPUs, four a GPU)")
    run.set_defaults(run=predict)
    listing = commands.add_parser("models", help="list the zoo")
    listing.add_argument("sources", nargs="*", metavar="DIR_OR_REPO", help="more entries: folders, OWNER/NAME on the Hub")
    listing.add_argument("--json", action="store_true")
    listing.set_defaults(run=models)
    pulling = commands.add_parser("download", help="pull entries from the Hugging Face Hub into its local cache")
    pulling.add_argument("names", nargs="*", metavar="NAME", help=f"entry, or OWNER/NAME (default {registry.DEFAULT})")
    pulling.add_argument("--all", action="store_true", help="every entry of the zoo")
    pulling.add_argument("--revision", help="commit, tag or branch instead of the pinned commit")
    pulling.set_defaults(run=download)
    checking = commands.add_parser("check", help="verify model outputs on this machine")
    checking.add_argument("names", nargs="*", metavar="NAME", help="entry, folder or OWNER/NAME (default: the whole zoo)")
    checking.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    checking.set_defaults(run=check)
    timing = commands.add_parser("bench", help="how fast is it on this machine, by each runtime?")
    timing.add_argument("names", nargs="*", metavar="NAME", help="entry, folder or OWNER/NAME (default: what is embedded)")
    timing.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    timing.add_argument("--runs", type=int, default=24, help="of a slice; fewer of what takes long")
    timing.add_argument("--out", type=Path, help="where the figures go as JSON")
    timing.add_argument("--chart", type=Path, help="where a chart goes as SVG")
    timing.set_defaults(run=bench)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, FileNotFoundError, hub.HubError) as error:  # an unknown model or device, a Hub that does not answer
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
