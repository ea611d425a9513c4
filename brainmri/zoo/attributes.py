"""What a network recognises about a slice besides tumour: sequence, plane, orientation and the kind of a tumour.

A network lists its attributes with their classes in `attributes`, and returns the logits of all classes one after the other
(`brainmri.zoo.nets.base.Output`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("meningioma", "glioma", "pituitary")
FLAIR, T1, T1C, THREE_SEQUENCES = "FLAIR", "T1", "T1c", "three sequences"
SINGLE_SEQUENCES = (FLAIR, T1, T1C, "T2", "PD")
SEQUENCES = (*SINGLE_SEQUENCES, THREE_SEQUENCES)
PLANES = ("axial", "coronal", "sagittal")
TURNS = ("0", "90", "180", "270")  # degrees counter-clockwise from upright

KIND, SEQUENCE, PLANE, TURN = "kind", "sequence", "plane", "turn"
ATTRIBUTES: dict[str, tuple[str, ...]] = {KIND: KINDS, SEQUENCE: SEQUENCES, PLANE: PLANES, TURN: TURNS}


def split_logits(logits: Tensor, attributes: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    """(B, A) logits of all classes to (B, classes) by attribute."""
    parts = logits.split([len(classes) for classes in attributes.values()], dim=1)
    return dict(zip(attributes, parts, strict=True))
