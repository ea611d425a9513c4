"""Image in, `Finding` or `Study` out."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from brainmri import __version__
from brainmri.findings import NO_TUMOUR, Finding, Study, decide, decide_study
from brainmri.lesions import diameters, find_lesions, midline, without_islands
from brainmri.preprocess import FLAIR, Preprocess
from brainmri.reading import Scan, read_slice, read_study
from brainmri.zoo import DEFAULT, LoadedModel, load

BATCH, ACCELERATED_BATCH = 8, 64  # small batches are the faster ones on a CPU
# a slice whose brightest parts are below this share of the study's brightest slice's shows no head
DARK = 0.1

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class _Raw:
    """What the networks say of one slice, before any rule: the calibrated probability, the map on the image's own grid."""

    probability: float
    probability_map: np.ndarray
    area_on_grid: int


class Pipeline:
    """A segmenter and a classifier, loaded once; call it with a slice, or `study` with a stack of them.

    Args:
        segmenter: name of the entry that draws the mask; the zoo's default when None.
        classifier: name of the entry that gives the verdict; None takes the segmenter itself where it has a verdict
            head, else the zoo's default.
        device: "auto", "cpu", "cuda", "mps" and so on.
        mask_threshold: on the probability map, in (0, 1); the segmenter's own when None.

    Raises:
        ValueError: for an unknown name, an entry without the task asked of it, a device that is not there, or a
            threshold outside (0, 1).
    """

    def __init__(
        self,
        segmenter: str | LoadedModel | None = None,
        classifier: str | LoadedModel | None = None,
        device: str = "auto",
        mask_threshold: float | None = None,
    ) -> None:
        self.segmenter = _model(segmenter or DEFAULT, "segmentation", device)
        if classifier is None:
            classifier = self.segmenter if "classification" in self.segmenter.entry.tasks else DEFAULT
        if isinstance(classifier, str) and classifier == self.segmenter.entry.name:
            classifier = self.segmenter
        self.classifier = _model(classifier, "classification", device)
        threshold = self.segmenter.entry.mask_threshold if mask_threshold is None else float(mask_threshold)
        if not 0 < threshold < 1:
            raise ValueError(f"a mask threshold of {threshold} came; it lies between 0 and 1, both excluded")
        self.mask_threshold = threshold

    def __call__(self, source: str | Path | Image.Image | np.ndarray | Scan) -> Finding:
        """One slice: a path, a PIL image, an array (H, W[, 3 or 4]) or a `Scan` read already.

        Raises:
            FileNotFoundError: when the path is not a file.
            brainmri.reading.UnreadableImage: when the input is refused, with a message that says why.
        """
        scan = source if isinstance(source, Scan) else read_slice(source)
        if scan.pixels.ndim != 3:
            raise ValueError(f"pixels of shape {scan.pixels.shape} came; one slice is (H, W, 3); use study() for a stack")
        raw = self._predict(scan.pixels[None], (1.0, 1.0))[0]
        return self._finding(raw, raw.probability_map > self.mask_threshold, scan.warnings, self.provenance(scan), None)

    def study(self, source: str | Path | Sequence[str | Path] | np.ndarray | Scan, progress: Progress | None = None) -> Study:
        """A study: whatever `read_study` reads (a path, a list of them, an array (S, H, W[, 3])), or a `Scan` read already.

        Slices without a head in them are not analysed, and small islands of the mask are dropped (`lesions.without_islands`).

        Args:
            progress: called with the slices done and their number after each batch.

        Raises:
            FileNotFoundError: when nothing is there.
            brainmri.reading.UnreadableImage: when the input is refused, with a message that says why.
        """
        scan = source if isinstance(source, Scan) else read_study(source)
        geometry, warnings = scan.geometry, scan.warnings
        spacing = geometry.spacing[1:] if geometry else (1.0, 1.0)
        measured = geometry is not None and geometry.plausible
        if geometry and not measured:
            warnings += ("the voxels' size cannot be right for a head; volumes are told in voxels and distances in pixels",)
        shown = with_head(scan.pixels)
        raws = dict(zip(np.flatnonzero(shown), self._predict(scan.pixels[shown], spacing, progress), strict=True))
        maps = np.zeros(scan.pixels.shape[:3], np.float32)
        for number, raw in raws.items():
            maps[number] = raw.probability_map
        mask = without_islands(maps > self.mask_threshold)
        provenance = self.provenance(scan)
        pixel = float(np.prod(spacing)) if measured else None
        findings = tuple(
            self._finding(raws[number], mask[number], warnings, provenance, pixel)
            if number in raws
            else Finding(
                verdict=NO_TUMOUR, reason="No head in this slice; it was not analysed.", probability=0.0, mask=mask[number],
                probability_map=maps[number], area_px=0, area_mm2=None if pixel is None else 0.0, warnings=warnings,
                provenance=provenance,
            )
            for number in range(len(maps))
        )  # fmt: skip
        verdict, reason, carried_by = decide_study([finding.verdict for finding in findings])
        return Study(
            verdict=verdict,
            reason=reason,
            carried_by=carried_by,
            findings=findings,
            mask=mask,
            probability_map=maps,
            diameters=tuple(diameters(mask, spacing if measured else (1.0, 1.0))),
            lesions=find_lesions(mask, geometry, midline(scan.pixels)),
            sequences=scan.sequences,
            geometry=geometry,
            warnings=warnings,
            provenance=provenance,
        )

    def _finding(
        self, raw: _Raw, mask: np.ndarray, warnings: tuple[str, ...], provenance: dict, pixel_mm2: float | None
    ) -> Finding:
        verdict, reason = decide(raw.probability, raw.area_on_grid if mask.any() else 0, self.classifier.entry.review)
        area = int(mask.sum())
        return Finding(
            verdict=verdict,
            reason=reason,
            probability=raw.probability,
            mask=mask,
            probability_map=raw.probability_map,
            area_px=area,
            area_mm2=None if pixel_mm2 is None else area * pixel_mm2,
            warnings=warnings,
            provenance=provenance,
        )

    def _predict(self, slices: np.ndarray, spacing: tuple[float, float], progress: Progress | None = None) -> list[_Raw]:
        """What the networks say of (S, H, W, 3) slices of pixels of that height and width."""
        shared = self.classifier is self.segmenter
        preprocess = self.segmenter.entry.preprocess
        placed, placements = zip(*(preprocess(s, spacing) for s in slices), strict=True)
        maps, verdicts = run_model(self.segmenter, torch.stack(placed), progress=progress)
        if not shared:
            other = self.classifier.entry.preprocess
            _, verdicts = run_model(self.classifier, torch.stack([other(s, spacing)[0] for s in slices]))
        return [
            _Raw(
                probability=probability,
                probability_map=preprocess.restore(grid_map, placement).numpy(),
                area_on_grid=int((grid_map > self.mask_threshold).sum()),
            )
            for grid_map, placement, probability in zip(maps, placements, verdicts.tolist(), strict=True)
        ]

    def provenance(self, scan: Scan) -> dict:
        """What a finding on the scan would be made of."""
        return {
            "input": {"sha256": scan.sha256},
            "segmenter": {"name": self.segmenter.entry.name, "sha256": self.segmenter.entry.sha256},
            "classifier": {"name": self.classifier.entry.name, "sha256": self.classifier.entry.sha256},
            "mask_threshold": self.mask_threshold,
            "review_band": list(self.classifier.entry.review),
            "temperature": self.classifier.entry.temperature,
            "device": self.segmenter.device.type,
            "versions": {"brainmri": __version__, "torch": torch.__version__, "python": platform.python_version()},
        }


