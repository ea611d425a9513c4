"""Fit an entry's out-of-distribution detector: python -m train.ood.fit NAME --data DIR --validated RUN… [--out ood.json]

The detector (`brainmri.zoo.ood`) depends on the entry's weights, so fit it again whenever they change. Its statistics come from
the entry's own training patients. Its thresholds come from other patients: each validated run is a fold of the same recipe; it
is fitted on its training patients and applied to its validation patients, and their scores set the thresholds. The command
writes the entry's `ood.safetensors` and the thresholds in `config.json`, and prints both error rates: for real slices of
patients that were not in the fit, and for `train.ood.negatives`. The held-out patients are in neither.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from tqdm import tqdm

from brainmri.analysis.forward import encoder_features, with_head
from brainmri.io.pixels import FLAIR, to_unit
from brainmri.io.reading import read_study
from brainmri.report.metric_tables import markdown_table
from brainmri.zoo.entry import INT8, INT8_WEIGHTS, OOD, file_sha256, read_entry, read_split, update_config
from brainmri.zoo.ood import OodDetector, check_pixels
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.records import FeatureSpec, OodConfig
from brainmri.zoo.registry import EMBEDDED, LoadedModel, load
from train.datasets import dataset_of
from train.evaluation.healthy import sources
from train.ood.negatives import ASSETS, PACKAGES, altered, reformatted
from train.release.card import write_card

STEP = 4  # every fourth slice of a training patient, since neighbours are alike
ROTATED_AT = (0.35, 0.65)  # along the head: the slices that are rotated; the round ends of a head look alike in every orientation
# Largest shares of other patients' slices beyond each threshold. Together with the pixel checks they keep the false alarms under
# 1%, with a margin for the sample of patients.
DISTANCE_SHARE, ORIENTATION_SHARE = 0.004, 0.003
FEATURES = FeatureSpec(means=(4,), deviations=(3, 4), parts=(4,))  # the maps at 1/8 and 1/16; for others see EXPERIMENTS.md
INVERSE_REGULARISATION = 0.1  # `C` of the logistic regression
HEADS = 2  # synthetic heads, each with and without T1
VARIANTS = ("three sequences", "FLAIR only")


@dataclass(frozen=True, kw_only=True)
class PreparedImages:
    """Images as the detector takes them.

    Attributes:
        images: (n, 3, h, w), normalised.
        decided: (n,) bool, whether the pixel checks alone decide.
        rejected: (n,) bool, whether they find the image out of distribution.
    """

    images: Tensor
    decided: np.ndarray
    rejected: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Features of images that were not used to fit the detector.

    Attributes:
        kinds: (n,) what each image is.
        head: (n,) bool, whether a study would analyse it (`with_head`).
        decided, rejected: (n,) bool, as in `PreparedImages`.
        features: (n, D).
    """

    kinds: np.ndarray
    head: np.ndarray
    decided: np.ndarray
    rejected: np.ndarray
    features: np.ndarray


@dataclass(kw_only=True)
class Network:
    """A network, its patients, and the features collected from them.

    Attributes:
        upright: features (n, D) of each training patient's slices.
        rotated: features of some of these slices, rotated by 90, 180 and 270 degrees, a list for each angle.
        real: each validation patient's slices.
        negatives: images made from these slices that are no upright axial slices.
    """

    model: LoadedModel
    train: frozenset[str]
    validation: frozenset[str]
    upright: list[np.ndarray] = field(default_factory=list)
    rotated: tuple[list, list, list] = field(default_factory=lambda: ([], [], []))
    real: list[Samples] = field(default_factory=list)
    negatives: list[Samples] = field(default_factory=list)

    def features(self, images: Tensor) -> np.ndarray:
        """(n, 3, h, w) normalised images to (n, D) features."""
        return encoder_features(self.model, images, FEATURES).numpy()

    def samples(self, kinds: list[str], prepared: PreparedImages, head: np.ndarray | bool = True) -> Samples:
        """What the detector needs of these images."""
        return Samples(
            kinds=np.array(kinds), head=np.broadcast_to(head, len(kinds)), decided=prepared.decided, rejected=prepared.rejected,
            features=self.features(prepared.images),
        )  # fmt: skip


def open_network(source: str | Path, folder: Path) -> Network:
    """An entry or a run, with the patients of its `split.json`."""
    split = read_split(folder)
    model = load(source, weights=folder, device="cpu")
    return Network(model=model, train=frozenset(split["train"]), validation=frozenset(split["validation"]))


