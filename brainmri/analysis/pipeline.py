"""Image in, `Finding` or `Study` out."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from brainmri._version import __version__
from brainmri.analysis.findings import NO_TUMOUR, REVIEW, Finding, Study, decide, decide_study, ranges
from brainmri.analysis.lesions import diameters, find_lesions, find_parts, midline, without_islands
from brainmri.io.pixels import FLAIR
from brainmri.io.reading import Scan, read_slice, read_study
from brainmri.zoo import ood
from brainmri.zoo.backends import versions
from brainmri.zoo.calibration import Rules, evidence
from brainmri.zoo.entry import rules_of
from brainmri.zoo.ood import OodResult
from brainmri.zoo.preprocess import Placement
from brainmri.zoo.registry import DEFAULT, LoadedModel, load

BATCH, ACCELERATED_BATCH = 4, 64  # on a CPU larger batches are no faster and take more memory
# a slice whose brightest parts are below this share of the study's brightest slice's shows no head
DARK = 0.1

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prediction:
    """What networks say of slices, in order along the head, before any rule; None for what no network was asked.

    Attributes:
        maps: (S, H, W) float32 in [0, 1], on the slices' own grid.
        grid_share: (S,) pixels of the network's grid for one of the slice's own.
        evidence: (S,) float64, `calibration.evidence` of the maps.
        logits: (S,) float64, of the verdict, tumour against no tumour.
        gate: for each slice whether it looks like one at all.
    """

    maps: np.ndarray | None = None
    grid_share: np.ndarray | None = None
    evidence: np.ndarray | None = None
    logits: np.ndarray | None = None
    ood: list[OodResult] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """A prediction of mask and verdict under the rules.

    Attributes:
        maps: (S, H, W) float32 in [0, 1].
        masks: (S, H, W) bool.
        probabilities: (S,) float64, calibrated, of tumour.
        verdicts: for each slice the verdict and its reason.
        gate: for each slice whether it looks like one at all; None where no gate was asked.
    """

    maps: np.ndarray
    masks: np.ndarray
    probabilities: np.ndarray
    verdicts: list[tuple[str, str]]
    ood: list[OodResult | None]


def outline(maps: np.ndarray, rules: Rules, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """(S, H, W) probability maps to those that are thresholded, and the masks; small islands are dropped in a "study"."""
    maps = rules.maps(maps, mode)
    masks = maps > rules.mask_threshold
    return maps, without_islands(masks) if mode == "study" else masks


def judge(predicted: Prediction, rules: Rules, mode: str) -> Judgement:
    """Apply the rules to a prediction of mask and verdict: of slices one by one ("slice"), or as one "study".

    In a study neighbours are heard where the entry has learned how, and small islands of the mask are dropped. What a gate
    doubts is for review.
    """
    maps, masks = outline(predicted.maps, rules, mode)
    probabilities = rules.probability(predicted.logits, predicted.evidence, mode)
    areas = masks.sum(axis=(1, 2)) * predicted.grid_share
    answers = predicted.ood or [None] * len(masks)
    verdicts = [
        (REVIEW, answer.reason) if answer and answer.reason else decide(float(p), float(area), rules.band(mode))
        for answer, p, area in zip(answers, probabilities, areas, strict=True)
    ]
    return Judgement(maps=maps, masks=masks, probabilities=probabilities, verdicts=verdicts, ood=answers)


class Pipeline:
    """A segmenter and a classifier, loaded once; call it with a slice, or `study` with a stack of them.

    Args:
        segmenter: name of the entry that draws the mask; the zoo's default when None.
        classifier: name of the entry that gives the verdict; None takes the segmenter itself where it has a verdict
            head, else the zoo's default.
        device: "auto", "cpu", "cuda", "mps" and so on.
        mask_threshold: on the probability map, in (0, 1); the segmenter's own when None.
        gatekeeper: the entry whose gate is asked whether a slice is an axial brain MR slice at all (`brainmri.zoo.ood`), where
            segmenter and classifier have none; the zoo's default when None.

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
            raise ValueError(f"a mask threshold of {threshold} came; it lies between 0 and 1, both excluded")
        own = [model for model in (self.segmenter, self.classifier) if model.ood]
        self.ood_model = own[0] if own else ood_model or load(DEFAULT, device=str(self.segmenter.device))
        self.rules = rules_of(self.segmenter.entry, self.classifier.entry, threshold)

    @property
    def mask_threshold(self) -> float:
        """On the probability map, in (0, 1)."""
        return self.rules.mask_threshold

    def __call__(self, source: str | Path | Image.Image | np.ndarray | Scan) -> Finding:
        """One slice: a path, a PIL image, an array (H, W[, 3 or 4]) or a `Scan` read already.

        Raises:
            FileNotFoundError: when the path is not a file.
            brainmri.io.reading.UnreadableImage: when the input is refused, with a message that says why.
        """
        scan = source if isinstance(source, Scan) else read_slice(source)
        if scan.pixels.ndim != 3:
            raise ValueError(f"pixels of shape {scan.pixels.shape} came; one slice is (H, W, 3); use study() for a stack")
        predicted = predict_slices(self.segmenter, self.classifier, scan.pixels[None], ood_model=self.ood_model)
        judged = judge(predicted, self.rules, "slice")
        return self._finding(judged, 0, scan.warnings, self.provenance(scan), None)

    def study(self, source: str | Path | Sequence[str | Path] | np.ndarray | Scan, progress: Progress | None = None) -> Study:
        """A study: whatever `read_study` reads (a path, a list of them, an array (S, H, W[, 3])), or a `Scan` read already.

        Slices without a head in them are not analysed.

        Args:
            progress: called with the slices done and their number after each batch.

        Raises:
            FileNotFoundError: when nothing is there.
            brainmri.io.reading.UnreadableImage: when the input is refused, with a message that says why.
        """
        scan = source if isinstance(source, Scan) else read_study(source)
        geometry, warnings = scan.geometry, scan.warnings
        spacing = geometry.spacing[1:] if geometry else (1.0, 1.0)
        measured = geometry is not None and geometry.plausible
        if geometry and not measured:
            warnings += ("the voxels' size cannot be right for a head; volumes are told in voxels and distances in pixels",)
        shown = with_head(scan.pixels)
        numbers = np.flatnonzero(shown)
        in_a_row = numbers[-1] - numbers[0] < len(numbers)  # then they are looked at where they lie; copies take their time
        chosen = slice(numbers[0], numbers[-1] + 1) if in_a_row else numbers
        predicted = predict_slices(
            self.segmenter, self.classifier, scan.pixels[chosen], spacing, progress=progress, ood_model=self.ood_model
        )
        judged = judge(predicted, self.rules, _mode(scan))
        maps, mask = np.zeros(scan.pixels.shape[:3], np.float32), np.zeros(scan.pixels.shape[:3], bool)
        maps[chosen], mask[chosen] = judged.maps, judged.masks
        parts = find_parts(mask, geometry)
        provenance = self.provenance(scan)
        pixel = float(np.prod(spacing)) if measured else None
        places = iter(range(len(judged.masks)))
        findings = tuple(
            self._finding(judged, next(places), warnings, provenance, pixel)
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
                f"not counted, for not looking like axial brain MR slices: {ranges(out_of_distribution)}; {ood.WARNING}",
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
        self, judged: Judgement, number: int, warnings: tuple[str, ...], provenance: dict, pixel: float | None
    ) -> Finding:
        """One slice of a judgement; `pixel` is its size in square millimetres where that is known."""
        verdict, reason = judged.verdicts[number]
        answer = judged.ood[number]
        if answer and answer.reason:
            warnings = (*warnings, ood.WARNING)
        area = int(judged.masks[number].sum())
        return Finding(
            verdict=verdict,
            reason=reason,
            probability=float(judged.probabilities[number]),
            mask=judged.masks[number],
            probability_map=judged.maps[number],
            area_px=area,
            area_mm2=None if pixel is None else area * pixel,
            ood=answer,
            warnings=warnings,
            provenance=provenance,
        )

    def provenance(self, scan: Scan) -> dict:
        """What a finding on the scan would be made of."""
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
    """Whether there are neighbours to hear: "study", or "slice" for a lone one."""
    return "study" if scan.pixels.ndim == 4 and len(scan.pixels) > 1 else "slice"


