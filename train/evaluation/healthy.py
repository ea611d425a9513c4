"""False alarms on brains without tumour: python -m train.evaluation.healthy --out report.json [--segmenter NAME] …

Every patient of the dataset has a tumour, so this uses other images, without a download: synthetic heads drawn around the average
brain that nilearn ships, that average itself, and one person's scan that nibabel ships. None of them is a clinical FLAIR of a
healthy person, so the figures show what raises a false alarm; they do not show how often healthy people would get one.

The packages' other images show no whole axial slice of a brain: nibabel's `anatomical.nii`, `functional.nii` and
`example_nifti2.nii.gz` are crops from its middle, matplotlib's `s1045.ima.gz` is sagittal, the DICOM test files are blank.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from tqdm import tqdm

from assets.make_examples import LEVELS, THICK, Recipe, load_template, make
from brainmri.analysis.findings import NO_TUMOUR, REVIEW, TUMOUR
from brainmri.analysis.pipeline import Pipeline
from brainmri.report.metric_tables import markdown_table
from brainmri.zoo.entry import ModelEntry
from brainmri.zoo.metrics import MASK_FALSE_ALARMS, SLICES, STUDIES, share_metric
from train.evaluation.failures import CALLED

TEMPLATE_LEVELS = range(45, 146, 5)  # mm above the bottom of the template, from the temporal lobes to the vertex
WHITE_PERCENTILE = 99.5  # of a volume, shown white, as in `brainmri.io`


def synthetic_heads(template: np.ndarray, heads: int, flair_only: bool) -> Iterator[np.ndarray]:
    """Heads from the examples' generator without a lesion, each with its own seed, gains and size.

    Args:
        template: as `load_template` returns it.
        heads: how many.
        flair_only: whether to leave out the T1 images.

    Yields:
        (S, H, W, 3) uint8, or (S, H, W) with FLAIR only, from below.
    """
    for seed in range(heads):
        rng = np.random.default_rng(seed)
        person = Recipe(
            level=0,
            seed=1000 + seed,  # different from the examples' seeds
            gains=tuple(rng.uniform(0.85, 1.1, 3)),
            zoom=rng.uniform(0.95, 1.12),
            flair_only=flair_only,
        )
        yield np.stack([make(template, replace(person, level=level), noise_seed=level)[0] for level in LEVELS])


def template_as_flair(template: np.ndarray) -> np.ndarray:
    """The average brain with the tissue contrast of FLAIR: (S, H, W) uint8, without skull."""
    t1, grey, white = template
    brain = t1 > 0.25  # as in the examples' generator
    return _slices(0.55 * grey + 0.42 * white + 0.08 * np.clip(1 - grey - white, 0, 1) * brain)


def template_as_t1(template: np.ndarray) -> np.ndarray:
    """The average brain on T1, where the networks expect FLAIR: (S, H, W) uint8, without skull."""
    return _slices(template[0])


def _slices(volume: np.ndarray) -> np.ndarray:
    """Thick slices (S, H, W) uint8 of a volume (H, W, levels), from below."""
    cut = [volume[..., level - THICK // 2 : level + THICK // 2 + 1].mean(axis=-1) for level in TEMPLATE_LEVELS]
    return _to_bytes(np.stack(cut))


def _to_bytes(volume: np.ndarray) -> np.ndarray:
    return (255 * np.clip(volume / np.percentile(volume, WHITE_PERCENTILE), 0, 1)).round().astype(np.uint8)


def person_as_epi() -> np.ndarray:
    """The first volume of nibabel's `example4d.nii.gz`, one person's echo-planar T2*: (S, H, W) uint8, without skull."""
    path = Path(nibabel.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    image = nibabel.as_closest_canonical(nibabel.load(path))
    volume = np.asarray(image.dataobj, np.float32)[..., 0]  # to the right, to the front, upwards
    return _to_bytes(volume.transpose(2, 1, 0)[:, ::-1, ::-1])


def sources(heads: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every head, with the name of its source: (S, H, W[, 3]) uint8, nose up."""
    template = load_template()
    for name, flair_only in (("synthetic heads, three sequences", False), ("synthetic heads, FLAIR alone", True)):
        for head in synthetic_heads(template, heads, flair_only):
            yield name, head
    yield "average brain (MNI152) made into FLAIR, no skull", template_as_flair(template)
    yield "average brain (MNI152), T1 given for FLAIR, no skull", template_as_t1(template)
    yield "one person (nibabel example4d), T2* EPI given for FLAIR, no skull", person_as_epi()