def prepare(images: Iterable[np.ndarray], preprocess: Preprocess) -> PreparedImages:
    """Preprocess images as read, (H, W) or (H, W, 3) each."""
    units = [to_unit(image) for image in images]
    decided, reasons = zip(*map(check_pixels, units), strict=True)
    placed = preprocess.normalise(torch.stack([preprocess(unit)[0] for unit in units]))
    return PreparedImages(images=placed, decided=np.array(decided), rejected=np.array([reason is not None for reason in reasons]))


def make_negatives(volume: np.ndarray, colour: int) -> tuple[list[str], list[np.ndarray]]:
    """Kinds and images of what a patient's slices (S, H, W, 3) uint8 give that is no axial slice with the nose up.

    Args:
        volume: slices from below.
        colour: number of the first colour map, see `altered`.
    """
    shown = [volume[int(place * (len(volume) - 1))] for place in ROTATED_AT]
    made = [*altered(shown, colour), *(("sagittal and coronal, of patients", plane) for plane in reformatted(volume))]
    return [kind for kind, _ in made], [image for _, image in made]


def collect(case: str, volume: np.ndarray, networks: list[Network], colour: int) -> None:
    """Add one patient's features to every network that has the patient.

    Args:
        case: the patient.
        volume: (S, H, W, 3) uint8, slices from below.
        networks: to which the features are added.
        colour: number of the first colour map, see `altered`.
    """
    preprocess, head = networks[0].model.entry.preprocess, with_head(volume)
    stacks = volume, np.repeat(volume[..., FLAIR : FLAIR + 1], 3, axis=-1)
    prepared = [prepare(stack, preprocess) for stack in stacks]
    # different slices with all sequences than with FLAIR only, to use more of them
    upright = torch.cat([p.images[np.flatnonzero(~p.decided)[n::STEP]] for n, p in enumerate(prepared)])
    some = torch.cat([p.images[[int(place * (len(p.images) - 1)) for place in ROTATED_AT]] for p in prepared])
    validated = [network for network in networks if case in network.validation]
    made = [make_negatives(stack, colour) for stack in stacks] if validated else []
    negatives = [(kinds, prepare(images, preprocess)) for kinds, images in made]
    for network in networks:
        if case in network.train:
            network.upright.append(network.features(upright))
            for quarters, found in enumerate(network.rotated, 1):
                found.append(network.features(some.rot90(quarters, (2, 3))))
    for network in validated:
        for variant, stack, images in zip(VARIANTS, stacks, prepared, strict=True):
            kinds = [variant if np.ptp(one) else f"{variant}, all black" for one in stack]
            network.real.append(network.samples(kinds, images, head))
        network.negatives += [network.samples(*images) for images in negatives]


def fit(network: Network) -> dict[str, np.ndarray]:
    """The tensors of an `OodDetector`, from a network's training patients."""
    upright, rotated = np.concatenate(network.upright), [np.concatenate(found) for found in network.rotated]
    near = FEATURES.distance_size(network.model.net.feature_channels)
    return fit_tensors(upright, np.zeros(len(upright), int), rotated, near)


def fit_tensors(
    features: np.ndarray,
    classes: np.ndarray,
    others: list[np.ndarray],
    near: int,
    weights: np.ndarray | None = None,
    inverse_regularisation: float = INVERSE_REGULARISATION,
) -> dict[str, np.ndarray]:
    """The tensors of an `OodDetector`.

    Args:
        features: (n, D + E) of training slices.
        classes: (n,) class of each, 0 to K - 1; the distance is that to the nearest class, with one covariance for all.
        others: for each class of other images their features, (m, D + E).
        near: D, the number of distance features.
        weights: of each of the other images in the logistic regression, in the order of `others`; their mean is 1.
        inverse_regularisation: `C` of the logistic regression.
    """
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-6
    scaled = (features - mean) / deviation  # shrinkage assumes features of one scale
    centres = np.stack([scaled[classes == number, :near].mean(axis=0) for number in range(classes.max() + 1)])  # (K, D)
    precision = np.asarray(LedoitWolf(assume_centered=True).fit(scaled[:, :near] - centres[classes]).precision_)
    whiten = np.linalg.cholesky(precision)
    typical = np.median(np.linalg.norm((scaled[:, :near] - centres[classes]) @ whiten, axis=1))

    rows = np.concatenate([scaled, *((found - mean) / deviation for found in others)])[:, near:]
    labels = np.repeat(np.arange(1 + len(others)), [len(scaled), *map(len, others)])
    of_rows = np.concatenate([np.ones(len(scaled)), np.ones(len(rows) - len(scaled)) if weights is None else weights])
    regression = LogisticRegression(C=inverse_regularisation, class_weight="balanced", max_iter=200, tol=1e-3)
    regression.fit(rows, labels, sample_weight=of_rows)
    # of two classes scikit-learn stores the second one's weights only
    ways, bias = (
        np.concatenate([np.zeros_like(array), array]) if len(others) == 1 else array
        for array in (regression.coef_, np.asarray(regression.intercept_))
    )
    ways = ways / deviation[near:]
    tensors = {
        "mean": mean[:near] + centres * deviation[:near],
        "whiten": whiten / deviation[:near, None] / typical,
        "ways": ways,
        "bias": bias - ways @ mean[near:],
    }
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}