def with_head(pixels: np.ndarray) -> np.ndarray:
    """(S,) bool: which slices of (S, H, W, 3) show anything; all of them where none does."""
    bright = np.percentile(pixels[..., FLAIR].reshape(len(pixels), -1), 99, axis=1)
    return bright >= DARK * bright.max()


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


def predict_slices(
    segmenter: LoadedModel | None,
    classifier: LoadedModel | None,
    slices: np.ndarray,
    spacing: tuple[float, float] = (1.0, 1.0),
    normalise_over: str | None = None,
    progress: Progress | None = None,
    ood_model: LoadedModel | None = None,
) -> Prediction:
    """What a segmenter, a classifier or both say of slices.

    Args:
        slices: (S, H, W, 3) in [0, 1], in order along the head.
        spacing: between their rows and between their columns, in a common unit.
        normalise_over: "slice" or "volume" instead of the entries' own, to measure what the choice costs.
        progress: called with the slices done and their number after each batch of the first network.
        gatekeeper: whose gate, where it has one, is asked about the slices too.
    """
    done: dict[int, tuple] = {}
    for model in (segmenter, classifier):
        if model is not None and id(model) not in done:
            images, placements = _place(model, slices, spacing, normalise_over)
            done[id(model)] = (*run_model(model, images, None if done else progress), placements)
    said: dict = {}
    if ood_model is not None and ood_model.ood:
        if id(ood_model) in done:
            features = done[id(ood_model)][2]
        else:
            features = encoder_features(ood_model, _place(ood_model, slices, spacing)[0], ood_model.ood.feature_spec)
        said["ood"] = ood_model.ood.score(features.cpu().numpy(), slices)
    if segmenter is not None:
        grid_maps, *_, placements = done[id(segmenter)]
        grid_maps = grid_maps.to(_resizing(segmenter))
        restored = [segmenter.entry.preprocess.restore(m, p) for m, p in zip(grid_maps, placements, strict=True)]
        # one copy from a GPU, not one a slice
        said |= {"maps": torch.stack(restored).cpu().numpy(), "evidence": evidence(grid_maps.cpu())}
        said["grid_share"] = np.array([p.placed[2] * p.placed[3] / (p.crop[2] * p.crop[3]) for p in placements])
    if classifier is not None:
        said["logits"] = done[id(classifier)][1].cpu().double().numpy()
    return Prediction(**said)


