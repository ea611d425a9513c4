"""Why a verdict was reached: the explanation of a kept result, which is computed once and kept with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from brainmri.analysis.findings import Decision
from brainmri.analysis.forward import Progress
from brainmri.io.scan import Geometry, Scan
from brainmri.ui.examples import explained
from brainmri.ui.inference import Explained, explain_slice
from brainmri.ui.results import kept_path


@dataclass(frozen=True, kw_only=True)
class Why:
    """An explanation as the page shows it: a sentence, and pictures as paths with captions."""

    sentence: str
    pictures: list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What an explanation needs.

    Attributes:
        scan: the slice to explain, pixels (H, W, 3); of its geometry, the spacing of its pixels counts.
        decision: what was decided about it; mask (H, W).
        segmenter, classifier, sequence: what it was analysed with, as for `explain_slice`.
        where: which slice of a study it is, as a sentence; empty for a slice.
    """

    scan: Scan
    decision: Decision
    segmenter: str
    classifier: str
    sequence: str | None
    where: str = ""


def keep_question(token: str, question: Question) -> None:
    """Store what the explanation of a kept result needs."""
    scan, decision = question.scan, question.decision
    fields = {
        "scan": {"name": scan.name, "sha256": scan.sha256, "single_sequence": scan.single_sequence},
        "decision": {name: getattr(decision, name) for name in ("verdict", "probability", "by_specialist")},
        "question": {name: getattr(question, name) for name in ("segmenter", "classifier", "sequence", "where")},
    }
    place = {"shape": scan.geometry.shape, "affine": scan.geometry.affine} if scan.geometry else {}
    np.savez(kept_path(token, "question.npz"), pixels=scan.pixels, mask=decision.mask, fields=json.dumps(fields), **place)


def has_question(token: str) -> bool:
    """Whether a kept result can be explained: what is no brain cannot."""
    return kept_path(token, "question.npz").is_file()


def kept_question(token: str) -> Question:
    """What the explanation of a kept result needs.

    Raises:
        FileNotFoundError: if the result has expired.
    """
    with np.load(kept_path(token, "question.npz")) as stored:
        fields, pixels, mask = json.loads(stored["fields"].item()), stored["pixels"], stored["mask"]
        place = Geometry(shape=tuple(stored["shape"].tolist()), affine=stored["affine"]) if "affine" in stored else None
    scan = Scan(pixels=pixels, geometry=place, **fields["scan"])
    return Question(scan=scan, decision=Decision(**fields["decision"], mask=mask), **fields["question"])


def explain_result(token: str, progress: Progress | None = None) -> Why:
    """Explain a kept result and keep the explanation; what `progress` raises ends it.

    Raises:
        FileNotFoundError: if the result has expired.
    """
    asked = kept_question(token)
    found = explain_slice(asked.scan, asked.segmenter, asked.classifier, None, asked.sequence, progress, asked.decision)
    return keep_why(token, asked.scan, found, asked.where)


def keep_why(token: str, scan: Scan, found: Explained, where: str = "") -> Why:
    """Store the explanation of a kept result, for a link to it."""
    sentence, pictures = explained(scan, *found)
    paths = [kept_path(token, f"{number}.png") for number in range(len(pictures))]
    for path, (picture, _) in zip(paths, pictures, strict=True):
        picture.save(path)
    why = Why(
        sentence=where + sentence, pictures=[(str(path), caption) for path, (_, caption) in zip(paths, pictures, strict=True)]
    )
    kept_path(token, "why.json").write_text(json.dumps(asdict(why)), encoding="utf-8")
    return why


def kept_why(token: str) -> Why | None:
    """The stored explanation of a kept result; None if it was not explained."""
    path = kept_path(token, "why.json")
    return Why(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
