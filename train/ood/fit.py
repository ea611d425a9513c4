"""Fit an entry's gate and measure what it turns away: python -m train.ood.fit NAME --data DIR --validated RUN… [--out gate.json]

The gate (`brainmri.zoo.ood`) depends on the entry's weights, so it is fitted again whenever they change. Its statistics are those of
the entry's own training patients; how far slices of other patients lie can only be seen where there are some, so each validated
run, a fold of the same recipe, is fitted on its training patients and asked about its validation patients, and their answers set
the thresholds. Writes the entry's `ood.safetensors` and what `config.json` tells of it, and prints both error rates: real
slices of patients that were not in the fit, and `train.ood.negatives`. The held-out patients are in neither.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from sklearn.covariance import LedoitWolf
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from tqdm import tqdm

from brainmri.analysis.pipeline import encoder_features, with_head
from brainmri.io.pixels import FLAIR, to_unit
from brainmri.io.reading import read_study
from brainmri.report.metric_tables import markdown_table
from brainmri.zoo.entry import CONFIG, INT8, INT8_WEIGHTS, OOD, SPLIT, file_sha256, read_entry
from brainmri.zoo.ood import FeatureSpec, OodDetector, look
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import EMBEDDED, LoadedModel, load
from train.datasets.lgg import find_slices
from train.evaluation.healthy import sources
from train.ood.negatives import ASSETS, PACKAGES, cut_otherwise, turned
from train.release.card import write_card

THIN = 4  # one of so many of a training patient's slices is enough, since neighbours are alike
SHOWN = (0.35, 0.65)  # along the head: the slices that are turned; at its ends, which are round, turns teach nothing
# The shares of other patients' slices that distance and turn may question. Together they leave room under 1 % for the chance of
# which patients these are, and for the pixels' own doubts.
FAR, WAY = 0.004, 0.003
SIGHT = FeatureSpec(means=(4,), deviations=(3, 4), parts=(4,))  # the maps at 1/8 and 1/16; for others see EXPERIMENTS.md
LEEWAY = 0.1  # inverse strength of the logistic regression
HEADS = 2  # synthetic heads, each with and without T1
VARIANTS = ("three sequences", "FLAIR alone")


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """As a gate is asked about them.

    Attributes:
        images: (n, 3, h, w), normalised.
        decided: (n,) bool, the pixels alone decide.
        doubted: (n,) bool, they raise a doubt.
    """

    images: Tensor
    decided: np.ndarray
    doubted: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Pictures that a network saw and nobody fitted anything to.

    Attributes:
        kinds: (n,) what they are.
        head: (n,) bool, a study would ask about it (`with_head`).
        decided, doubted: (n,) bool, see `Pictures`.
        features: (n, D).
    """

    kinds: np.ndarray
    head: np.ndarray
    decided: np.ndarray
    doubted: np.ndarray
    features: np.ndarray


@dataclass(kw_only=True)
class Network:
    """A network, its patients, and what it made of them.

    Attributes:
        upright: features (n, D) of each training patient's slices.
        other_ways: of some of the same turned by 90, 180 and 270 degrees, a list for each.
        real: each validation patient's slices.
        foreign: what was made of them.
    """

    model: LoadedModel
    train: frozenset[str]
    validation: frozenset[str]
    upright: list[np.ndarray] = field(default_factory=list)
    other_ways: tuple[list, list, list] = field(default_factory=lambda: ([], [], []))
    real: list[Asked] = field(default_factory=list)
    foreign: list[Asked] = field(default_factory=list)

    def features(self, images: Tensor) -> np.ndarray:
        """(n, 3, h, w) normalised to (n, D)."""
        return encoder_features(self.model, images, SIGHT).numpy()

    def ask(self, kinds: list[str], pictures: Pictures, head: np.ndarray | bool = True) -> Asked:
        """What a gate of this network needs to know of pictures."""
        return Asked(
            kinds=np.array(kinds), head=np.broadcast_to(head, len(kinds)), decided=pictures.decided, doubted=pictures.doubted,
            features=self.features(pictures.images),
        )  # fmt: skip


