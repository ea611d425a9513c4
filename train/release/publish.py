"""Publish entries of the zoo: python -m train.release.publish NAME… --owner OWNER [--private] [--dry-run]

Each entry's folder becomes the repo OWNER/NAME in one commit, tagged with the package's version. The commits are then pinned in
`brainmri/weights/hub.json`, where `brainmri.load` and the Space find them.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from brainmri._version import __version__
from brainmri.zoo.entry import CARD, CONFIG, DESCRIPTION, DIAGRAM, ModelEntry, file_sha256, read_entry
from brainmri.zoo.hub import HubError, Published, publish
from brainmri.zoo.metrics import VARIANTS, label
from brainmri.zoo.registry import EMBEDDED, PINS
from train.release.card import has_diagram, measured, model_card


def entry_files(entry: ModelEntry) -> dict[str, Path]:
    """The files of an entry's repo, checked against each other.

    Raises:
        ValueError: when a file is missing, does not match the configuration, or the card does not match the entry.
    """
    files = entry.files
    if missing := {*DESCRIPTION, *entry.hashes} - set(files):
        raise ValueError(f"{entry.name} lacks {', '.join(sorted(missing))}")
    for name, sha256 in entry.hashes.items():
        if file_sha256(files[name]) != sha256:
            raise ValueError(f"{entry.name}: {name} does not have the SHA-256 that {CONFIG} names")
    if entry.metrics is None:
        raise ValueError(f"{entry.name} was not measured; run train.release.release first")
    data = ModelCard.load(files[CARD]).data
    results = (data.eval_results if isinstance(data, ModelCardData) else None) or []
    shown = {(result.dataset_config, result.metric_name): result.metric_value for result in results}
    figures = {(VARIANTS[variant], label(metric)): value for (variant, metric), value in measured(entry).items()}
    if lacking := [name for name, value in figures.items() if shown.get(name) != value]:
        raise ValueError(
            f"{entry.name}: its card lacks {lacking[0][1]!r} ({lacking[0][0]}) as measured, and {len(lacking) - 1} more"
        )
    if files[CARD].read_text(encoding="utf-8") != model_card(entry):
        raise ValueError(f"{entry.name}: its card is not the one rendered from its {CONFIG}")
    if has_diagram(entry) and DIAGRAM not in files:
        raise ValueError(f"{entry.name} lacks {DIAGRAM}, which its card shows")
    return files


def report(done: Published, sizes: dict[str, int], dry_run: bool) -> str:
    """A summary in a few lines."""
    verb = "would upload" if dry_run else "uploaded"
    lines = [f"{done.repo}: " + (f"commit {done.commit}" if done.commit else "no commit yet")]
    lines += [f"  {verb} {path} ({sizes[path] / 1e6:.2f} MB)" for path in done.sent]
    lines += [f"  {'would remove' if dry_run else 'removed'} {path}" for path in done.removed]
    if done.kept:
        lines.append(f"  already there: {', '.join(done.kept)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries to publish")
    parser.add_argument("--all", action="store_true", help="publish every entry in the folder")
    parser.add_argument("--owner", required=True, help="user or organisation on the Hub")
    parser.add_argument("--private", action="store_true", help="create the repos private")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    parser.add_argument("--weights", type=Path, default=EMBEDDED, help="folder of entries; the commits are pinned in it")
    options = parser.parse_args(arguments)
    if bool(options.names) == options.all:
        parser.error("expected names of entries, or --all")
    names = options.names or sorted(path.parent.name for path in options.weights.glob(f"*/{CONFIG}"))
    pins_path = options.weights / PINS
    pins = json.loads(pins_path.read_text(encoding="utf-8")) if pins_path.is_file() else {}
    failed = False
    for name in names:
        try:
            entry = read_entry(options.weights / name)
            files = entry_files(entry)
            done = publish(
                f"{options.owner}/{name}", {**files}, tag=f"v{__version__}", private=options.private, dry_run=options.dry_run
            )
        except (HubError, ValueError, FileNotFoundError) as error:
            print(f"{name} was not published: {error}", file=sys.stderr)
            failed = True
            continue
        print(report(done, {path: file.stat().st_size for path, file in files.items()}, options.dry_run))
        if not options.dry_run:  # one by one, so that a later failure loses nothing
            pins[name] = {"repo": done.repo, "revision": done.commit, "sha256": entry.sha256, "files": list(entry.hashes)}
            pins_path.write_text(json.dumps(pins, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
