"""Image in, `Finding` or `Study` out."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from brainmri import __version__
from brainmri.findings import Finding, Study, decide
from brainmri.preprocess import Placement, Preprocess
from brainmri.reading import Scan, read_slice, read_study
from brainmri.zoo import DEFAULT, LoadedModel, load

BATCH = 8  # small batches are the faster ones on a CPU


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
        return self._findings(scan, scan.pixels[None])[0]

    def study(self, source: str | Path | Sequence[str | Path] | np.ndarray | Scan) -> Study:
        """A study: whatever `read_study` reads (a path, a list of them, an array (S, H, W[, 3])), or a `Scan` read already.

        Raises:
            FileNotFoundError: when nothing is there.
            brainmri.reading.UnreadableImage: when the input is refused, with a message that says why.
        """
        scan = source if isinstance(source, Scan) else read_study(source)
        findings = self._findings(scan, scan.pixels)
        return Study(
            findings=tuple(findings),
            mask=np.stack([f.mask for f in findings]),
            probability_map=np.stack([f.probability_map for f in findings]),
        )

    def _findings(self, scan: Scan, slices: np.ndarray) -> list[Finding]:
        provenance = self._provenance(scan)
        maps, placements, probabilities = self._predict(slices)
        findings = []
        for grid_map, placement, probability in zip(maps, placements, probabilities, strict=True):
            restored = self.segmenter.entry.preprocess.restore(grid_map, placement).numpy()
            mask = restored > self.mask_threshold
            verdict, reason = decide(probability, float((grid_map > self.mask_threshold).sum()), self.classifier.entry.review)
            findings.append(
                Finding(
                    verdict=verdict,
                    reason=reason,
                    probability=probability,
                    mask=mask,
                    probability_map=restored,
                    area_px=int(mask.sum()),
                    warnings=scan.warnings,
                    provenance=provenance,
                )
            )
        return findings

    def _predict(self, slices: np.ndarray) -> tuple[Tensor, list[Placement], list[float]]:
        """(S, H, W, 3) to mask probabilities (S, 1, h, w) on the segmenter's grid, placements, and verdict probabilities."""
        shared = self.classifier is self.segmenter
        preprocess = self.segmenter.entry.preprocess
        placed, placements = zip(*(preprocess(s) for s in slices), strict=True)
        maps, verdicts = run_model(self.segmenter, torch.stack(placed))
        if not shared:
            other = self.classifier.entry.preprocess
            _, verdicts = run_model(self.classifier, torch.stack([other(s)[0] for s in slices]))
        return maps, list(placements), verdicts.tolist()

    def _provenance(self, scan: Scan) -> dict:
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


@torch.inference_mode()
def run_model(model: LoadedModel, placed: Tensor, preprocess: Preprocess | None = None) -> tuple[Tensor | None, Tensor | None]:
    """What a network says of placed slices, averaged with what it says of their mirror images where its entry asks for it.

    Args:
        placed: (S, 3, h, w) in [0, 1].
        preprocess: normalises instead of the entry's own, to measure what its choice costs.

    Returns:
        Mask probabilities (S, 1, h, w) on the CPU, or None; calibrated tumour probabilities (S,), or None.
    """
    entry, net = model.entry, model.net
    maps, verdicts = [], []
    for part in (preprocess or entry.preprocess).normalise(placed).split(BATCH):
        image = part.to(model.device)
        views = torch.cat([image, image.flip(-1)]) if entry.flips else image
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
    return (torch.cat(maps) if maps else None), (torch.cat(verdicts) if verdicts else None)
