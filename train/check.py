"""Check a dataset before training: python -m train.check --data DIR [--out DIR]

Prints what was recognised, patients, slices, sizes, spacing, sequences and tumour share; masks that do not fit; pictures that
appear in several patients; and leaks, where such patients would be on both sides of a split. `--out` also writes the report as
JSON, and a montage of slices with their outlines, which shows patients: keep it out of public folders. The exit status is 1 if
anything has to be corrected.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from brainmri.io.pixels import FLAIR
from train.arguments import choose_dataset, own_data_arguments
from train.datasets import DATASETS, Dataset, OwnData, Slice
from train.datasets.own.base import PICTURES, suffix_of
from train.datasets.own.dataset import Contents, read_contents, slices_of
from train.datasets.own.reading import VolumeSlice, read_geometry
from train.folds import split_patients
from train.run import data_errors

THUMBNAIL = 24  # pixels a side, of the pictures that are compared
SAME = 0.995  # correlation of thumbnails above which two slices show the same
BLOCK = 2048  # thumbnails compared at once
TILES, TILE = 24, 192  # slices in the montage, and the side of each in pixels
SHOWN = 10  # problems printed


@dataclass(kw_only=True)
class Report:
    """What a check found.

    Attributes:
        layout: the dataset's.
        patients, slices, tumour_slices: counts.
        sizes, spacings, sequences: how many slices have each; spacing in mm between slices, rows and columns.
        tumour_share: of the pixels of tumour slices: minimum, median and maximum.
        without_tumour: patients without a tumour slice.
        notes: assumptions and what may surprise.
        problems: what has to be corrected, by sample.
        duplicates: pairs of patients with the same picture, and one such pair of slices.
        leaks: pairs of patients among these that a split puts on both sides.
    """

    layout: str
    patients: int = 0
    slices: int = 0
    tumour_slices: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    spacings: dict[str, int] = field(default_factory=dict)
    sequences: dict[str, int] = field(default_factory=dict)
    tumour_share: tuple[float, ...] = ()
    without_tumour: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    duplicates: list[dict] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing has to be corrected."""
        return not (self.problems or self.leaks)


@dataclass(kw_only=True)
class Scanned:
    """The slices that could be read: their labels, thumbnails, tumour pixels by patient, and tiles for the montage."""

    labels: list[tuple[str, str]] = field(default_factory=list)  # patient and name
    thumbnails: list[np.ndarray] = field(default_factory=list)
    areas: dict[str, int] = field(default_factory=dict)
    shares: list[float] = field(default_factory=list)
    tiles: dict[str, tuple[int, np.ndarray]] = field(default_factory=dict)  # by patient, with the tumour pixels shown


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the dataset's folder, or a CSV file")
    add("--dataset", choices=list(DATASETS), help="default: recognised")
    add("--split", type=Path, help="split.json of a run, whose roles are checked for leaks (default: the folds of a training)")
    add("--folds", type=int, default=5, help="folds that a training would use")
    add("--out", type=Path, help="folder for report.json and montage.png")
    own_data_arguments(parser)
    options = parser.parse_args(arguments)
    dataset = choose_dataset(options)
    with data_errors():
        report, scanned = check(dataset, options.data)
        roles = json.loads(options.split.read_text(encoding="utf-8")) if options.split else None
        report.leaks = find_leaks(dataset, report, scanned.areas, roles, options.folds)
    print(format_report(report))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "report.json").write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
        montage([tile for _, tile in scanned.tiles.values()]).save(options.out / "montage.png")
        print(f"wrote report.json and montage.png into {options.out}; the montage shows patients")
    return 0 if report.passed else 1


