"""From predictions to verdicts: apply an entry's thresholds and calibration, then decide slices and studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from brainmri.analysis.coverage import choose_sequence, not_covered, possible_sequences
from brainmri.analysis.findings import NO_TUMOUR, REVIEW, TUMOUR, Finding, chance, sentence, slice_numbers
from brainmri.analysis.forward import Prediction
from brainmri.analysis.lesions import without_islands
from brainmri.analysis.recognition import sequence_probabilities
from brainmri.zoo.calibration import Rules
from brainmri.zoo.ood import BLACK, EMPTY, LABELS, MASK, WARNING, OodResult

APART = "The slices do not seem to follow one another in one head, so each was analysed by itself"
MIN_AREA = 12  # pixels on the network's grid; a smaller mask counts as empty


@dataclass(frozen=True, kw_only=True, eq=False)
class SliceDecisions:
    """What the rules make of a prediction, for S slices.

    Attributes:
        maps: (S, H, W) float32 in [0, 1], the probability maps after any smoothing.
        masks: (S, H, W) bool.
        min_areas: (S,) int, a mask of fewer pixels counts as empty.
        probabilities: (S,) float64 in [0, 1], calibrated probabilities of tumour.
        verdicts: the verdict and its reason for each slice.
        ood: the out-of-distribution result for each slice; None without a detector.
    """

    maps: np.ndarray
    masks: np.ndarray
    min_areas: np.ndarray
    probabilities: np.ndarray
    verdicts: list[tuple[str, str]]
    ood: list[OodResult | None]


def outline(maps: np.ndarray, rules: Rules, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Smooth and threshold probability maps.

    Args:
        maps: (S, H, W) float32 in [0, 1], in order along the head.
        rules: the threshold, and the smoothing for studies.
        mode: "slice", or "study" to smooth across slices and to remove small islands.

    Returns:
        The maps that were thresholded, (S, H, W) float32, and the masks, (S, H, W) bool.
    """
    maps = rules.maps(maps, mode)
    masks = maps > rules.mask_threshold
    return maps, without_islands(masks) if mode == "study" else masks