def open_network(source: str | Path, folder: Path) -> Network:
    """An entry or a run, with the patients of its `split.json`."""
    split = json.loads((folder / SPLIT).read_text(encoding="utf-8"))
    model = load(source, weights=folder, device="cpu")
    return Network(model=model, train=frozenset(split["train"]), validation=frozenset(split["validation"]))


def prepare(pictures: Iterable[np.ndarray], preprocess: Preprocess) -> Pictures:
    """Pictures as they are read, (H, W) or (H, W, 3) each, as a network and the gate take them."""
    units = [to_unit(picture) for picture in pictures]
    decided, doubts = zip(*map(look, units), strict=True)
    images = preprocess.normalise(torch.stack([preprocess(unit)[0] for unit in units]))
    return Pictures(images=images, decided=np.array(decided), doubted=np.array([doubt is not None for doubt in doubts]))


def strangers(volume: np.ndarray, colour: int) -> tuple[list[str], list[np.ndarray]]:
    """Kinds and pictures of what can be made of a patient's slices (S, H, W, 3) uint8 that is no axial slice, nose up; see
    `turned` for `colour`."""
    shown = [volume[int(place * (len(volume) - 1))] for place in SHOWN]
    made = [*turned(shown, colour), *(("sagittal and coronal, of patients", plane) for plane in cut_otherwise(volume))]
    return [kind for kind, _ in made], [picture for _, picture in made]


def look_at_patient(case: str, volume: np.ndarray, networks: list[Network], colour: int) -> None:
    """Collect what every network needs of a patient's slices (S, H, W, 3) uint8, from below; colour maps start at `colour`."""
    preprocess, head = networks[0].model.entry.preprocess, with_head(volume)
    stacks = volume, np.repeat(volume[..., FLAIR : FLAIR + 1], 3, axis=-1)
    prepared = [prepare(stack, preprocess) for stack in stacks]
    # other slices with all sequences than with FLAIR alone, so that more of them are there
    upright = torch.cat([p.images[np.flatnonzero(~p.decided)[n::THIN]] for n, p in enumerate(prepared)])
    some = torch.cat([p.images[[int(place * (len(p.images) - 1)) for place in SHOWN]] for p in prepared])
    if any(case in network.validation for network in networks):
        made = [(kinds, prepare(pictures, preprocess)) for kinds, pictures in (strangers(stack, colour) for stack in stacks)]
    for network in networks:
        if case in network.train:
            network.upright.append(network.features(upright))
            for quarters, found in enumerate(network.other_ways, 1):
                found.append(network.features(some.rot90(quarters, (2, 3))))
        if case in network.validation:
            for variant, stack, pictures in zip(VARIANTS, stacks, prepared, strict=True):
                kinds = [variant if np.ptp(one) else f"{variant}, black all over" for one in stack]
                network.real.append(network.ask(kinds, pictures, head))
            network.foreign += [network.ask(*pictures) for pictures in made]


def fit(network: Network) -> dict[str, np.ndarray]:
    """The tensors of a `OodDetector`, from a network's training patients."""
    upright = np.concatenate(network.upright)
    near = SIGHT.near(network.model.net.channels)
    mean, deviation = upright.mean(axis=0), upright.std(axis=0) + 1e-6
    scaled = (upright - mean) / deviation  # the covariance is shrunk towards features of one scale
    precision = LedoitWolf(assume_centered=True).fit(scaled[:, :near]).precision_
    whiten = np.linalg.cholesky(precision)
    typical = np.median(np.linalg.norm(scaled[:, :near] @ whiten, axis=1))

    others = [(np.concatenate(found) - mean) / deviation for found in network.other_ways]
    rows = np.concatenate([scaled, *others])[:, near:]
    ways = np.repeat(np.arange(4), [len(scaled), *map(len, others)])
    regression = LogisticRegression(C=LEEWAY, class_weight="balanced", max_iter=200, tol=1e-3).fit(rows, ways)
    weights = regression.coef_ / deviation[near:]
    tensors = {
        "mean": mean[:near],
        "whiten": whiten / deviation[:near, None] / typical,
        "ways": weights,
        "bias": regression.intercept_ - weights @ mean[near:],
    }
    return {name: np.ascontiguousarray(tensor, np.float32) for name, tensor in tensors.items()}


