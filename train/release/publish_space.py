"""Publish the demo as a Gradio Space: python -m train.release.publish_space --owner OWNER [--space NAME] [--hardware NAME]

The Space holds the page, the guides and the package without weights; pip can install the package from it. Its front matter
preloads the published entries from the Hub at the commits pinned by `train.release.publish`, so a new release of the weights
needs a new commit of the Space.

A new Space runs on ZeroGPU unless `--hardware` names something else; an existing one keeps its hardware without `--hardware`.
`python -m train.release.publish --all` publishes all entries and then the Space.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from huggingface_hub import RepoCard, SpaceHardware

from brainmri.zoo.entry import DESCRIPTION
from brainmri.zoo.hub import HubError, Published, is_private
from brainmri.zoo.registry import DEFAULT, EMBEDDED, PINS
from train.release.upload import upload

ROOT = Path(__file__).parents[2]
HARDWARE = [hardware.value for hardware in SpaceHardware]
SPACE_FILES = (  # besides the package, its templates and the assets
    "app.py", "requirements.txt", "pyproject.toml", "LICENSE", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md",
    "brainmri/README.md", "brainmri/py.typed", "train/README.md", "train/EXPERIMENTS.md", "train/GROWTH.md",
)  # fmt: skip
PRIVATE_MODELS = "a Space cannot preload private models: its build has no token"


def space_files(pins: dict[str, dict]) -> dict[str, Path | bytes]:
    """The Space's files by path.

    Args:
        pins: the content of the `hub.json` that `train.release.publish` writes.

    Raises:
        ValueError: when the default entry was not published, since the Space could not start.
    """
    if DEFAULT not in pins:
        raise ValueError(f"{DEFAULT} is not published yet; run python -m train.release.publish first")
    paths = [*(ROOT / name for name in SPACE_FILES), *(ROOT / "brainmri").rglob("*.py")]
    folders = ROOT / "assets", ROOT / "brainmri" / "templates"
    paths += [path for folder in folders for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files: dict[str, Path | bytes] = {path.relative_to(ROOT).as_posix(): path for path in paths}
    files[f"brainmri/weights/{PINS}"] = pins_file(pins)
    card = RepoCard.load(ROOT / "README.md")
    card.data["models"] = [pin["repo"] for pin in pins.values()]
    card.data["preload_from_hub"] = [
        f"{pin['repo']} {','.join((*DESCRIPTION, *pin['files']))} {pin['revision']}" for pin in pins.values()
    ]
    text = str(card)
    for name, pin in pins.items():  # the cards are in the models' repos
        text = text.replace(f"(brainmri/weights/{name}/README.md)", f"(https://huggingface.co/{pin['repo']})")
    files["README.md"] = text.encode()
    return files


def read_pins(path: Path) -> dict[str, dict]:
    """The published entries in a `hub.json` (`brainmri.zoo.registry.pins`); empty if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def pins_file(pins: dict[str, dict]) -> bytes:
    """The content of `hub.json`."""
    return (json.dumps(pins, indent=2, sort_keys=True) + "\n").encode()


def publish_space(
    repo: str, pins: dict[str, dict], *, hardware: str | None = None, private: bool = False, dry_run: bool = False
) -> Published:
    """Publish the Space and print what was done.

    Args:
        repo: "owner/name".
        pins: the published entries, which it preloads.
        hardware: one of `HARDWARE`; None for ZeroGPU on a new Space and no change on an existing one.
        private: create the Space private.
        dry_run: change nothing.

    Raises:
        ValueError: if the default entry is not published.
        brainmri.zoo.hub.HubError: if a preloaded model is private, or the Hub cannot be reached or refuses.
    """
    files = space_files(pins)
    if not dry_run:
        for pin in pins.values():
            if is_private(pin["repo"]):
                raise HubError(f"{pin['repo']} is private, and {PRIVATE_MODELS}; make it public in its settings on the Hub")
    return upload(repo, files, space=True, hardware=hardware, private=private, dry_run=dry_run)


def add_space_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `train.release.publish` shares."""
    parser.add_argument("--owner", required=True, help="user or organisation on the Hub")
    parser.add_argument("--space", default="brainmri", metavar="NAME", help="name of the Space (default: brainmri)")
    parser.add_argument(
        "--hardware",
        choices=HARDWARE,
        metavar="NAME",
        help=f"hardware of the Space: {', '.join(HARDWARE)} (default: zero-a10g, which is ZeroGPU, for a new Space)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be done")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_space_options(parser)
    parser.add_argument("--private", action="store_true", help="create the Space private; the models must be public")
    parser.add_argument("--pins", type=Path, default=EMBEDDED / PINS, help="the commits, as train.release.publish wrote them")
    options = parser.parse_args(arguments)
    try:
        publish_space(
            f"{options.owner}/{options.space}",
            read_pins(options.pins),
            hardware=options.hardware,
            private=options.private,
            dry_run=options.dry_run,
        )
    except (HubError, ValueError) as error:
        print(f"the Space was not published: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
