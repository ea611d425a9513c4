"""How much of a slice's label its source alone explains: python -m train.evaluation.source_probe --data DIR --wider DIR

Some collections show tumours in every slice, others in none, so a network could learn the hospital instead of the tumour. The
probe sees a thumbnail and the histogram of a slice whose tumour is painted over, and learns which collection the slice comes
from. Each slice then scores the share of tumour slices in the collections, weighted by their probabilities. The AUC of that
score is what the source explains of the label; 0.5 is nothing. It is computed for each sequence, on groups that the probe was
not fitted on. The AUCs within a collection, in the table of `train.evaluation.inputs`, are what no source can explain.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from brainmri.io.pixels import to_unit
from brainmri.report.metric_tables import markdown_table
from brainmri.zoo.attributes import SEQUENCES
from train.datasets import DATASETS
from train.evaluation.metrics import auc
from train.examples import CHANNELS, UNKNOWN, Example, patient_examples, picture_examples, single_sequence
from train.mix import AXIAL
from train.uploads import resize

THUMBNAIL = 16  # pixels a side
BINS = 32  # of the histogram of the head's grey values
FOLDS = 5
EVERY = 4  # of the slices of a patient, neighbours being alike
FEWEST = 20  # slices of a collection in one sequence, else it is left out


def probe_features(example: Example) -> np.ndarray:
    """Thumbnail and histogram (THUMBNAIL² + BINS,) float32 of a slice of one sequence, its annotated pixels painted over."""
    grey = to_unit(np.ascontiguousarray(example.pixels))[..., 0].astype(np.float32)
    head = grey > 0.1
    if example.mask.any() and (head & ~example.mask).any():
        grey = np.where(example.mask, np.median(grey[head & ~example.mask]), grey).astype(np.float32)
    small = resize(grey[..., None], (THUMBNAIL, THUMBNAIL))
    histogram, _ = np.histogram(grey[head], bins=BINS, range=(0, 1))
    return np.concatenate([small.ravel(), histogram / max(head.sum(), 1)]).astype(np.float32)


def probe_sequence(features: np.ndarray, collections: np.ndarray, tumours: np.ndarray, groups: np.ndarray) -> dict:
    """Fit the probe and measure it by cross-validation over groups.

    Args:
        features: (N, F).
        collections: (N,) names; at least two.
        tumours: (N,) bool.
        groups: (N,) patient, or block of neighbouring pictures.

    Returns:
        The share of slices with tumour, the share whose collection the probe finds, and the AUC of the source for the label.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
    aucs, found = [], np.zeros(len(tumours), bool)
    for fitted, measured in GroupKFold(FOLDS, shuffle=True, random_state=0).split(features, groups=groups):
        probe.fit(features[fitted], collections[fitted])
        probabilities = probe.predict_proba(features[measured])  # (M, C)
        shares = np.array([tumours[fitted][collections[fitted] == name].mean() for name in probe.classes_])
        found[measured] = probe.classes_[probabilities.argmax(axis=1)] == collections[measured]
        # within each fold: a fold with many tumours leaves few to the others, which would turn the scores around
        aucs.append(auc(probabilities @ shares, tumours[measured]))
    return {
        "slices": len(tumours),
        "tumours": float(tumours.mean()),
        "collection_found": float(found.mean()),
        "auc": float(np.nanmean(aucs)),
    }


def probe(examples: list[Example]) -> dict[str, dict]:
    """`probe_sequence` for each MR sequence that slices with and without tumour from several collections have."""
    found = {}
    for index, name in enumerate(SEQUENCES):
        part = [one for one in examples if one.sequence == index]
        counts = {one.collection: 0 for one in part}
        for one in part:
            counts[one.collection] += 1
        part = [one for one in part if counts[one.collection] >= FEWEST]
        if len({one.collection for one in part}) > 1 and len({one.tumour for one in part}) == 2:
            found[name] = probe_sequence(
                np.stack([probe_features(one) for one in part]),
                np.array([one.collection for one in part]),
                np.array([bool(one.tumour) for one in part]),
                np.array([one.group for one in part]),
            )
    return found


def single_sequence_examples(dataset: str, data: Path, wider: Path) -> list[Example]:
    """Every fourth axial slice of the patients as each of its sequences, and the pictures of a known sequence."""
    examples = [one for one in picture_examples(wider) if one.sequence != UNKNOWN]
    for slices in DATASETS[dataset].find_slices(data).values():
        for one in [one for one in patient_examples(slices) if one.source == AXIAL][::EVERY]:
            singles = {name: single_sequence(one, name) for name in CHANNELS}
            examples += [single for name, single in singles.items() if SEQUENCES[single.sequence] == name]
    return examples


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", choices=list(DATASETS), default="lgg", help="which dataset --data holds")
    parser.add_argument("--data", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--wider", type=Path, required=True, help="folder with the index.csv of other heads")
    options = parser.parse_args(arguments)
    rows = probe(single_sequence_examples(options.dataset, options.data, options.wider))
    header = ["sequence", "slices", "with tumour", "collection found", "AUC of the source for the label"]
    print(markdown_table(header, [
        [name, str(row["slices"]), f"{row['tumours']:.1%}", f"{row['collection_found']:.1%}", f"{row['auc']:.3f}"]
        for name, row in rows.items()
    ]))  # fmt: skip


if __name__ == "__main__":
    main()
