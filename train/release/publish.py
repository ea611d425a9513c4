"""Publish entries of the zoo, and the demo as a Space.

    python -m train.release.publish NAME… --owner OWNER [--private] [--dry-run]
    python -m train.release.publish --all --owner OWNER [--hardware NAME] [--dry-run]   # every entry, then the Space

Each entry's folder becomes the repo OWNER/NAME in one commit, tagged with the package's version. The commits are then pinned in
`brainmri/weights/hub.json`, where `brainmri.load` and the Space (`train.release.publish_space`) find them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from brainmri._version import __version__
from brainmri.zoo.entry import CARD, CONFIG, DESCRIPTION, DIAGRAM, METRICS_PAGE, PICTURE, ModelEntry, file_sha256, read_entry
from brainmri.zoo.hub import HubError
from brainmri.zoo.metrics import VARIANTS, label
from brainmri.zoo.registry import EMBEDDED, PINS
from train.release.card import SPACE, has_diagram, measured, metrics_page, model_card
from train.release.publish_space import PRIVATE_MODELS, add_space_options, pins_file, publish_space, read_pins
from train.release.upload import upload


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
    figures = {(VARIANTS[variant], label(metric)): round(value, 3) for (variant, metric), value in measured(entry).items()}
    if lacking := [name for name, value in figures.items() if shown.get(name) != value]:
        raise ValueError(
            f"{entry.name}: its card lacks {lacking[0][1]!r} ({lacking[0][0]}) as measured, and {len(lacking) - 1} more"
        )
    if files[CARD].read_text(encoding="utf-8") != model_card(entry):
        raise ValueError(f"{entry.name}: its card is not the one rendered from its {CONFIG}")
    if (files[METRICS_PAGE].read_text(encoding="utf-8") if METRICS_PAGE in files else "") != metrics_page(entry):
        raise ValueError(f"{entry.name}: its {METRICS_PAGE} is not the one rendered from its {CONFIG}")
    for shown in (PICTURE, *([DIAGRAM] if has_diagram(entry) else [])):
        if shown not in files:
            raise ValueError(f"{entry.name} lacks {shown}, which its card shows")
    return files


def publish_entry(name: str, folder: Path, owner: str, private: bool, dry_run: bool, space: str = SPACE) -> dict:
    """Publish an entry and print what was done. The card in the repo names the repo and the owner's Space, `space`.

    Returns:
        What `hub.json` stores for it: repo, revision, SHA-256 of the weights, and the names of the other checked files. After a
        dry run, the revision is that of the existing repo or a placeholder.

    Raises:
        FileNotFoundError, ValueError: if the entry is missing, incomplete or inconsistent.
        brainmri.zoo.hub.HubError: if the Hub cannot be reached or refuses.
    """
    entry = read_entry(folder / name)
    files: dict[str, Path | bytes] = {**entry_files(entry), CARD: model_card(entry, owner, space).encode()}
    done = upload(f"{owner}/{name}", files, tag=f"v{__version__}", private=private, dry_run=dry_run)
    return {"repo": done.repo, "revision": done.commit or "NEW", "sha256": entry.sha256, "files": list(entry.hashes)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="entries to publish")
    parser.add_argument("--all", action="store_true", help="publish every entry in the folder, then the Space")
    add_space_options(parser)
    parser.add_argument("--private", action="store_true", help="create the repos of the named entries private")
    parser.add_argument("--weights", type=Path, default=EMBEDDED, help="folder of entries; the commits are pinned in it")
    options = parser.parse_args(arguments)
    if bool(options.names) == options.all:
        parser.error("expected names of entries, or --all")
    if options.all and options.private:
        parser.error(f"{PRIVATE_MODELS}; name the entries instead of --all, or leave out --private")
    names = options.names or sorted(path.parent.name for path in options.weights.glob(f"*/{CONFIG}"))
    pins_path = options.weights / PINS
    pins, failed = read_pins(pins_path), False
    for name in names:
        try:
            pins[name] = publish_entry(name, options.weights, options.owner, options.private, options.dry_run, options.space)
        except (HubError, ValueError, FileNotFoundError) as error:
            print(f"{name} was not published: {error}", file=sys.stderr)
            failed = True
            continue
        if not options.dry_run:  # one by one, so that a later failure loses nothing
            pins_path.write_bytes(pins_file(pins))
    if failed or not options.all:
        return 1 if failed else 0
    try:
        publish_space(f"{options.owner}/{options.space}", pins, hardware=options.hardware, dry_run=options.dry_run)
    except (HubError, ValueError) as error:
        print(f"the Space was not published: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