def check(dataset: Dataset, root: Path) -> tuple[Report, Scanned]:
    """Read every slice of a dataset, and report."""
    if dataset.record is None:
        report, cases = Report(layout=dataset.name), dataset.find_slices(root)
    else:
        data = OwnData.from_record(dataset.record)
        contents = read_contents(root, data)
        report = Report(layout=contents.layout.name, notes=list(contents.notes), problems=dict(contents.problems))
        cases = slices_of(contents, data.every)
        report.spacings, report.sequences = describe_sources(contents)
    report.patients = len(cases)
    scanned, sizes = Scanned(), Counter()
    for item in tqdm([one for slices in cases.values() for one in slices], desc="reading slices", unit="slice", leave=False):
        try:
            scan_slice(item, scanned, sizes)
        except (ValueError, OSError) as error:
            report.problems[f"{item.case}: {item.image.name}"] = str(error)
    report.slices, report.tumour_slices = len(scanned.labels), len(scanned.shares)
    report.sizes = dict(sizes.most_common())
    if scanned.shares:
        report.tumour_share = tuple(float(value) for value in np.percentile(scanned.shares, (0, 50, 100)))
    report.without_tumour = [case for case, area in scanned.areas.items() if not area]
    report.duplicates = find_duplicates(scanned)
    add_notes(report)
    return report, scanned


def scan_slice(item: Slice, scanned: Scanned, sizes: Counter) -> None:
    """Read a slice and add what the report needs of it."""
    pixels, mask = item.read_image(), item.read_mask()
    if mask.shape != pixels.shape[:2]:
        raise ValueError(f"expected a mask of {pixels.shape[:2]} pixels, got {mask.shape}; export it again")
    area = int(mask.sum())
    where = f"slice {item.index + 1} of {item.image.name}" if isinstance(item, VolumeSlice) else item.image.name
    scanned.labels.append((item.case, where))
    scanned.thumbnails.append(thumbnail(pixels[..., FLAIR]))
    scanned.areas[item.case] = scanned.areas.get(item.case, 0) + area
    if area:
        scanned.shares.append(area / mask.size)
    sizes[f"{pixels.shape[1]} x {pixels.shape[0]}"] += 1
    shown = scanned.tiles.get(item.case)  # a patient's slice with the largest tumour
    if area > shown[0] if shown else len(scanned.tiles) < TILES:
        scanned.tiles[item.case] = area, outlined(pixels, mask)


def thumbnail(grey: np.ndarray) -> np.ndarray:
    """A slice as a unit vector, so that a product of two is their correlation; zeros for a slice without contrast."""
    small = np.asarray(Image.fromarray(grey).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX), np.float32).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small))
    return small / length if length > THUMBNAIL else np.zeros_like(small)


