"""Publish the demo as a Gradio Space: python -m train.release.publish_space --owner OWNER [--name NAME] [--private] [--dry-run]

The Space holds the page and the package without weights. Its front matter preloads the published entries from the Hub at the
commits pinned by `train.release.publish`, so a new release of the weights needs a new commit of the Space.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from huggingface_hub import RepoCard

from brainmri.zoo.entry import DESCRIPTION
from brainmri.zoo.hub import HubError, publish
from brainmri.zoo.registry import DEFAULT, EMBEDDED, PINS
from train.release.publish import report

ROOT = Path(__file__).parents[2]


def space_files(pins: Path) -> dict[str, Path | bytes]:
    """The Space's files by path.

    Args:
        pins: the `hub.json` that `train.release.publish` wrote.

    Raises:
        ValueError: when the default entry was not published, since the Space could not start.
    """
    pinned = json.loads(pins.read_text(encoding="utf-8")) if pins.is_file() else {}
    if DEFAULT not in pinned:
        raise ValueError(f"{DEFAULT} is not published yet; run python -m train.release.publish first")
    paths = [ROOT / "app.py", ROOT / "requirements.txt", ROOT / "LICENSE", *(ROOT / "brainmri").rglob("*.py")]
    folders = ROOT / "assets", ROOT / "brainmri" / "templates"
    paths += [path for folder in folders for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files: dict[str, Path | bytes] = {path.relative_to(ROOT).as_posix(): path for path in paths}
    files[f"brainmri/weights/{PINS}"] = pins
    card = RepoCard.load(ROOT / "README.md")
    card.data["models"] = [pin["repo"] for pin in pinned.values()]
    card.data["preload_from_hub"] = [
        f"{pin['repo']} {','.join((*DESCRIPTION, *pin['files']))} {pin['revision']}" for pin in pinned.values()
    ]
    files["README.md"] = str(card).encode()
    return files


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--owner", required=True, help="user or organisation on the Hub")
    parser.add_argument("--name", default="brainmri", help="name of the Space")
    parser.add_argument("--private", action="store_true", help="create the Space private")
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")
    parser.add_argument("--pins", type=Path, default=EMBEDDED / PINS, help="the commits, as train.release.publish wrote them")
    options = parser.parse_args(arguments)
    try:
        files = space_files(options.pins)
        done = publish(f"{options.owner}/{options.name}", files, space=True, private=options.private, dry_run=options.dry_run)
    except (HubError, ValueError) as error:
        print(f"the Space was not published: {error}", file=sys.stderr)
        return 1
    sizes = {path: len(file) if isinstance(file, bytes) else file.stat().st_size for path, file in files.items()}
    print(report(done, sizes, options.dry_run))
    return 0


if __name__ == "__main__":
    sys.exit(main())
