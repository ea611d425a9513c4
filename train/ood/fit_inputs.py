"""Fit the detector of an entry for any head: python -m train.ood.fit_inputs NAME --validated RUN --data DIR --wider DIR

Heads in every plane and sequence, with and without skull, are in distribution, and so are phantoms (`train.phantoms`), without
which synthetic MR heads would be taken for synthetic CT heads. The classes of the distance are plane and sequence, and phantoms.
The other images are CT, other parts of the body, photographs, drawings and so on (`train.ood.negatives`, and the pictures that
are no brain MR slices), and synthetic CT heads (`train.ood.synthetic_ct`), made from the slices that the network was trained on.

The validated run sets the thresholds by its validation slices, and measures each kind of other images with a detector that was
fitted without that kind, and with two that were fitted with the other half of it; what is synthetic is in every fit. What the
check lets pass need not get a verdict: for each kind, the images are also counted that the whole analysis, with a detector fitted
without the kind, does not send to review. Run this after `train.release.release_inputs`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from brainmri.analysis.findings import REVIEW
from brainmri.analysis.forward import encoder_features
from brainmri.analysis.frame import find_panels
from brainmri.analysis.pipeline import Pipeline
from brainmri.io.pixels import to_unit
from brainmri.report.metric_tables import ood_table
from brainmri.zoo.attributes import PLANES
from brainmri.zoo.entry import read_split, update_config
from brainmri.zoo.ood import OodDetector, check_pixels
from brainmri.zoo.registry import EMBEDDED, LoadedModel, load
from train.datasets import dataset_of
from train.datasets.wider import find_pictures, read_picture
from train.evaluation.inputs import validation_views
from train.examples import CHANNELS, WITHOUT_SKULL, Example, patient_examples, picture_examples, single_sequence
from train.mix import CUT
from train.ood.fit import FEATURES, fit_tensors, shares, show, write_ood_detector
from train.ood.negatives import PACKAGES
from train.ood.synthetic_ct import synthetic_ct
from train.phantoms import phantom_slice
from train.release.card import write_card
from train.uploads import as_upload

STEP = 3  # every third training slice, since neighbours are alike
PHANTOMS, PHANTOM_SIZES = 60, (128, 192, 256)  # their number, twice that of the smallest class below; sides in pixels
CHANGED = 0.5  # share of the training slices that are changed into uploads first (`train.uploads`)
SMALLEST_CLASS = 30  # slices of a plane and sequence that make a class; the others form one class together
# kinds of `train.ood.negatives` that are in distribution here, or that the page takes apart before the networks run
NOT_OTHER = ("sagittal and coronal", "screenshots and sheets of slices, and crops", "blank")
DISTANCE_SHARE, OTHER_SHARE = 0.003, 0.015  # of validation slices beyond each threshold
SYNTHETIC_CT = "synthetic CT heads"
INVERSE_REGULARISATION = 1.0  # `C` of the logistic regression


def training_examples(model: LoadedModel, data: Path, wider: Path) -> list[Example]:
    """Every third slice that a network was trained on; a patient's slices in turn as three sequences and as each of them."""
    trained_on = set(read_split(model.entry.folder)["train"])
    examples = [e for e in picture_examples(wider) if e.group in trained_on][::STEP]
    for case, slices in dataset_of(model.entry).find_slices(data).items():
        if case in trained_on:
            for number, example in enumerate(patient_examples(slices)[::STEP]):
                name = (None, *CHANNELS)[number % (1 + len(CHANNELS))]
                examples.append(single_sequence(example, name) if name else example)
    return examples


def classes_of(examples: list[Example]) -> np.ndarray:
    """(n,) the class of each: its plane and sequence, or the last class."""
    labels = np.array([f"{e.plane} {e.sequence}" for e in examples])
    large = [name for name in np.unique(labels) if (labels == name).sum() >= SMALLEST_CLASS]
    classes = np.full(len(labels), len(large))
    for number, name in enumerate(large):
        classes[labels == name] = number
    return np.unique(classes, return_inverse=True)[1]