def outlined(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(TILE, TILE, 3) uint8: a slice with the outline of its mask in red."""
    from scipy.ndimage import binary_erosion

    shown = pixels.copy()
    shown[mask & ~np.asarray(binary_erosion(mask), bool)] = (255, 40, 40)
    tile = Image.new("RGB", (TILE, TILE))
    image = Image.fromarray(shown)
    image.thumbnail((TILE, TILE))
    tile.paste(image, ((TILE - image.width) // 2, (TILE - image.height) // 2))
    return np.asarray(tile)


def montage(tiles: list[np.ndarray], columns: int = 6) -> Image.Image:
    """Tiles side by side."""
    rows = max(1, -(-len(tiles) // columns))
    sheet = Image.new("RGB", (columns * TILE, rows * TILE))
    for number, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (number % columns * TILE, number // columns * TILE))
    return sheet


def describe_sources(contents: Contents) -> tuple[dict[str, int], dict[str, int]]:
    """How many samples have each spacing, and each sequence."""
    spacings, sequences = Counter(), Counter()
    for sample, channels in contents.usable:
        sequences.update(source.sequence or "unnamed" for source in sample.sources)
        source = dict(channels)[FLAIR]
        if suffix_of(source.path) not in PICTURES:
            spacings[" x ".join(f"{length:.2f}" for length in read_geometry(source).spacing)] += 1
    return dict(spacings.most_common()), dict(sequences.most_common())


def find_duplicates(scanned: Scanned) -> list[dict]:
    """The pairs of patients that share a picture, each with an example."""
    vectors = np.stack(scanned.thumbnails) if scanned.thumbnails else np.zeros((0, THUMBNAIL**2), np.float32)
    patients = np.unique([patient for patient, _ in scanned.labels], return_inverse=True)[1]
    pairs: dict[tuple[str, str], dict] = {}
    for start in range(0, len(vectors), BLOCK):
        alike = vectors[start : start + BLOCK] @ vectors.T > SAME
        alike &= patients[start : start + BLOCK, None] < patients[None]
        for first, second in np.argwhere(alike).tolist():
            (one, one_name), (other, other_name) = scanned.labels[start + first], scanned.labels[second]
            pair = pairs.setdefault((one, other), {"patients": [one, other], "slices": [one_name, other_name], "pictures": 0})
            pair["pictures"] += 1
    return list(pairs.values())


def find_leaks(dataset: Dataset, report: Report, areas: dict[str, int], roles: dict | None, folds: int) -> list[str]:
    """Sentences on the patients that share pictures or a name and lie on both sides of a split.

    Args:
        roles: content of a `split.json`; None for the folds that a training would use.
    """
    leaks = []
    if roles:
        both = set(roles["train"]) & set(roles["validation"])
        leaks += [f"patient {case} is in training and in validation" for case in sorted(both)]
        side = {case: role for role in ("train", "validation") for case in roles[role]}
    else:
        eligible = {case: area for case, area in areas.items() if case not in dataset.held_out}
        if len(eligible) < folds:
            report.notes.append(f"{len(eligible)} patients are too few for {folds} folds; train with fewer --folds")
            return leaks
        side = {c: f"fold {fold}" for fold in range(folds) for c in split_patients(dataset, eligible, folds, fold).validation}
    for pair in report.duplicates:
        one, other = pair["patients"]
        if one in side and other in side and side[one] != side[other]:
            leaks.append(
                f"{one} ({side[one]}) and {other} ({side[other]}) share {pair['pictures']} pictures; give them one patient"
            )
    return leaks


def add_notes(report: Report) -> None:
    """Note what may surprise a person who trains on the dataset."""
    if report.slices and not report.tumour_slices:
        report.problems["all"] = "no mask shows a tumour; choose the labels that are tumour with --tumour-labels"
    if report.slices and report.tumour_slices == report.slices:
        report.notes.append("every slice shows a tumour: a network learns masks, and no verdict")
    if report.without_tumour:
        report.notes.append(f"{len(report.without_tumour)} patients have no tumour")


def format_report(report: Report) -> str:
    """The report for the terminal."""

    def counts(found: dict[str, int]) -> str:
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        return ", ".join(f"{name} ({count})" for name, count in list(found.items())[:4]) + more

    lines = [f"layout: {report.layout}", f"patients: {report.patients}"]
    share = f" ({report.tumour_slices / report.slices:.0%})" if report.slices else ""
    lines.append(f"slices: {report.slices}, of which {report.tumour_slices} show a tumour{share}")
    tables = {"sizes in pixels": report.sizes, "spacing in mm": report.spacings, "sequences": report.sequences}
    lines += [f"{name}: {counts(found)}" for name, found in tables.items() if found]
    if report.tumour_share:
        low, middle, high = report.tumour_share
        lines.append(f"tumour in tumour slices: {low:.1%} to {high:.1%} of the pixels, median {middle:.1%}")
    lines += [f"note: {note}" for note in report.notes]
    problems = list(report.problems.items())
    lines += [f"problem: {name}: {problem}" for name, problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"{len(problems) - SHOWN} more problems of {len(problems)}; see report.json with --out")
    for pair in report.duplicates[:SHOWN]:
        lines.append(f"same picture in two patients: {' and '.join(pair['patients'])} ({' and '.join(pair['slices'])})")
    lines += [f"leak: {leak}" for leak in report.leaks[:SHOWN]]
    lines.append("nothing to correct" if report.passed else "correct the problems and leaks above before training")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