def measure(pipe: Pipeline, heads: Iterable[tuple[str, np.ndarray]]) -> dict:
    """Verdicts on heads without tumour: each slice alone, and each head as a study.

    Args:
        heads: names of sources, each with a head, (S, H, W[, 3]) uint8.

    Returns:
        For each source `heads`, `slices`, and figures with `value` and `count`.
    """
    slices: dict[str, list[tuple[str, bool]]] = {}
    studies: dict[str, list[str]] = {}
    for name, head in heads:
        findings = [pipe(one) for one in head]
        slices.setdefault(name, []).extend((finding.verdict, bool(finding.mask.any())) for finding in findings)
        studies.setdefault(name, []).append(pipe.study(head).verdict)
    report = {}
    for name, called_and_masked in slices.items():
        verdicts, masked = zip(*called_and_masked, strict=True)
        figures: dict = {"heads": len(studies[name]), "slices": len(verdicts)}
        for unit, given in ((SLICES, verdicts), (STUDIES, studies[name])):
            for verdict, called in CALLED.items():
                count = given.count(verdict)
                figures[share_metric(unit, called)] = {"value": count / len(given), "count": count}
        figures[MASK_FALSE_ALARMS] = {"value": sum(masked) / len(masked), "count": sum(masked)}
        report[name] = figures
    return report


def identity(entry: ModelEntry, role: str) -> dict:
    """Which weights were measured in that role, "segmenter" or "classifier", with their thresholds and calibration."""
    known = {"name": entry.name, "sha256": entry.sha256}
    if role == "segmenter":
        return known | {"mask_threshold": entry.mask_threshold, "mask_neighbours": entry.mask_neighbours}
    fusion = {mode: fusion.config() for mode, fusion in entry.fusion.items()}
    return known | {"temperature": entry.temperature, "review_band": list(entry.review), "fusion": fusion}


def healthy_table(report: Mapping[str, Any]) -> str:
    """The report in Markdown: slices and studies by verdict, as counts, and the shares that are false alarms."""
    rows = []
    for name, figures in report["sources"].items():
        alarms, called = figures[MASK_FALSE_ALARMS], figures[share_metric(SLICES, CALLED[TUMOUR])]
        counts = [
            " / ".join(str(figures[share_metric(unit, CALLED[verdict])]["count"]) for verdict in (TUMOUR, REVIEW, NO_TUMOUR))
            for unit in (SLICES, STUDIES)
        ]
        shares = [f"{called['value']:.3f}", f"{alarms['value']:.3f} ({alarms['count']})"]
        rows.append([name, str(figures["slices"]), counts[0], *shares, str(figures["heads"]), counts[1]])
    order = "tumour / review / no tumour"
    header = ["source", "slices", order, "share called tumour", "share with a mask", "heads", f"as studies: {order}"]
    return markdown_table(header, rows)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--segmenter", help="zoo name, run folder or OWNER/NAME; default: the zoo's default")
    add("--classifier", help="the same; default: the segmenter, if it has a verdict head")
    add("--heads", type=int, default=10, help=f"synthetic heads of {len(LEVELS)} slices each, drawn with and without T1")
    add("--device", default="auto")
    add("--out", type=Path, required=True, help="where the JSON report goes")
    options = parser.parse_args(arguments)
    pipe = Pipeline(options.segmenter, options.classifier, device=options.device)
    report = {
        "protocol": "each slice is analysed alone, and the slices of each head together as a study; thresholds and review bands "
        "are the entries' own; a mask of any size is a false alarm",
        "segmenter": identity(pipe.segmenter.entry, "segmenter"),
        "classifier": identity(pipe.classifier.entry, "classifier"),
        "sources": measure(pipe, tqdm(sources(options.heads), desc="heads", total=2 * options.heads + 3, unit="head")),
    }
    print(healthy_table(report))
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
