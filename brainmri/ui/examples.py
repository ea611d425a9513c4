"""The examples on the page, all synthetic, and the stored result of the first one, which the page shows before any click.

python -m brainmri.ui.examples      # analyse the first example with the default models and store the result
"""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from brainmri.analysis.explain import Explanation
from brainmri.analysis.findings import Finding
from brainmri.analysis.preparation import View
from brainmri.analysis.recognition import Recognised, Recognition
from brainmri.analysis.stability import Stability
from brainmri.io.files import StudyFile
from brainmri.io.reading import read_slice
from brainmri.io.scan import Scan
from brainmri.report.render import heat_picture, mask_picture
from brainmri.ui.common import ASSETS
from brainmri.ui.inference import available_models
from brainmri.zoo.ood import OodResult
from brainmri.zoo.registry import DEFAULT

log = logging.getLogger(__name__)

FOLDER = ASSETS / "examples"
RESULT = FOLDER / "result"
RECORD, MASK, PROBABILITY, EVIDENCE, STABILITY = "result.json", "mask.png", "probability.png", "evidence.png", "stability.png"
LEVELS = 2**16 - 1  # of the stored probability map


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example on the page: its label, the file that is analysed, and the picture on its card."""

    label: str
    file: Path
    card: Path


def _slice(label: str, stem: str) -> Example:
    return Example(label=label, file=FOLDER / f"{stem}.png", card=FOLDER / f"{stem}.png")


def _study(label: str, name: str) -> Example:
    return Example(label=label, file=FOLDER / name, card=FOLDER / "cards" / f"{name.split('.')[0]}.png")


EXAMPLES = [
    _slice("Large lesion", "large-lesion"),
    _slice("Small lesion", "small-lesion"),
    _slice("FLAIR only", "flair-only"),
    _slice("No lesion", "healthy-high"),
    _study("Study, large lesion", "study-flair.nii.gz"),
    _study("Study, small lesion", "study-small.nii.gz"),
    _study("Study, no lesion", "study-healthy.nii.gz"),
    _study("Study, three sequences", "study-three.zip"),
]


def examples() -> list[Example]:
    """The examples whose files are installed."""
    return [example for example in EXAMPLES if example.file.is_file() and example.card.is_file()]


@cache
def _digests() -> dict[str, Example]:
    return {StudyFile(path=example.file).digest(): example for example in examples()}


def example_of(sha256: str) -> Example | None:
    """The example whose file has these bytes; None for other files, whatever their names are."""
    return _digests().get(sha256)


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredResult:
    """The result of the first example: its slice, finding, and explanation with two pictures and their captions."""

    scan: Scan
    finding: Finding
    explanation: str
    evidence: list[tuple[Image.Image, str]]


def explained(scan: Scan, explanation: Explanation, stability: Stability) -> tuple[str, list[tuple[Image.Image, str]]]:
    """The explanation of a slice as a sentence and pictures with captions.

    Args:
        scan: pixels (H, W, 3).
        explanation, stability: of `Pipeline.explain`.
    """
    pictures = []
    if explanation.saliency.any():
        pictures.append((heat_picture(scan.pixels, explanation.saliency), "Evidence map (class activation); white is strongest"))
    if stability.share.any():
        caption = f"Stability: in how many of {stability.runs} runs each pixel is outlined; white: in all of them"
        pictures.append((heat_picture(scan.pixels, stability.share), caption))
    return f"{explanation.sentence} {stability.sentence}", pictures


def first_result() -> StoredResult | None:
    """The stored result of the first example; None if it is not that of the present default models."""
    if not (RESULT / RECORD).is_file():
        return None
    stored = json.loads((RESULT / RECORD).read_text(encoding="utf-8"))
    fields, default = stored["finding"], available_models.get(DEFAULT)
    if default is None or {fields["provenance"][role]["sha256"] for role in ("segmenter", "classifier")} != {default.sha256}:
        log.warning("the stored example is of another model than the default; run python -m brainmri.ui.examples")
        return None
    recognition = fields["recognition"]
    if recognition:
        parts = {name: recognition[name] and Recognised(**recognition[name]) for name in ("sequence", "plane", "kind")}
        fields["recognition"] = Recognition(**recognition | parts)
    fields["ood"] = fields["ood"] and OodResult(**fields["ood"])
    arrays = {
        "mask": np.asarray(Image.open(RESULT / MASK)) > 0,
        "probability_map": np.asarray(Image.open(RESULT / PROBABILITY), np.float32) / LEVELS,
    }
    pictures: list[tuple[Image.Image, str]] = [
        (Image.open(RESULT / name), caption) for name, caption in stored["evidence"].items()
    ]
    scan = read_slice(EXAMPLES[0].file)
    fields |= {"warnings": tuple(fields["warnings"]), "view": View.whole(*scan.pixels.shape[:2])}
    return StoredResult(
        scan=scan,
        finding=Finding(**fields | arrays),
        explanation=stored["explanation"],
        evidence=pictures,
    )


def store_first_result() -> None:
    """Analyse the first example with the default models and store the result in `RESULT`."""
    from brainmri.analysis.pipeline import Pipeline

    scan, pipe = read_slice(EXAMPLES[0].file), Pipeline(device="cpu")
    finding = pipe(scan)
    sentence, pictures = explained(scan, *pipe.explain(scan))
    RESULT.mkdir(exist_ok=True)
    mask_picture(finding.mask).save(RESULT / MASK, optimize=True)
    levels = np.rint(finding.probability_map * LEVELS).astype(np.uint16)
    Image.fromarray(levels).save(RESULT / PROBABILITY, optimize=True)
    for name, (picture, _) in zip((EVIDENCE, STABILITY), pictures, strict=True):
        picture.save(RESULT / name, optimize=True)
    without_arrays = dataclasses.asdict(dataclasses.replace(finding, mask=None, probability_map=None, view=None))  # type: ignore[arg-type]
    del without_arrays["view"]  # of a whole picture
    stored = {
        "finding": without_arrays,
        "explanation": sentence,
        "evidence": {name: caption for name, (_, caption) in zip((EVIDENCE, STABILITY), pictures, strict=True)},
    }
    (RESULT / RECORD).write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    store_first_result()