def choose_thresholds(samples: list[tuple[OodDetector, Samples]]) -> dict[str, float]:
    """The scores that `DISTANCE_SHARE` and `ORIENTATION_SHARE` of real slices exceed.

    Each slice is scored by a detector that was not fitted on its patient. Quantiles of the training slices would be too low,
    since slices in the fit are nearer. Distances are relative to the median training slice, which differs less between networks
    than a high quantile does; so one fold's scores also hold for another fold's detector and for one fitted on all patients.
    The report has each fold's own thresholds, to check that.
    """
    scores = [
        (ood.distance(some.features[~some.decided]), ood.other_log_odds(some.features[~some.decided])) for ood, some in samples
    ]
    distance, odds = (np.concatenate(values) for values in zip(*scores, strict=True))
    return {
        "distance_threshold": round(float(np.quantile(distance, 1 - DISTANCE_SHARE)), 3),
        "other_threshold": round(float(np.quantile(odds, 1 - ORIENTATION_SHARE)), 3),
    }


def out_of_distribution(ood: OodDetector, samples: Samples) -> np.ndarray:
    """(n,) bool, the detector's result for each image."""
    far, rotated = ood.distance(samples.features), ood.other_log_odds(samples.features)
    return np.where(samples.decided, samples.rejected, (far > ood.distance_threshold) | (rotated > ood.other_threshold))


def shares(results: Iterable[tuple[str, bool]], found: str = "out_of_distribution") -> dict[str, dict]:
    """For each kind the number of `images`, how many of them are found, under the name `found`, and their `share`."""
    counts: dict[str, list[bool]] = {}
    for kind, result in results:
        counts.setdefault(str(kind), []).append(bool(result))
    return {kind: {"images": len(one), found: sum(one), "share": round(sum(one) / len(one), 4)} for kind, one in counts.items()}


def cross_fitted(folds: list[Network], tensors: list[dict]) -> dict:
    """Thresholds and error rates by cross-validation.

    Returns:
        `thresholds` from all folds, those `of_folds` alone, and the shares of `real` and `negatives` that each fold's detector
        rejects among its validation patients, with the thresholds of the other folds (a single fold's, its own).
    """
    detectors = [
        OodDetector.from_tensors(t, distance_threshold=np.inf, other_threshold=np.inf, feature_spec=FEATURES) for t in tensors
    ]
    samples = [(ood, some) for ood, fold in zip(detectors, folds, strict=True) for some in fold.real]
    real: list[tuple[str, bool]] = []
    negatives: list[tuple[str, bool]] = []
    for fold, ood in zip(folds, detectors, strict=True):
        others = [pair for pair in samples if pair[0] is not ood] or samples
        detector = replace(ood, **choose_thresholds(others))
        for some in fold.real:
            rejected = out_of_distribution(detector, some)
            real += [(f"{kind}, slice by slice", one) for kind, one in zip(some.kinds, rejected, strict=True)]
            real += [(f"{kind}, in studies", one) for kind, one in zip(some.kinds[some.head], rejected[some.head], strict=True)]
        for some in fold.negatives:
            negatives += zip(some.kinds, out_of_distribution(detector, some), strict=True)
    alone = [choose_thresholds([pair for pair in samples if pair[0] is ood]) for ood in detectors]
    return {"thresholds": choose_thresholds(samples), "of_folds": alone, "real": shares(real), "negatives": shares(negatives)}


def negatives_from_packages(network: Network, ood: OodDetector) -> dict[str, dict]:
    """The shares of negatives that packages ship or that are drawn."""
    kinds = tqdm(PACKAGES.items(), desc="negatives", unit="kind")
    return shares(pair for kind, images in kinds for pair in _results(network, ood, kind, images()))