def upload_of(example: Example, seed: int) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1]: the slice, or the slice as somebody may upload it."""
    random = np.random.default_rng(seed)
    pixels = example.pixels
    if random.random() < CHANGED:
        removal = 0.0 if example.collection in WITHOUT_SKULL else 0.35
        pixels, _ = as_upload(pixels, example.mask.astype(np.float32), random, skull_removal=removal)
    return find_slice(to_unit(np.ascontiguousarray(pixels)))


def ct_heads(examples: list[Example]) -> list[np.ndarray]:
    """(H, W, 3) in [0, 1]: a synthetic CT head for each axial slice of a head with skull, half of them changed into uploads."""
    found = []
    for seed, example in enumerate(examples):
        random = np.random.default_rng((seed, 1))
        if example.plane != PLANES.index("axial") or example.collection in WITHOUT_SKULL:
            continue
        grey = synthetic_ct(random.choice(example.pixels, axis=2), random)
        if grey is not None:
            pixels = np.repeat(grey[..., None], 3, axis=2)
            if random.random() < CHANGED:
                pixels, _ = as_upload(pixels, np.zeros(grey.shape, np.float32), random, skull_removal=0)
            found.append(find_slice(to_unit(np.ascontiguousarray(pixels))))
    return found


def phantoms() -> list[np.ndarray]:
    """(H, W, 3) in [0, 1]: synthetic MR heads in several sizes, with three sequences or FLAIR only, with and without a lesion."""
    drawn = []
    for seed in range(PHANTOMS):
        size, lesion = PHANTOM_SIZES[seed % len(PHANTOM_SIZES)], {} if seed % 2 else {"lesion": None}
        pixels, _ = phantom_slice(size=size, seed=seed, flair_only=seed % 4 < 2, **lesion)
        drawn.append(find_slice(to_unit(pixels)))
    return drawn


def find_slice(unit: np.ndarray) -> np.ndarray:
    """The first slice of a picture, as the page finds it."""
    return find_panels(unit)[0].cut(unit)


def views_of(unit: np.ndarray) -> list[np.ndarray]:
    """What the page tries of a picture's first slice: the slice, and on a page also with its grey values inverted back."""
    panel = find_panels(unit)[0]
    return [panel.cut(unit)] if panel.page is None else [panel.cut(unit), panel.cut_inverted(unit)]


def features_of(model: LoadedModel, units: list[np.ndarray]) -> np.ndarray:
    """(n, D + E) features of slices (H, W, 3) in [0, 1]."""
    preprocess = model.entry.preprocess
    found = []
    for start in tqdm(range(0, len(units), 16), desc=model.entry.folder.name, unit="batch"):
        placed = torch.stack([preprocess(unit)[0] for unit in units[start : start + 16]])
        found.append(encoder_features(model, preprocess.normalise(placed), FEATURES).numpy())
    return np.concatenate(found)


def other_images(wider: Path) -> dict[str, list[np.ndarray]]:
    """By kind, images (H, W[, 3]) that are no brain MR slices; those that pixels rule out are left in."""
    kinds: dict[str, list[np.ndarray]] = {}
    for picture in find_pictures(wider):
        if picture.tumour is None:
            kinds.setdefault(picture.collection, []).append(read_picture(picture)[0])
    return kinds | {kind: list(images()) for kind, images in PACKAGES.items() if kind not in NOT_OTHER}


def features_by_image(model: LoadedModel, images: list[list[np.ndarray]]) -> list[np.ndarray]:
    """Of each image the features of its views, (views, D + E)."""
    return np.split(features_of(model, flatten(images)), np.cumsum([len(views) for views in images])[:-1])


def flatten(images: list[list[np.ndarray]]) -> list[np.ndarray]:
    """The views of all images, one after the other."""
    return [view for views in images for view in views]


