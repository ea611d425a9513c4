"""The measured figures in an entry's `config.json`: their records, ids and meaning, and how the Hub files them.

`train.release.release` stores them as `metrics["variants"][variant][metric]`, by the ids of `VARIANTS` and `METRICS`. Tables and
cards print the labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Required, TypedDict, TypeGuard

THREE_SEQUENCES, FLAIR_ONLY, VOLUME_NORMALISATION = "three_sequences", "flair_only", "volume_normalisation"
WHOLE_STUDY = "whole_study"
SLICE_VARIANTS = (THREE_SEQUENCES, FLAIR_ONLY, VOLUME_NORMALISATION)  # each slice is analysed alone
VARIANTS = {  # id to label; a variant of the input, or three sequences analysed as a whole study
    THREE_SEQUENCES: "three sequences",
    FLAIR_ONLY: "FLAIR only",
    VOLUME_NORMALISATION: "volume normalisation",
    WHOLE_STUDY: "whole study",
}


class Figure(TypedDict, total=False):
    """One measured number.

    Attributes:
        value: the number; NaN for a share of nothing.
        interval_95: [low, high], the 95% confidence interval over patients.
        count, of: for a share, the numbers that it was computed from.
    """

    value: Required[float]
    interval_95: list[float]
    count: int
    of: int


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """What was measured of an entry.

    Entries come from other people too, so only the names of the parts are checked when an entry is read.

    Attributes:
        protocol: how the figures were measured.
        stages: the number of training stages of the measured weights.
        machine: the machine and the version of torch that measured them.
        variants: variant id to metric id to `Figure`, with the counts `patients` and `slices` and the other keys below.
        healthy: the report of `train.evaluation.healthy`; None without one.
        inputs: the figures by dataset, sequence and plane (`train.evaluation.inputs`), of the `validated` weights and, where they
            were measured, of the `released` ones; None without.
        ood: what the out-of-distribution detector of an entry for any head rejects, and of other images the share that is for
            review (`train.ood.fit_inputs`); None without.
    """

    protocol: str = ""
    stages: int = 0
    machine: str = ""
    variants: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    healthy: Mapping[str, Any] | None = None
    inputs: Mapping[str, Any] | None = None
    ood: Mapping[str, Any] | None = None

    @classmethod
    def from_config(cls, stored: object) -> Measurements:
        """The record of what `config.json` stores; parts of another layout are left out."""
        known = stored if isinstance(stored, dict) else {}
        return cls(**{part.name: known[part.name] for part in fields(cls) if part.name in known})

    def config(self) -> dict:
        """What `config.json` stores."""
        stored = {"protocol": self.protocol, "stages": self.stages, "machine": self.machine, "variants": self.variants}
        parts = {"healthy": self.healthy, "inputs": self.inputs, "ood": self.ood}
        return stored | {name: part for name, part in parts.items() if part is not None}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a figure means.

    Attributes:
        label: the name in tables and cards.
        unit: what is counted or averaged over, for example "patient".
        hub_type: the metric's type in the Hub's `model-index`.
        task: the task it measures.
    """

    label: str
    unit: str
    hub_type: str
    task: str


VOLUMETRIC_DICE, VOLUMETRIC_DICE_MEDIAN = "volumetric_dice", "volumetric_dice_median"
PUBLIC_UNET_DICE, SLICE_DICE, TVERSKY = "public_unet_dice", "slice_dice", "paper_tversky"
MASK_FALSE_ALARMS = "mask_false_alarms"
AUC, ACCURACY, SENSITIVITY, SPECIFICITY = "verdict_auc", "verdict_accuracy", "verdict_sensitivity", "verdict_specificity"
CALIBRATION_ERROR = "verdict_calibration_error"
REVIEW_SHARE, DECIDED_ACCURACY = "verdict_review_share", "verdict_decided_accuracy"
STUDY_DICE, STUDY_GAIN = "study_dice", "study_dice_gain"
CALLED_TUMOUR, TO_REVIEW, CALLED_NO_TUMOUR = "called_tumour", "to_review", "called_no_tumour"
CALLED = {CALLED_TUMOUR: "called tumour", TO_REVIEW: "to review", CALLED_NO_TUMOUR: "called no tumour"}
SLICES, STUDIES, RUNS = "slices", "studies", "runs"  # what a verdict is given for; see `share_metric`

# other keys of a variant's figures: what they hold is not one number
VOLUMETRIC_DICE_BY_PATIENT = "volumetric_dice_by_patient"  # patient to Dice
RELIABILITY = "reliability"  # the bins that `train.evaluation.metrics.reliability` gives
FAILURES = "failures"  # what `train.evaluation.failures.failures` gives
TUMOUR_FREE_RUNS = "tumour_free_runs"  # within the failures' studies: how many there are


def share_metric(unit: str, called: str) -> str:
    """The id of the share of slices, studies or tumour-free runs that are called so: `studies_called_tumour`, for example."""
    return f"{unit}_{called}"


def _segmentation(label: str, unit: str, hub_type: str = "dice") -> Metric:
    return Metric(label=label, unit=unit, hub_type=hub_type, task="segmentation")


def _verdict(label: str, hub_type: str, unit: str = "slice") -> Metric:
    return Metric(label=label, unit=unit, hub_type=hub_type, task="classification")


METRICS = {
    VOLUMETRIC_DICE: _segmentation("volumetric Dice, mean over patients", "patient"),
    VOLUMETRIC_DICE_MEDIAN: _segmentation("volumetric Dice, median over patients", "patient"),
    PUBLIC_UNET_DICE: _segmentation(
        "volumetric Dice of the largest component without end slices, as for the public U-Net, mean over patients", "patient"
    ),
    SLICE_DICE: _segmentation("slice Dice, mean over tumour slices", "tumour slice"),
    TVERSKY: _segmentation("soft Tversky as in the paper, tumour slices, mean over batches of 16", "batch of slices", "tversky"),
    MASK_FALSE_ALARMS: _segmentation("false alarms by mask, share of slices without tumour", "slice without tumour", "rate"),
    AUC: _verdict("verdict AUC, by slice", "roc_auc"),
    ACCURACY: _verdict("verdict accuracy at 0.5, by slice", "accuracy"),
    SENSITIVITY: _verdict("verdict sensitivity at 0.5, by slice", "recall"),
    SPECIFICITY: _verdict("verdict specificity at 0.5, by slice", "specificity"),
    CALIBRATION_ERROR: _verdict("verdict expected calibration error, 15 bins, by slice", "ece"),
    REVIEW_SHARE: _verdict("three-state verdict, share of slices to review", "rate"),
    DECIDED_ACCURACY: _verdict("three-state verdict, accuracy where decided", "accuracy"),
    STUDY_DICE: _segmentation("volumetric Dice as a study, mean over patients", "patient"),
    STUDY_GAIN: _segmentation("volumetric Dice gained by analysing whole studies, mean over patients", "patient"),
} | {
    share_metric(unit, called): _verdict(f"{name} {words}, share of {unit}", "rate", unit=one)
    for unit, name, one in (
        (SLICES, "slices", "slice"),
        (STUDIES, "studies", "study"),
        (RUNS, "tumour-free runs", "tumour-free run"),
    )
    for called, words in CALLED.items()
}  # fmt: skip


def label(metric: str) -> str:
    """A metric's label; an unknown id is its own label, since an entry from elsewhere may hold figures of its own."""
    return METRICS[metric].label if metric in METRICS else metric


def is_figure(value: object) -> TypeGuard[Figure]:
    """Whether what an entry stores under a metric's id is one number."""
    return isinstance(value, dict) and "value" in value
