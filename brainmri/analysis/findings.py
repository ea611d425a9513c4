"""The results for a slice and for a study, and helpers that put numbers into words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from brainmri.analysis.lesions import Lesion
from brainmri.analysis.preparation import View
from brainmri.analysis.recognition import Recognition
from brainmri.io.scan import Geometry
from brainmri.zoo.ood import OodResult

TUMOUR, NO_TUMOUR, REVIEW = "tumour", "no tumour", "review"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result for one slice.

    Attributes:
        verdict: "tumour", "no tumour" or "review".
        reason: why, in one sentence.
        probability: calibrated probability that the slice shows a tumour, in [0, 1].
        mask: (H, W) bool, on the input's own grid.
        probability_map: (H, W) float32 in [0, 1], on the input's own grid; `mask` is the part above the threshold.
        area_px: area of `mask` in pixels.
        area_mm2: the same in square millimetres; None if the pixel size is unknown.
        recognition: sequence, plane, orientation and kind of tumour; None if no network recognises them.
        ood: the out-of-distribution result; None without a detector.
        warnings: what the user should know about the input, for example assumptions of the reader.
        provenance: SHA-256 of the input, models with the SHA-256 of their weights, thresholds, versions, device.
        min_area_px: a mask of fewer pixels counts as empty.
        view: how the slice was taken out of a picture; None for a sheet of slices, and for a slice of a study.
    """

    verdict: str
    reason: str
    probability: float
    mask: np.ndarray
    probability_map: np.ndarray
    area_px: int
    area_mm2: float | None
    recognition: Recognition | None
    ood: OodResult | None
    warnings: tuple[str, ...]
    provenance: dict
    min_area_px: int = 1
    view: View | None = None

    @property
    def out_of_distribution(self) -> bool:
        """Whether the slice does not look like those that the model was trained on; its verdict is then "review"."""
        return self.ood is not None and self.ood.reason is not None

    def record(self) -> dict:
        """The finding for JSON, without the arrays."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "probability": round(self.probability, 6),
            "area_px": self.area_px,
            "area_mm2": None if self.area_mm2 is None else round(self.area_mm2, 1),
            "height": int(self.mask.shape[0]),
            "width": int(self.mask.shape[1]),
            "recognition": self.recognition and self.recognition.record(),
            "ood": self.ood and self.ood.record(),
            "warnings": list(self.warnings),
            "provenance": self.provenance,
            "notice": "Research demo, not a medical device.",
        }


def without_head(shape: tuple[int, int], warnings: tuple[str, ...], provenance: dict, pixel: float | None) -> Finding:
    """The finding for a slice of a study, of shape (H, W), that shows no head."""
    return Finding(
        verdict=NO_TUMOUR,
        reason="No head in this slice; it was not analysed.",
        probability=0.0,
        mask=np.zeros(shape, bool),
        probability_map=np.zeros(shape, np.float32),
        area_px=0,
        area_mm2=None if pixel is None else 0.0,
        ood=None,
        recognition=None,
        warnings=warnings,
        provenance=provenance,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Decision:
    """What was decided about a slice, for its explanation.

    Attributes:
        verdict, probability, mask: as in `Finding`.
        by_specialist: whether the specialist decided.
    """

    verdict: str
    probability: float
    mask: np.ndarray
    by_specialist: bool

    @classmethod
    def of(cls, finding: Finding) -> Decision:
        """The decision of a finding."""
        specialist = finding.provenance["specialist"]
        return cls(
            verdict=finding.verdict,
            probability=finding.probability,
            mask=finding.mask,
            by_specialist=specialist is not None and specialist["decided"],
        )


@dataclass(frozen=True, kw_only=True)
class Study:
    """The result for a study.

    Attributes:
        verdict: "tumour", "no tumour" or "review", for the study as a whole.
        reason: why, in one sentence.
        carried_by: indices of the slices that the verdict rests on.
        findings: one for each slice, in order along the head.
        mask: (S, H, W) bool, without islands that are small compared with the largest lesion.
        probability_map: (S, H, W) float32 in [0, 1].
        diameters: the largest diameter of a lesion's part in each slice, in mm; in pixels if `measured` is False.
        lesions: the largest first.
        sequences: the labels of the sequences that were read as pre-contrast T1, FLAIR and post-contrast T1; None where FLAIR
            replaces a missing sequence, and for images, whose colours are the channels.
        recognition: sequence, plane and kind of tumour of the whole study; None if no network recognises them, and where `apart`.
        geometry: the position of the slices in the patient; None if the files do not store it.
        warnings: what the user should know about the input, for example assumptions of the reader.
        provenance: SHA-256 of the input, models with the SHA-256 of their weights, thresholds, versions, device; where `apart`,
            of the most probable slice.
        apart: whether the slices are pictures that do not follow one another in a head, each analysed as if it were alone.
    """

    verdict: str
    reason: str
    carried_by: tuple[int, ...]
    findings: tuple[Finding, ...]
    mask: np.ndarray
    probability_map: np.ndarray
    diameters: tuple[float, ...]
    lesions: tuple[Lesion, ...]
    sequences: tuple[str | None, str | None, str | None]
    recognition: Recognition | None
    geometry: Geometry | None
    warnings: tuple[str, ...]
    provenance: dict
    apart: bool = False

    @property
    def measured(self) -> bool:
        """Whether the voxel size is known and plausible, so that volumes and distances are in mm."""
        return self.geometry is not None and self.geometry.plausible

    @property
    def volume_mm3(self) -> float | None:
        """The volume of the mask in cubic millimetres; None if `measured` is False."""
        if self.geometry is None or not self.geometry.plausible:
            return None
        return float(self.mask.sum() * self.geometry.voxel_volume)

    @property
    def out_of_distribution(self) -> bool:
        """Whether most slices with a head do not look like those that the model was trained on; the verdict is then "review"."""
        checked = [finding for finding in self.findings if finding.ood]  # slices without a head are not
        return 2 * sum(finding.out_of_distribution for finding in checked) > len(checked)

    @property
    def most_probable(self) -> int:
        """Index of the slice with the highest probability, without those out of distribution; of the middle one if all are."""
        inside = [number for number, finding in enumerate(self.findings) if not finding.out_of_distribution]
        return max(inside, key=lambda number: self.findings[number].probability, default=len(self.findings) // 2)

    def record(self) -> dict:
        """The study for JSON, without the arrays; slices are counted from 1, and `probability` is the highest of a slice."""
        volume, length = self.volume_mm3, "mm" if self.measured else "px"
        spacing = self.geometry.spacing if self.geometry and self.geometry.plausible else None
        likeliest = self.findings[self.most_probable]
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "probability": None if likeliest.out_of_distribution else round(likeliest.probability, 6),
            "carried_by_slices": [number + 1 for number in self.carried_by],
            "sequences": dict(zip(("pre-contrast T1", "FLAIR", "post-contrast T1"), self.sequences, strict=True)),
            "recognition": self.recognition and self.recognition.record(),
            "slices": len(self.findings),
            "height": int(self.mask.shape[1]),
            "width": int(self.mask.shape[2]),
            "voxel_spacing_mm": [round(side, 4) for side in spacing] if spacing else None,
            "lesion_voxels": int(self.mask.sum()),
            "lesion_volume_mm3": None if volume is None else round(volume, 1),
            "lesion_volume_ml": None if volume is None else round(volume / 1000, 3),
            "lesion_count": len(self.lesions),
            f"largest_diameter_{length}": round(max(self.diameters), 1),
            "lesions": [lesion.record() for lesion in self.lesions],
            "per_slice": self.table(),
            "warnings": list(self.warnings),
            "provenance": self.provenance,
            "notice": "Research demo, not a medical device.",
        }

    def table(self) -> list[dict]:
        """A row for each slice, in order."""
        length = "mm" if self.measured else "px"
        return [
            {
                "slice": number,
                "verdict": finding.verdict,
                "probability": round(finding.probability, 6),
                "area_px": finding.area_px,
                "area_mm2": None if finding.area_mm2 is None else round(finding.area_mm2, 1),
                f"diameter_{length}": round(diameter, 1),
                "ood_distance": finding.ood and round(finding.ood.distance, 3),
                "ood_other": finding.ood and round(finding.ood.other_log_odds, 2),
                "out_of_distribution": finding.out_of_distribution,
            }
            for number, (finding, diameter) in enumerate(zip(self.findings, self.diameters, strict=True), 1)
        ]


def percent(probability: float, review: Sequence[float] = (0, 1)) -> str:
    """A probability in whole percent; never 0% or 100%, which would claim certainty.

    Beside a review band, the percentage is on the probability's side of both ends of the band, as `percent_number` writes them:
    where rounding would take it to or past an end, it has one digit more or names the end.

    >>> percent(0.0962), percent(0.0962, (0.1, 0.9)), percent(0.0997, (0.1, 0.9))
    ('10%', '9.6%', 'under 10%')

    Args:
        probability: in [0, 1].
        review: [low, high], the band; without a band both are equal.
    """
    low, high = review if review[0] < review[1] else (0, 1)
    side = int(probability > high) - int(probability < low)  # NumPy's own booleans cannot be subtracted
    ends = low_end, high_end = percent_number(low), percent_number(high)

    def fits(*percentages: float) -> bool:
        return all((one > float(high_end)) - (one < float(low_end)) == side for one in percentages)

    if probability >= 0.995 and fits(99, 100):
        return "over 99%"
    if probability <= 0.005 and fits(0, 1):
        return "under 1%"
    for digits in (0, 1):
        rounded = f"{100 * probability:.{digits}f}"
        if 0 < float(rounded) < 100 and fits(float(rounded)):
            return f"{rounded}%"
    if side:
        return f"over {high_end}%" if side > 0 else f"under {low_end}%"
    return f"{min(ends, key=lambda end: abs(float(end) - 100 * probability))}%"


def percent_number(share: float) -> str:
    """A share in percent with all of its digits: 0.1 gives "10", 0.125 gives "12.5"."""
    return f"{100 * share:.10g}"


def count(number: int, noun: str) -> str:
    """A number and its noun: "1 slice", "2 slices"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def chance(probability: float, verdict: str, review: Sequence[float] = (0, 1)) -> str:
    """A probability beside a verdict: "probability over 99%" with "tumour", else "probability of tumour under 1%".

    Args:
        probability, review: as for `percent`.
        verdict: of the slice.
    """
    return f"probability{'' if verdict == TUMOUR else ' of tumour'} {percent(probability, review)}"


def sentence(clause: str) -> str:
    """A clause as a sentence.

    >>> sentence("the model was trained on axial slices only")
    'The model was trained on axial slices only.'
    """
    return f"{clause[0].upper()}{clause[1:]}."


def slice_numbers(numbers: Collection[int]) -> str:
    """Indices of slices as words that count from 1: [0, 1, 2, 6] gives "slices 1 to 3, 7"."""
    return f"slice{'' if len(numbers) == 1 else 's'} {ranges(numbers)}"


def ranges(numbers: Iterable[int]) -> str:
    """Indices of slices as text that counts from 1: [0, 1, 2, 6] gives "1 to 3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0] + 1} to {run[-1] + 1}" if len(run) > 1 else str(run[0] + 1) for run in runs)
