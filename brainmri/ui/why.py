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


def keep_question(
    token: str, scan: Scan, decision: Decision, segmenter: str, classifier: str, sequence: str | None, where: str = ""
) -> None:
    """Store what the explanation of a kept result needs.

    Args:
        token: of the result.
        scan: the slice to explain, pixels (H, W, 3); of its geometry, the spacing of its pixels counts.
        decision: what was decided about it; mask (H, W).
        segmenter, classifier, sequence: what it was analysed with, as for `explain_slice`.
        where: which slice of a study it is, as a sentence.
    """
    decided = {"verdict": decision.verdict, "probability": decision.probability, "by_specialist": decision.by_specialist}
    fields = {
        "name": scan.name, "sha256": scan.sha256, "models": [segmenter, classifier], "sequence": sequence, "where": where,
        "decision": decided, "single_sequence": scan.single_sequence,
    }  # fmt: skip
    place = {"shape": scan.geometry.shape, "affine": scan.geometry.affine} if scan.geometry else {}
    np.savez(kept_path(token, "question.npz"), pixels=scan.pixels, mask=decision.mask, fields=json.dumps(fields), **place)


def has_question(token: str) -> bool:
    """Whether a kept result can be explained: what is no brain cannot."""
    return kept_path(token, "question.npz").is_file()


def kept_question(token: str) -> tuple[Scan, Decision, dict]:
    """The slice, the decision and the other arguments of `keep_question` for a kept result.

    Raises:
        FileNotFoundError: if the result has expired.
    """
    with np.load(kept_path(token, "question.npz")) as stored:
        fields, pixels, mask = json.loads(stored["fields"].item()), stored["pixels"], stored["mask"]
        place = Geometry(shape=tuple(stored["shape"].tolist()), affine=stored["affine"]) if "affine" in stored else None
    known = {name: fields[name] for name in ("name", "sha256", "single_sequence")}
    return Scan(pixels=pixels, geometry=place, **known), Decision(**fields["decision"], mask=mask), fields


def explain_result(token: str, progress: Progress | None = None) -> Why:
    """Explain a kept result and keep the explanation; what `progress` raises ends it.

    Raises:
        FileNotFoundError: if the result has expired.
    """
    scan, decision, fields = kept_question(token)
    segmenter, classifier = fields["models"]
    found = explain_slice(scan, segmenter, classifier, None, fields["sequence"], progress, decision)
    return keep_why(token, scan, found, fields["where"])


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
