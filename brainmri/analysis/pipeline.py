"""From an image or a study to a `Finding` or a `Study`."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from brainmri._version import __version__
from brainmri.analysis.decision import SliceDecisions, decide_slices, decide_study
from brainmri.analysis.findings import NO_TUMOUR, Finding, Study, ranges
from brainmri.analysis.forward import Progress, predict_slices, with_head
from brainmri.analysis.lesions import diameters, find_lesions, find_parts, midline
from brainmri.io.reading import Scan, read_slice, read_study
from brainmri.zoo import ood
from brainmri.zoo.backends import versions
from brainmri.zoo.entry import rules_of
from brainmri.zoo.registry import DEFAULT, LoadedModel, load


class Pipeline:
    """A segmenter and a classifier, loaded once; call it with a slice, or `study` with a stack of them.

    Args:
        segmenter: name of the entry that draws the mask; the zoo's default when None.
        classifier: name of the entry that gives the verdict; None takes the segmenter itself where it has a verdict
            head, else the zoo's default.
        device: "auto", "cpu", "cuda", "mps" and so on.
        mask_threshold: on the probability map, in (0, 1); the segmenter's own when None.
        ood_model: the model whose out-of-distribution detector (`brainmri.zoo.ood`) checks the slices, where segmenter and
            classifier have none; the zoo's default when None.

    Raises:
        ValueError: for an unknown name, an entry without the task, a device that is not available, or a
            threshold outside (0, 1).
    """

    def __init__(
        self,
        segmenter: str | LoadedModel | None = None,
        classifier: str | LoadedModel | None = None,
        device: str = "auto",
        mask_threshold: float | None = None,
        ood_model: LoadedModel | None = None,
    ) -> None:
        self.segmenter = _model(segmenter or DEFAULT, "segmentation", device)
        if classifier is None:
            classifier = self.segmenter if "classification" in self.segmenter.entry.tasks else DEFAULT
        if isinstance(classifier, str) and classifier == self.segmenter.entry.name:
            classifier = self.segmenter
        self.classifier = _model(classifier, "classification", device)
        threshold = None if mask_threshold is None else float(mask_threshold)
        if threshold is not None and not 0 < threshold < 1:
            raise ValueError(f"expected a mask threshold between 0 and 1, both excluded, got {threshold}")
        own = [model for model in (self.segmenter, self.classifier) if model.ood]
        self.ood_model = own[0] if own else ood_model or load(DEFAULT, device=str(self.segmenter.device))
        self.rules = rules_of(self.segmenter.entry, self.classifier.entry, threshold)

    @property
    def mask_threshold(self) -> float:
        """On the probability map, in (0, 1)."""
        return self.rules.mask_threshold

    def __call__(self, source: str | Path | Image.Image | np.ndarray | Scan) -> Finding:
        """One slice: a path, a PIL image, an array (H, W[, 3 or 4]) or a `Scan`.

        Raises:
            FileNotFoundError: when the path is not a file.
            brainmri.io.reading.UnreadableImage: when the input cannot be read.
        """
        scan = source if isinstance(source, Scan) else read_slice(source)
        if scan.pixels.ndim != 3:
            raise ValueError(f"expected one slice (H, W, 3), got pixels of shape {scan.pixels.shape}; use study() for a stack")
        predicted = predict_slices(self.segmenter, self.classifier, scan.pixels[None], ood_model=self.ood_model)
        decisions = decide_slices(predicted, self.rules, "slice")
        return self._finding(decisions, 0, scan.warnings, self.provenance(scan), None)

    def study(self, source: str | Path | Sequence[str | Path] | np.ndarray | Scan, progress: Progress | None = None) -> Study:
        """A study: whatever `read_study` reads (a path, a list of them, an array (S, H, W[, 3])), or a `Scan`.

        Slices without a head in them are not analysed.

        Args:
            progress: called with the slices done and their number after each batch.

        Raises:
            FileNotFoundError: when the path does not exist.
            brainmri.io.reading.UnreadableImage: when the input cannot be read.
        """
        scan = source if isinstance(source, Scan) else read_study(source)
        geometry, warnings = scan.geometry, scan.warnings
        spacing = geometry.spacing[1:] if geometry else (1.0, 1.0)
        measured = geometry is not None and geometry.plausible
        if geometry and not measured:
            warnings += ("the voxel size cannot be that of a head; volumes are given in voxels and distances in pixels",)
        shown = with_head(scan.pixels)
        numbers = np.flatnonzero(shown)
        in_a_row = numbers[-1] - numbers[0] < len(numbers)  # then a view does; copies take time
        chosen = slice(numbers[0], numbers[-1] + 1) if in_a_row else numbers
        predicted = predict_slices(
            self.segmenter, self.classifier, scan.pixels[chosen], spacing, progress=progress, ood_model=self.ood_model
        )
        decisions = decide_slices(predicted, self.rules, _mode(scan))
        maps, mask = np.zeros(scan.pixels.shape[:3], np.float32), np.zeros(scan.pixels.shape[:3], bool)
        maps[chosen], mask[chosen] = decisions.maps, decisions.masks
        parts = find_parts(mask, geometry)
        provenance = self.provenance(scan)
        pixel = float(np.prod(spacing)) if measured else None
        places = iter(range(len(decisions.masks)))
        findings = tuple(
            self._finding(decisions, next(places), warnings, provenance, pixel)
            if analysed
            else _without_head(scan.pixels.shape[1:3], warnings, provenance, pixel)
            for analysed in shown
        )
        out_of_distribution = [number for number, finding in enumerate(findings) if finding.out_of_distribution]
        verdict, reason, carried_by = decide_study(
            [finding.verdict for finding in findings], out_of_distribution, int(shown.sum())
        )
        if out_of_distribution:
            warnings += (
                f"not counted, since they do not look like axial brain MR slices: {ranges(out_of_distribution)}; {ood.WARNING}",
            )
        return Study(
            verdict=verdict,
            reason=reason,
            carried_by=carried_by,
            findings=findings,
            mask=mask,
            probability_map=maps,
            diameters=tuple(diameters(parts, len(mask))),
            lesions=find_lesions(mask, parts, geometry, midline(scan.pixels)),
            sequences=scan.sequences,
            geometry=geometry,
            warnings=warnings,
            provenance=provenance,
        )

    def _finding(
        self, decisions: SliceDecisions, number: int, warnings: tuple[str, ...], provenance: dict, pixel: float | None
    ) -> Finding:
        """The finding of one slice; `pixel` is the pixel area in square millimetres where it is known."""
        verdict, reason = decisions.verdicts[number]
        check = decisions.ood[number]
        if check and check.reason:
            warnings = (*warnings, ood.WARNING)
        area = int(decisions.masks[number].sum())
        return Finding(
            verdict=verdict,
            reason=reason,
            probability=float(decisions.probabilities[number]),
            mask=decisions.masks[number],
            probability_map=decisions.maps[number],
            area_px=area,
            area_mm2=None if pixel is None else area * pixel,
            ood=check,
            warnings=warnings,
            provenance=provenance,
        )

    def provenance(self, scan: Scan) -> dict:
        """Input, models, thresholds, calibration and versions behind a finding on the scan."""
        ood_config = self.ood_model.entry.ood
        return {
            "input": {"sha256": scan.sha256},
            "segmenter": {"name": self.segmenter.entry.name, "sha256": self.segmenter.entry.sha256},
            "classifier": {"name": self.classifier.entry.name, "sha256": self.classifier.entry.sha256},
            "mask_threshold": self.mask_threshold,
            "review_band": list(self.rules.band(_mode(scan))),
            "calibration": self.rules.config(_mode(scan)),
            "ood": ood_config and {"name": self.ood_model.entry.name, **ood_config.config()},
            "device": self.segmenter.device.type,
            "runtime": self.segmenter.backend.kind,
            "versions": {
                "brainmri": __version__,
                "torch": torch.__version__,
                **versions(self.segmenter.backend.kind),
                "python": platform.python_version(),
            },
        }


def _model(chosen: str | LoadedModel, task: str, device: str) -> LoadedModel:
    model = load(chosen, device=device) if isinstance(chosen, str) else chosen
    if task not in model.entry.tasks:
        raise ValueError(f"{model.entry.name} does {' and '.join(model.entry.tasks)}, not {task}")
    return model


def _mode(scan: Scan) -> str:
    """ "study" where slices have neighbours, else "slice"."""
    return "study" if scan.pixels.ndim == 4 and len(scan.pixels) > 1 else "slice"


def _without_head(shape: tuple[int, int], warnings: tuple[str, ...], provenance: dict, pixel: float | None) -> Finding:
    return Finding(
        verdict=NO_TUMOUR,
        reason="No head in this slice; it was not analysed.",
        probability=0.0,
        mask=np.zeros(shape, bool),
        probability_map=np.zeros(shape, np.float32),
        area_px=0,
        area_mm2=None if pixel is None else 0.0,
        ood=None,
        warnings=warnings,
        provenance=provenance,
    )