def rejects_images(detector: OodDetector, features: np.ndarray, images: list[list[np.ndarray]]) -> list[bool]:
    """Whether each image is out of distribution: it is if all its views are, since the page takes the likeliest one."""
    rejected = iter(rejects(detector, features, flatten(images)))
    return [all([next(rejected) for _ in views]) for views in images]


@dataclass(frozen=True, kw_only=True, eq=False)
class FitData:
    """What detectors of a network are fitted on, as features of `features_of`.

    Attributes:
        slices: (n, D + E), of brain MR slices and phantoms.
        classes: (n,) the class of each.
        others: by kind, (m, D + E), of other images, and of synthetic CT heads.
        near: D, the features that count for the distance.
    """

    slices: np.ndarray
    classes: np.ndarray
    others: dict[str, np.ndarray]
    near: int

    @classmethod
    def of(cls, model: LoadedModel, examples: list[Example], others: dict[str, list[np.ndarray]]) -> FitData:
        """The features of training slices, changed into uploads, of other images as they are, and of what is synthetic.

        `others` are by kind the features of `features_by_image`. Those of inverted views are left out: with them, more necks pass
        (EXPERIMENTS.md).
        """
        synthetic = {SYNTHETIC_CT: features_of(model, heads)} if (heads := ct_heads(examples)) else {}
        classes = classes_of(examples)
        return cls(
            slices=features_of(model, [*(upload_of(example, seed) for seed, example in enumerate(examples)), *phantoms()]),
            classes=np.append(classes, np.full(PHANTOMS, classes.max() + 1)),
            others={kind: np.stack([views[0] for views in images]) for kind, images in others.items()} | synthetic,
            near=FEATURES.distance_size(model.net.feature_channels),
        )

    def fit(self, known: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """A detector's tensors, as by `fit_tensors`; all kinds of other images weigh the same.

        Args:
            known: by kind, the features of the images that are used instead of all of the kind; an empty array leaves it out.
        """
        others = [kind for kind in (self.others | dict(known or {})).values() if len(kind)]
        images = np.concatenate(others)
        weights = np.concatenate([np.full(len(kind), len(images) / len(others) / len(kind)) for kind in others])
        return fit_tensors(self.slices, self.classes, [images], self.near, weights, INVERSE_REGULARISATION)


def make_detector(tensors: dict[str, np.ndarray]) -> OodDetector:
    """A detector without thresholds."""
    return OodDetector.from_tensors(
        tensors, distance_threshold=np.inf, other_threshold=np.inf, feature_spec=FEATURES, any_plane=True
    )


def rejects(detector: OodDetector, features: np.ndarray, units: list[np.ndarray]) -> list[bool]:
    """Whether each image is out of distribution."""
    far = detector.distance(features) > detector.distance_threshold
    other = detector.other_log_odds(features) > detector.other_threshold
    checks = [check_pixels(unit) for unit in units]
    return [reason is not None if decided else bool(f or o) for (decided, reason), f, o in zip(checks, far, other, strict=True)]


def choose_thresholds(detector: OodDetector, features: np.ndarray) -> dict[str, float]:
    """The scores that `DISTANCE_SHARE` and `OTHER_SHARE` of validation slices exceed."""
    return {
        "distance_threshold": round(float(np.quantile(detector.distance(features), 1 - DISTANCE_SHARE)), 3),
        "other_threshold": round(float(np.quantile(detector.other_log_odds(features), 1 - OTHER_SHARE)), 3),
    }


def measure(run: Path, data: Path, wider: Path, images: dict[str, list[list[np.ndarray]]]) -> dict:
    """Thresholds from a validated run, and the shares of its `real` slices and of other images that are rejected.

    Each kind of other images, by their views, is measured as `negatives` by a detector, with its own thresholds, that was fitted
    without the kind, and as `halves` by two that were fitted with every second image of it, each on the other images.
    """
    model = load(run, device="cpu")
    by_image = {kind: features_by_image(model, of_kind) for kind, of_kind in images.items()}
    fitted_on = FitData.of(model, training_examples(model, data, wider), by_image)
    views = validation_views(run, model, data, wider)[::2]
    units = [to_unit(np.ascontiguousarray(view.example.pixels)) for view in views]
    features = features_of(model, units)

    def detector_of(tensors: dict[str, np.ndarray]) -> OodDetector:
        detector = make_detector(tensors)
        return replace(detector, **choose_thresholds(detector, features))

    detector = detector_of(fitted_on.fit())
    names = [f"{view.dataset}, cut" if view.example.source == CUT else view.dataset for view in views]
    negatives: list[tuple[str, bool]] = []
    halves: list[tuple[str, bool]] = []
    for kind, of_kind in images.items():
        found, of_views = fitted_on.others[kind], by_image[kind]
        parts = [(negatives, found[:0], slice(None))]
        if len(found) > 1:
            parts += [(halves, found[half::2], slice(1 - half, None, 2)) for half in (0, 1)]
        for results, known, measured in parts:
            tensors = fitted_on.fit({kind: known})
            rejected = rejects_images(detector_of(tensors), np.concatenate(of_views[measured]), of_kind[measured])
            results += [(kind, one) for one in rejected]
    return {
        "thresholds": {"distance_threshold": detector.distance_threshold, "other_threshold": detector.other_threshold},
        "real": shares(zip(names, rejects(detector, features, units), strict=True)),
        "negatives": shares(negatives),
        "halves": shares(halves),
    }


def count_for_review(
    model: LoadedModel, fitted_on: FitData, images: dict[str, list[np.ndarray]], thresholds: dict[str, float]
) -> dict[str, dict]:
    """The shares of other images that an analysis by a model alone sends to review, each kind with a check fitted without it."""
    alone = replace(model, entry=replace(model.entry, specialist=None))
    found: list[tuple[str, bool]] = []
    for kind, others in images.items():
        detector = replace(make_detector(fitted_on.fit({kind: fitted_on.others[kind][:0]})), **thresholds)
        pipe = Pipeline(replace(alone, ood=detector))
        found += [(kind, pipe(image).verdict == REVIEW) for image in tqdm(others, desc=kind, unit="image")]
    return shares(found, REVIEW)


def main(arguments: list[str] | None = None) -> dict:
    """Fit, write, measure; returns the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="entry to fit the detector for")
    parser.add_argument("--data", type=Path, required=True, help="the LGG dataset")
    parser.add_argument("--wider", type=Path, required=True, help="folder with the index.csv of other heads")
    parser.add_argument("--validated", type=Path, required=True, help="run with validation patients and groups")
    parser.add_argument("--into", type=Path, default=EMBEDDED, help="folder of entries")
    parser.add_argument("--out", type=Path, help="where a JSON report goes")
    options = parser.parse_args(arguments)
    images = other_images(options.wider)
    views = {kind: [views_of(to_unit(image)) for image in found] for kind, found in images.items()}
    report = measure(options.validated, options.data, options.wider, views)
    folder = options.into / options.name
    model = load(options.name, weights=folder, device="cpu")
    by_image = {kind: features_by_image(model, of_kind) for kind, of_kind in views.items()}
    fitted_on = FitData.of(model, training_examples(model, options.data, options.wider), by_image)
    write_ood_detector(folder, fitted_on.fit(), report["thresholds"], any_plane=True)
    checked = load(options.name, weights=folder, device="cpu")  # computes what the detector needs
    report["review"] = count_for_review(checked, fitted_on, images, report["thresholds"])
    if metrics := checked.entry.metrics:
        measured = {part: report[part] for part in ("real", "negatives", "halves", "review")}
        write_card(update_config(folder, metrics=replace(metrics, ood=measured).config()))
    show(ood_table(report), report, options.out)
    return report


if __name__ == "__main__":
    main()