def thresholds(asked: list[tuple[OodDetector, Asked]]) -> dict[str, float]:
    """What `FAR` and `WAY` of real slices, each seen by a gate that was not fitted on their patient, exceed.

    The training slices' own quantile would be too low, since what was fitted lies nearer. Distances are in that of the median
    training slice, which is steadier from network to network than a far quantile of them; so one fold's numbers can stand for
    another's gate and for one fitted on all patients. The report has each fold's own, to see how far that holds.
    """
    distance, odds = (
        np.concatenate([getattr(ood, name)(some.features[~some.decided]) for ood, some in asked])
        for name in ("distance", "turned")
    )
    return {
        "distance_threshold": round(float(np.quantile(distance, 1 - FAR)), 3),
        "orientation_threshold": round(float(np.quantile(odds, 1 - WAY)), 3),
    }


def out_of_distribution(ood: OodDetector, asked: Asked) -> np.ndarray:
    """(n,) bool, as `OodDetector.ask` has it."""
    strange = (ood.distance(asked.features) > ood.distance_threshold) | (ood.turned(asked.features) > ood.orientation_threshold)
    return np.where(asked.decided, asked.doubted, strange)


def shares(answers: Iterable[tuple[str, bool]]) -> dict[str, dict]:
    """For each kind the `pictures`, how many are `out_of_distribution`, and their `share`."""
    counts: dict[str, list[bool]] = {}
    for kind, doubted in answers:
        counts.setdefault(str(kind), []).append(bool(doubted))
    return {k: {"pictures": len(d), "out_of_distribution": sum(d), "share": round(sum(d) / len(d), 4)} for k, d in counts.items()}


def cross_fitted(folds: list[Network], tensors: list[dict]) -> dict[str, dict]:
    """`thresholds` from all folds, those `of_folds` alone, and the shares of `real` and `foreign` pictures that each fold's gate
    questions among its validation patients, with the thresholds of the other folds (a single fold's, its own).
    """
    bare = [OodDetector(**t, distance_threshold=np.inf, orientation_threshold=np.inf, feature_spec=SIGHT) for t in tensors]
    real = [(ood, some) for ood, fold in zip(bare, folds, strict=True) for some in fold.real]
    answers: list[tuple[str, bool]] = []
    foreign: list[tuple[str, bool]] = []
    for fold, ood in zip(folds, bare, strict=True):
        others = [pair for pair in real if pair[0] is not ood] or real
        set_ = replace(ood, **thresholds(others))
        for some in fold.real:
            doubted = out_of_distribution(set_, some)
            answers += [(f"{kind}, slice by slice", doubt) for kind, doubt in zip(some.kinds, doubted, strict=True)]
            answers += [
                (f"{kind}, in studies", doubt) for kind, doubt in zip(some.kinds[some.head], doubted[some.head], strict=True)
            ]
        for some in fold.foreign:
            foreign += zip(some.kinds, out_of_distribution(set_, some), strict=True)
    alone = [thresholds([pair for pair in real if pair[0] is ood]) for ood in bare]
    return {"thresholds": thresholds(real), "of_folds": alone, "real": shares(answers), "foreign": shares(foreign)}


def from_packages(network: Network, ood: OodDetector) -> dict[str, dict]:
    """The shares of foreign pictures that packages ship or that are drawn."""
    kinds = tqdm(PACKAGES.items(), desc="foreign pictures", unit="kind")
    return shares(pair for kind, pictures in kinds for pair in _answers(network, ood, kind, pictures()))