def _place(
    model: LoadedModel, slices: np.ndarray, spacing: tuple[float, float], normalise_over: str | None = None
) -> tuple[Tensor, tuple[Placement, ...]]:
    """Slices as a network takes them, (S, 3, h, w) on its device, and where each stands on its grid."""
    preprocess = model.entry.preprocess
    preprocess = replace(preprocess, normalise_over=normalise_over or preprocess.normalise_over)
    placed, placements = zip(*(preprocess(s, spacing, _resizing(model)) for s in slices), strict=True)
    return preprocess.normalise(torch.stack(placed)).to(model.device), placements


def _resizing(model: LoadedModel) -> torch.device:
    """The device that brings slices to a network's grid and maps back; not every accelerator knows antialiasing."""
    return model.device if model.device.type == "cuda" else torch.device("cpu")


def _batches(model: LoadedModel, images: Tensor) -> tuple[Tensor, ...]:
    """Images in parts that suit the network's device."""
    return images.split(BATCH if model.device.type == "cpu" else ACCELERATED_BATCH)


@torch.inference_mode()
def encoder_features(model: LoadedModel, images: Tensor, feature_spec: ood.FeatureSpec) -> Tensor:
    """What a gate looks at (`ood.pool_features`) of normalised slices (S, 3, h, w) on the model's device, by its encoder: (S, D)."""
    batches = (image.to(memory_format=torch.channels_last) for image in _batches(model, images))
    return torch.cat([ood.pool_features(model.net.forward_features(image), feature_spec) for image in batches])


@torch.inference_mode()
def run_model(
    model: LoadedModel, images: Tensor, progress: Progress | None = None
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """What a network says of normalised slices, averaged with what it says of their mirror images where its entry asks for it.

    Args:
        images: (S, 3, h, w), normalised, on the network's device.
        progress: called with the slices done and their number after each batch; on a GPU, once the batch stands in line.

    Returns:
        Mask probabilities (S, 1, h, w), or None; verdict logits (S,), tumour against no tumour, or None; where the entry has a
        gate, what that looks at (S, D), of the slices as they are, or None. On the network's device, which may still be at it:
        waiting for each batch would leave a GPU idle.
    """
    entry = model.entry
    maps, verdicts, features = [], [], []
    done = 0
    for image in _batches(model, images):
        views = torch.cat([image, image.flip(-1)]) if entry.flips else image
        said = model.backend(views)
        if said.features is not None:
            features.append(said.features[: len(image)])
        if said.mask is not None:
            probability = said.mask.sigmoid()
            if entry.flips:
                straight, mirrored = probability.chunk(2)
                probability = (straight + mirrored.flip(-1)) / 2
            maps.append(probability)
        if said.verdict is not None:
            # the mean of the logits, not of probabilities, so that one temperature calibrates both views
            mean = torch.stack(said.verdict.chunk(2)).mean(0) if entry.flips else said.verdict
            verdicts.append(mean)
        done += len(image)
        if progress:
            progress(done, len(images))
    return tuple(torch.cat(parts) if parts else None for parts in (maps, verdicts, features))