def without_specks(masks: np.ndarray, grid_share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Empty the masks (S, H, W) that have fewer than `MIN_AREA` pixels on the network's grid.

    Args:
        grid_share: (S,), as in `Prediction`.

    Returns:
        The masks, and for each the fewest pixels that are not taken for empty, (S,) int.
    """
    min_areas = np.ceil(MIN_AREA / grid_share).astype(int)
    return masks & (masks.sum(axis=(1, 2)) >= min_areas)[:, None, None], min_areas


def decide_slices(predicted: Prediction, rules: Rules, mode: str, sequence: str | None = None) -> SliceDecisions:
    """Decide every slice of a prediction. Out-of-distribution slices are for review.

    Slices of an unclear sequence are decided by the rules for an unknown one, and are for review where the rules for one of the
    sequences that they may be give another verdict.

    Args:
        predicted: the output of a segmenter and a classifier.
        rules: thresholds and calibration.
        mode: "slice" treats each slice by itself; "study" smooths predictions across neighbouring slices and removes small
            islands of the mask.
        sequence: the MR sequence of the slices, one of `brainmri.zoo.attributes.SEQUENCES`; None if unknown.

    Raises:
        ValueError: if the prediction lacks mask or verdict.
    """
    if predicted.maps is None or predicted.logits is None or predicted.grid_share is None:
        raise ValueError(
            "expected a prediction with mask and verdict, but one of them is missing; run a segmenter and a classifier"
        )
    uncovered = not_covered(rules, sequence, predicted)
    chosen = rules.for_sequence(sequence)
    maps, masks = outline(predicted.maps, chosen, mode)
    masks, min_areas = without_specks(masks, predicted.grid_share)
    probabilities = chosen.probability(predicted.logits, predicted.evidence, mode)
    areas = masks.sum(axis=(1, 2)) * predicted.grid_share
    checks: list[OodResult | None] = [*predicted.ood] if predicted.ood else [None] * len(masks)
    verdicts = [
        (REVIEW, check.reason)
        if check and check.reason
        else (REVIEW, sentence(f"{uncovered} ({chance(p, REVIEW, chosen.band(mode))})"))
        if uncovered
        else decide_slice(float(p), float(area), chosen.band(mode))
        for check, p, area in zip(checks, probabilities, areas, strict=True)
    ]
    decisions = SliceDecisions(
        maps=maps, masks=masks, min_areas=min_areas, probabilities=probabilities, verdicts=verdicts, ood=checks
    )
    if sequence or uncovered:
        return decisions
    likely = sequence_probabilities(predicted)
    others = [decide_slices(predicted, rules, mode, name).verdicts for name in possible_sequences(rules, likely)]
    differ = [len({verdict for verdict, _ in found}) > 1 for found in zip(verdicts, *others, strict=True)]
    problem = f"the verdict depends on the sequence, which {choose_sequence(likely)}"
    return for_review(decisions, (problem if different else None for different in differ), of=(TUMOUR, NO_TUMOUR))


def for_review(
    decisions: SliceDecisions, problems: Iterable[str | None], of: tuple[str, ...] = (TUMOUR, NO_TUMOUR, REVIEW)
) -> SliceDecisions:
    """The decisions, with slices for review that have a problem.

    Args:
        problems: for each slice, a clause; None for a slice without a problem.
        of: the verdicts that the problem puts in question.
    """
    verdicts = [
        (REVIEW, sentence(problem)) if problem and verdict[0] in of and not (check and check.reason) else verdict
        for verdict, check, problem in zip(decisions.verdicts, decisions.ood, problems, strict=True)
    ]
    return replace(decisions, verdicts=verdicts)


def decide_slice(probability: float, area_on_grid: float, review: tuple[float, float]) -> tuple[str, str]:
    """Combine the classifier's probability and the segmenter's mask into a three-state verdict.

    Args:
        probability: calibrated probability of tumour, in [0, 1].
        area_on_grid: area of the mask in pixels of the network's grid, so that the upload's resolution does not matter.
        review: [low, high], the review band of the probability.

    Returns:
        The verdict and its reason.
    """
    low, high = review
    found = area_on_grid >= MIN_AREA
    if low <= probability <= high and low < high:
        return REVIEW, f"The classifier is undecided ({chance(probability, REVIEW, review)})."
    if probability > high:
        classified = f"The classifier found a tumour ({chance(probability, TUMOUR, review)})"
        if found:
            return TUMOUR, f"{classified} and the segmenter outlined it."
        return REVIEW, f"{classified}, but the segmenter outlined nothing."
    classified = f"the classifier found no tumour ({chance(probability, NO_TUMOUR, review)})"
    if found:
        return REVIEW, f"The segmenter outlined a region, but {classified}."
    return NO_TUMOUR, f"{classified.capitalize()} and the segmenter outlined nothing."


def decide_findings(
    findings: Sequence[Finding], out_of_distribution: Sequence[int], analysed: int, apart: bool
) -> tuple[str, str, tuple[int, ...]]:
    """Combine the findings for a study's slices, as `decide_study`, or as `decide_apart` where they are not neighbours.

    Args:
        findings: in order along the head.
        out_of_distribution: indices of the slices that do not look like those that the model was trained on.
        analysed: the number of slices with a head.
        apart: whether the slices are not neighbours.
    """
    verdicts = [finding.verdict for finding in findings]
    if apart and not mostly_unknown(out_of_distribution, len(findings), analysed):
        return decide_apart(verdicts, APART)
    outlined = [number for number, one in enumerate(findings) if one.mask.any() and not one.out_of_distribution]
    return decide_study(verdicts, out_of_distribution, analysed, outlined)


def decide_study(
    verdicts: list[str],
    out_of_distribution: Sequence[int] = (),
    analysed: int | None = None,
    outlined: Sequence[int] = (),
) -> tuple[str, str, tuple[int, ...]]:
    """Combine the verdicts of a study's slices into one.

    A tumour extends over neighbouring slices. An isolated "tumour" slice therefore makes the study "review", and an isolated
    "review" slice does not count, unless a region is outlined in it. Out-of-distribution slices do not count either; if they are
    the majority, the study is for review.

    Args:
        verdicts: the slices' verdicts, in order along the head.
        out_of_distribution: indices of the slices that do not look like those that the model was trained on.
        analysed: the number of slices with a head; None if all have one.
        outlined: indices of the slices in which the segmenter outlined a region.

    Returns:
        The verdict, its reason, and the indices of the slices that it rests on.
    """
    if reason := mostly_unknown(out_of_distribution, len(verdicts), len(verdicts) if analysed is None else analysed):
        return REVIEW, reason, tuple(out_of_distribution)
    tumour = [number for number, verdict in enumerate(verdicts) if verdict == TUMOUR and number not in out_of_distribution]
    undecided = [number for number, verdict in enumerate(verdicts) if verdict == REVIEW and number not in out_of_distribution]
    if len(verdicts) == 1:
        return _decide_only_slice(verdicts[0], bool(outlined))
    if any(number + 1 in tumour for number in tumour):
        return TUMOUR, f"{slice_numbers(tumour).capitalize()} of {len(verdicts)} show a tumour.", tuple(tumour)
    neighbouring = any(number + 1 in undecided for number in undecided)
    if not tumour and outlined:
        reason = f"No slice clearly shows a tumour, but the segmenter outlined a region in {slice_numbers(outlined)}."
        return REVIEW, reason, tuple(sorted({*undecided, *outlined}))
    if not tumour and not neighbouring:
        verb = "is" if len(undecided) == 1 else "are"
        isolated = f" {slice_numbers(undecided).capitalize()} {verb} undecided, but isolated." if undecided else ""
        return NO_TUMOUR, f"None of the {len(verdicts)} slices shows a tumour.{isolated}", ()
    if tumour:
        which = "one isolated slice shows" if len(tumour) == 1 else "isolated slices show"
        return REVIEW, f"Only {which} a tumour: {slice_numbers(tumour)}.", tuple(sorted(tumour + undecided))
    return REVIEW, f"No slice clearly shows a tumour; {slice_numbers(undecided)} are undecided.", tuple(undecided)


def decide_apart(verdicts: Sequence[str], subject: str) -> tuple[str, str, tuple[int, ...]]:
    """Combine the verdicts of slices that are not neighbours: tumour where any shows one, else review where any is for review.

    Args:
        verdicts: the slices' verdicts, in order.
        subject: what the slices are, the beginning of the reason.

    Returns:
        The verdict, its reason, and the indices of the slices that it rests on.
    """
    tumour, undecided = ([n for n, one in enumerate(verdicts) if one == verdict] for verdict in (TUMOUR, REVIEW))
    if tumour:
        return TUMOUR, f"{subject}; {slice_numbers(tumour)} show{'s' * (len(tumour) == 1)} a tumour.", tuple(tumour)
    if undecided:
        needed = f"{slice_numbers(undecided)} need{'s' * (len(undecided) == 1)} review"
        return REVIEW, f"{subject}; none clearly shows a tumour, but {needed}.", tuple(undecided)
    return NO_TUMOUR, f"{subject}; none of them shows a tumour.", ()


def mostly_unknown(out_of_distribution: Sequence[int], slices: int, analysed: int) -> str | None:
    """Why nothing about a study is meaningful, if most of its slices with a head are out of distribution; None if they are not.

    Args:
        out_of_distribution: their indices.
        slices: the number of all slices.
        analysed: the number of slices with a head.
    """
    if 2 * len(out_of_distribution) <= analysed:
        return None
    if slices == 1:
        return "The only slice does not look like those that the model was trained on."
    which = f"{len(out_of_distribution)} of {slices}"
    numbers = slice_numbers(out_of_distribution)
    return f"Most slices ({which}) do not look like those that the model was trained on: {numbers}."


def no_images(checks: Iterable[OodResult | None]) -> str | None:
    """Why nothing about a study is meaningful, if the pixels of all its slices with a head are those of no MR image.

    Args:
        checks: the out-of-distribution results; None for slices that were not checked.
    """
    reasons = {check.reason for check in checks if check}
    found = (reason for reason in (LABELS, MASK, BLACK) if reason in reasons)
    return next(found, None) if reasons <= {LABELS, MASK, BLACK, EMPTY} else None


def left_out(out_of_distribution: Sequence[int]) -> tuple[str, ...]:
    """A warning of the slices of a study with these indices, which do not count; none without any."""
    if not out_of_distribution:
        return ()
    return (f"{slice_numbers(out_of_distribution)} left out: unlike those that the model was trained on; {WARNING}",)


def _decide_only_slice(verdict: str, outlined: bool) -> tuple[str, str, tuple[int, ...]]:
    """The verdict on a study of one slice, its reason, and the index of that slice where the verdict rests on it."""
    if verdict == TUMOUR:
        return TUMOUR, "The only slice shows a tumour.", (0,)
    if verdict == NO_TUMOUR and not outlined:
        return NO_TUMOUR, "The only slice shows no tumour.", ()
    region = ", but the segmenter outlined a region" if outlined else ""
    return REVIEW, f"The only slice does not clearly show a tumour{region}.", (0,)
