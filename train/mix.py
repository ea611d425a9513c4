"""How often each source, sequence and kind of tumour is drawn in the training of `train.generalist`."""

from __future__ import annotations

from dataclasses import dataclass, field

AXIAL, CUT = "lgg", "lgg-cut"


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Shares of what is drawn in an epoch; those of one field add up to 1.

    Attributes:
        source: share of each source; `AXIAL` and `CUT` are the LGG patients' slices and the planes cut from their volumes.
        tumour: share of tumour slices in a source that has both.
        kind: share of each kind among the tumours whose kind is known.
        lgg: share of each sequence as which LGG slices are given.
        heads: share of each sequence among the heads without tumour, of which few volumes are T1c.
    """

    source: dict[str, float]
    kind: dict[str, float]
    lgg: dict[str, float]
    tumour: dict[str, float] = field(default_factory=lambda: {AXIAL: 0.58, CUT: 0.5})
    heads: dict[str, float] = field(default_factory=lambda: {"T1": 0.40, "T1c": 0.25, "T2": 0.20, "PD": 0.15})


MIXES = {
    # every input that the page should know
    "any": Mix(
        source={AXIAL: 0.40, CUT: 0.09, "figshare": 0.27, "heads": 0.15, "alzheimer": 0.03, "ms": 0.06},
        kind={"meningioma": 0.28, "glioma": 0.42, "pituitary": 0.30},
        lgg={"three sequences": 0.38, "FLAIR": 0.26, "T1c": 0.20, "T1": 0.16},
    ),
    # more of the single sequences, on which outlines are worst, and of gliomas, the hardest kind on T1c
    "single": Mix(
        source={AXIAL: 0.28, CUT: 0.07, "figshare": 0.46, "heads": 0.13, "alzheimer": 0.02, "ms": 0.04},
        kind={"meningioma": 0.25, "glioma": 0.50, "pituitary": 0.25},
        lgg={"three sequences": 0.25, "FLAIR": 0.28, "T1c": 0.20, "T1": 0.27},
    ),
    # mostly T1c, with enough heads without tumour for the verdict
    "T1c": Mix(
        source={AXIAL: 0.22, CUT: 0.08, "figshare": 0.54, "heads": 0.11, "alzheimer": 0.02, "ms": 0.03},
        kind={"meningioma": 0.27, "glioma": 0.45, "pituitary": 0.28},
        lgg={"three sequences": 0.08, "FLAIR": 0.07, "T1c": 0.65, "T1": 0.20},
        heads={"T1": 0.30, "T1c": 0.50, "T2": 0.12, "PD": 0.08},
    ),
}  # fmt: skip
