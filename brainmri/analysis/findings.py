"""The typed results of a slice and of a study, and how they are put into words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from brainmri.analysis.lesions import Lesion
from brainmri.io.scan import Geometry
from brainmri.zoo.ood import OodResult

TUMOUR, NO_TUMOUR, REVIEW = VERDICTS = ("tumour", "no tumour", "review")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found in one slice.

    Attributes:
        verdict: "tumour", "no tumour" or "review".
        reason: one plain sentence on why the verdict is what it is.
        probability: calibrated probability that the slice shows tumour, in [0, 1].
        mask: (H, W) bool, on the input's own grid.
        probability_map: (H, W) float32 in [0, 1], on the input's own grid; `mask` is this above the threshold.
        area_px: pixels in `mask`.
        area_mm2: the same in square millimetres; None where the pixels' size is not known.
        warnings: what the reader assumed and the user should know.
        ood: the out-of-distribution check; None without a detector.
        provenance: input SHA-256, model names and weight SHA-256, thresholds, versions, device.
    """

    verdict: str
    reason: str
    probability: float
    mask: np.ndarray
    probability_map: np.ndarray
    area_px: int
    area_mm2: float | None
    ood: OodResult | None
    warnings: tuple[str, ...]
    provenance: dict

    @property
    def out_of_distribution(self) -> bool:
        """Whether the slice is not taken for an axial brain MR slice; its verdict is "review" then."""
        return self.ood is not None and self.ood.reason is not None

    def record(self) -> dict:
        """The finding without its arrays, ready for JSON."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "probability": round(self.probability, 6),
            "area_px": self.area_px,
            "area_mm2": None if self.area_mm2 is None else round(self.area_mm2, 1),
            "height": int(self.mask.shape[0]),
            "width": int(self.mask.shape[1]),
            "ood": self.ood and self.ood.record(),
            "warnings": list(self.warnings),
            "provenance": self.provenance,
            "notice": "Research demo, not a medical device.",
        }


@dataclass(frozen=True, kw_only=True)
class Study:
    """What was found in a study.

    Attributes:
        verdict: "tumour", "no tumour" or "review", for the study as a whole.
        reason: one plain sentence on why the verdict is what it is.
        carried_by: the slices, from 0, that the verdict rests on.
        findings: one a slice, in order along the head.
        mask: (S, H, W) bool, islands that are small beside the largest lesion removed.
        probability_map: (S, H, W) float32 in [0, 1].
        diameters: for each slice the largest distance across what is outlined, in mm; in pixels where `measured` is False.
        lesions: the largest first.
        sequences: what was read as pre-contrast T1, as FLAIR and as post-contrast T1; None where FLAIR stands in, and for
            slices, whose channels are their colours.
        geometry: where the slices lie in the patient, where the files know it.
        warnings: what the reader assumed and the user should know.
        provenance: input SHA-256, model names and weight SHA-256, thresholds, versions, device.
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
    geometry: Geometry | None
    warnings: tuple[str, ...]
    provenance: dict

    @property
    def measured(self) -> bool:
        """Whether voxels have a known, plausible size, so that volumes and distances are in mm."""
        return self.geometry is not None and self.geometry.plausible

    @property
    def volume_mm3(self) -> float | None:
        """Of the whole mask; None where the voxel size is unknown."""
        if self.geometry is None or not self.geometry.plausible:
            return None
        return float(self.mask.sum() * self.geometry.voxel_volume)

    def record(self) -> dict:
        """The study without its arrays, ready for JSON; slices counted from 1, as people do."""
        volume, length = self.volume_mm3, "mm" if self.measured else "px"
        spacing = self.geometry.spacing if self.geometry and self.geometry.plausible else None
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "carried_by_slices": [number + 1 for number in self.carried_by],
            "sequences": dict(zip(("pre-contrast T1", "FLAIR", "post-contrast T1"), self.sequences, strict=True)),
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
        """A row for each slice, from the neck upwards."""
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
                "ood_orientation": finding.ood and round(finding.ood.orientation_log_odds, 2),
                "out_of_distribution": finding.out_of_distribution,
            }
            for number, (finding, diameter) in enumerate(zip(self.findings, self.diameters, strict=True), 1)
        ]


def percent(probability: float) -> str:
    """Whole percent, without claiming certainty at the ends."""
    if probability > 0.995:
        return "over 99%"
    return "under 1%" if probability < 0.005 else f"{100 * probability:.0f}%"


def count(number: int, noun: str) -> str:
    """ "1 slice", "2 slices"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def ranges(numbers: Iterable[int]) -> str:
    """Slices from 0 as people count and read them: [0, 1, 2, 6] is "1 to 3, 7"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0] + 1} to {run[-1] + 1}" if len(run) > 1 else str(run[0] + 1) for run in runs)