def synthetic_heads(network: Network, ood: OodDetector) -> dict[str, dict]:
    """The shares of the examples, of the example study's slices, and of `train.evaluation.healthy`'s heads."""
    examples = [np.asarray(Image.open(path)) for path in sorted((ASSETS / "examples").glob("*.png"))]
    study = read_study(ASSETS / "examples" / "study-flair.nii.gz").pixels
    heads = [("examples", examples), ("example study", study), *sources(HEADS)]
    return shares(pair for kind, images in heads for pair in _results(network, ood, kind, images))


def _results(network: Network, ood: OodDetector, kind: str, images: Iterable[np.ndarray]) -> Iterator[tuple[str, bool]]:
    prepared = prepare(images, network.model.entry.preprocess)
    samples = network.samples([kind] * len(prepared.images), prepared)
    return zip(samples.kinds, out_of_distribution(ood, samples), strict=True)


def write_ood_detector(
    folder: Path, tensors: dict[str, np.ndarray], thresholds: dict[str, float], any_plane: bool = False
) -> None:
    """Write a detector beside an entry's weights and into its `config.json`, and render its card.

    A quantised network that gives other features is removed.
    """
    save_file(tensors, folder / OOD)
    before = read_entry(folder)
    int8 = before.int8
    if before.ood is None or before.ood.feature_spec != FEATURES:
        int8 = None
        for name in (INT8, INT8_WEIGHTS):
            (folder / name).unlink(missing_ok=True)
    ood = OodConfig(sha256=file_sha256(folder / OOD), feature_spec=FEATURES, any_plane=any_plane, **thresholds)
    entry = update_config(folder, ood=ood.config(), int8=int8.config() if int8 else {})
    if entry.metrics is not None:  # its card describes the quantised network
        write_card(entry)


def table(report: dict) -> str:
    """Both error rates in Markdown."""
    rows = [
        [kind, str(found["images"]), str(found["out_of_distribution"]), f"{found['share']:.1%}"]
        for part in ("real", "synthetic", "negatives")
        for kind, found in report[part].items()
    ]
    return markdown_table(["images", "number", "out of distribution", "share"], rows)


def show(shown: str, report: dict, out: Path | None) -> None:
    """Print the error rates, and write the report as JSON where a file is given."""
    print(shown)
    if out:
        out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def check_networks(entry: Network, folds: list[Network]) -> None:
    """SystemExit with the reason when the validated runs cannot set the entry's thresholds."""
    needed = max(*FEATURES.means, *FEATURES.deviations, *FEATURES.parts)
    for network in (entry, *folds):
        if (maps := len(network.model.net.feature_channels)) <= needed:
            raise SystemExit(
                f"expected a network with more than {needed} feature maps, got {network.model.entry.net} with {maps}; "
                "choose an entry of another network, such as EffUNet"
            )
    for fold in folds:
        if fold.model.entry.preprocess != entry.model.entry.preprocess:
            raise SystemExit(
                f"expected validated runs preprocessed as {entry.model.entry.name}, got {fold.model.entry.folder} with "
                f"{fold.model.entry.preprocess}; give runs of the entry's recipe"
            )


def main(arguments: list[str] | None = None) -> dict:
    """Fit, write, measure; returns the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="entry to fit the detector for")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validated", type=Path, nargs="+", required=True, help="runs of its recipe with validation patients")
    parser.add_argument("--into", type=Path, default=EMBEDDED, help="folder of entries")
    parser.add_argument("--out", type=Path, help="where a JSON report goes")
    options = parser.parse_args(arguments)
    folder = options.into / options.name
    entry, *folds = networks = [open_network(path.name, path) for path in (folder, *options.validated)]
    check_networks(entry, folds)
    wanted = frozenset().union(*(network.train | network.validation for network in networks))
    cases = {case: slices for case, slices in dataset_of(entry.model.entry).find_slices(options.data).items() if case in wanted}
    if missing := wanted - set(cases):
        raise SystemExit(
            f"expected all patients of the splits in {options.data}, but {len(missing)} of the patients are missing; give the "
            "dataset that the runs were trained on"
        )
    for number, (case, slices) in enumerate(tqdm(cases.items(), desc="patients", unit="patient")):
        volume = np.stack([item.read_image() for item in slices])
        collect(case, volume, networks, colour=len(ROTATED_AT) * number)
    tensors, *folds_tensors = map(fit, networks)
    report = cross_fitted(folds, folds_tensors)
    ood = OodDetector.from_tensors(tensors, **report["thresholds"], feature_spec=FEATURES)
    report["synthetic"] = synthetic_heads(entry, ood)
    report["negatives"] = negatives_from_packages(entry, ood) | report["negatives"]
    write_ood_detector(folder, tensors, report["thresholds"])
    show(table(report), report, options.out)
    return report


if __name__ == "__main__":
    main()