def _model(chosen: str | LoadedModel, task: str, device: str) -> LoadedModel:
    model = load(chosen, device=device) if isinstance(chosen, str) else chosen
    if task not in model.entry.tasks:
        raise ValueError(f"{model.entry.name} does {' and '.join(model.entry.tasks)}, not {task}")
    return model


def with_head(pixels: np.ndarray) -> np.ndarray:
    """(S,) bool: which slices of (S, H, W, 3) show anything; all of them where none does."""
    bright = np.percentile(pixels[..., FLAIR].reshape(len(pixels), -1), 99, axis=1)
    return bright >= DARK * bright.max()


@torch.inference_mode()
def run_model(
    model: LoadedModel, placed: Tensor, preprocess: Preprocess | None = None, progress: Progress | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """What a network says of placed slices, averaged with what it says of their mirror images where its entry asks for it.

    Args:
        placed: (S, 3, h, w) in [0, 1].
        preprocess: normalises instead of the entry's own, to measure what its choice costs.
        progress: called with the slices done and their number after each batch.

    Returns:
        Mask probabilities (S, 1, h, w) on the CPU, or None; calibrated tumour probabilities (S,), or None.
    """
    entry, net = model.entry, model.net
    maps, verdicts = [], []
    done, batch = 0, BATCH if model.device.type == "cpu" else ACCELERATED_BATCH
    for part in (preprocess or entry.preprocess).normalise(placed).split(batch):
        image = part.to(model.device)
        views = torch.cat([image, image.flip(-1)]) if entry.flips else image
        views = views.to(memory_format=torch.channels_last)  # a quarter faster, on a CPU too
        logits, verdict = None, None
        if len(entry.tasks) == 2:
            logits, verdict = net.both(views)
        elif "segmentation" in entry.tasks:
            logits = net(views)
        else:
            verdict = net(views)
        if logits is not None:
            probability = logits.sigmoid()
            if entry.flips:
                straight, mirrored = probability.chunk(2)
                probability = (straight + mirrored.flip(-1)) / 2
            maps.append(probability.cpu())
        if verdict is not None:
            # the mean of the logits, not of probabilities, so that one temperature calibrates both views
            mean = torch.stack(verdict.chunk(2)).mean(0) if entry.flips else verdict
            verdicts.append((mean / entry.temperature).softmax(1)[:, 1].cpu())
        done += len(part)
        if progress:
            progress(done, len(placed))
    return (torch.cat(maps) if maps else None), (torch.cat(verdicts) if verdicts else None)