def from_synthetic(network: Network, ood: OodDetector) -> dict[str, dict]:
    """The shares of the examples, of the example study's slices, and of `train.evaluation.healthy`'s heads."""
    examples = [np.asarray(Image.open(path)) for path in sorted((ASSETS / "examples").glob("*.png"))]
    study = read_study(ASSETS / "examples" / "study-flair.nii.gz").pixels
    heads = [("examples", examples), ("example study", study), *sources(HEADS)]
    return shares(pair for kind, pictures in heads for pair in _answers(network, ood, kind, pictures))


def _answers(network: Network, ood: OodDetector, kind: str, pictures: Iterable[np.ndarray]) -> Iterator[tuple[str, bool]]:
    prepared = prepare(pictures, network.model.entry.preprocess)
    asked = network.ask([kind] * len(prepared.images), prepared)
    return zip(asked.kinds, out_of_distribution(ood, asked), strict=True)


def write_ood_detector(folder: Path, tensors: dict[str, np.ndarray], limits: dict[str, float]) -> None:
    """Put a gate beside an entry's weights, and into its `config.json`; a quantised network made for another sight goes."""
    save_file(tensors, folder / OOD)
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    feature_spec = {name: list(numbers) for name, numbers in asdict(SIGHT).items()}
    if config["ood"].get("feature_spec") != feature_spec:
        config["int8"] = {}
        for name in (INT8, INT8_WEIGHTS):
            (folder / name).unlink(missing_ok=True)
    config["ood"] = {"sha256": file_sha256(folder / OOD), **limits, "feature_spec": feature_spec}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if (entry := read_entry(folder)).metrics:  # the card tells of what may just have gone
        write_card(entry)


def table(report: dict) -> str:
    """Both error rates in Markdown."""
    rows = [
        [kind, str(found["pictures"]), f"{found['out_of_distribution']}", f"{100 * found['share']:.1f} %"]
        for part in ("real", "synthetic", "foreign")
        for kind, found in report[part].items()
    ]
    return markdown_table(["what", "pictures", "out_of_distribution", "share"], rows)


def main(arguments: list[str] | None = None) -> dict:
    """Fit, write, measure; returns the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="the entry whose gate it is")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--validated", type=Path, nargs="+", required=True, help="runs of its recipe with validation patients")
    parser.add_argument("--into", type=Path, default=EMBEDDED, help="folder of entries")
    parser.add_argument("--out", type=Path, help="where a JSON report goes")
    options = parser.parse_args(arguments)
    folder = options.into / options.name
    entry, *folds = networks = [open_network(path.name, path) for path in (folder, *options.validated)]
    if odd := {network.model.entry.net for network in networks} - {"EffUNet", "EffUNetEnsemble"}:
        raise SystemExit(f"a gate looks at the encoder of an EffUNet, or of an ensemble's first; {', '.join(odd)} came")
    if any(fold.model.entry.preprocess != entry.model.entry.preprocess for fold in folds):
        raise SystemExit("the validated runs preprocess otherwise than the entry; they say nothing of its gate")
    wanted = frozenset().union(*(network.train | network.validation for network in networks))
    cases = {case: slices for case, slices in find_slices(options.data).items() if case in wanted}
    if missing := wanted - set(cases):
        raise SystemExit(f"{options.data} lacks {len(missing)} of the patients")
    for number, (case, slices) in enumerate(tqdm(cases.items(), desc="patients", unit="patient")):
        volume = np.stack([item.read_image() for item in slices])
        look_at_patient(case, volume, networks, colour=len(SHOWN) * number)
    tensors, *folds_tensors = map(fit, networks)
    report = cross_fitted(folds, folds_tensors)
    ood = OodDetector(**tensors, **report["thresholds"], feature_spec=SIGHT)
    report["synthetic"] = from_synthetic(entry, ood)
    report["foreign"] = from_packages(entry, ood) | report["foreign"]
    write_ood_detector(folder, tensors, report["thresholds"])
    print(table(report))
    if options.out:
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return report


if __name__ == "__main__":
    main()
