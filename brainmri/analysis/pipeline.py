"""The pipeline: from a slice to a `Finding`, from a study to a `Study`."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from brainmri._version import __version__
from brainmri.analysis.coverage import ONLY_AXIAL, READ_AS_FLAIR, is_axial, not_covered, unfit_size
from brainmri.analysis.decision import SliceDecisions, decide_findings, decide_slices, left_out, no_images
from brainmri.analysis.explain import Explanation, explain
from brainmri.analysis.findings import NO_TUMOUR, REVIEW, Decision, Finding, Study, sentence, without_head
from brainmri.analysis.forward import Prediction, Progress, RanOn, predict_slices
from brainmri.analysis.lesions import diameters, find_lesions, find_parts, midline, not_measured
from brainmri.analysis.picture import (
    PictureDecision,
    changes,
    decide_head,
    decide_picture,
    decide_pictures,
    missing_part,
    without_one_head,
)
from brainmri.analysis.preparation import Prepared, holds_pictures, mode_of, prepare_picture, prepare_pictures, prepare_study
from brainmri.analysis.recognition import SEQUENCE_OF_FILE, Recognition, check_sequence, sequence_of
from brainmri.analysis.specialist import Decided, Specialist
from brainmri.analysis.stability import Stability, stability
from brainmri.io.reading import Scan, read_slice, read_study
from brainmri.io.sequences import ONE_SEQUENCE
from brainmri.zoo import ood
from brainmri.zoo.attributes import FLAIR, THREE_SEQUENCES
from brainmri.zoo.backends import TORCH, versions
from brainmri.zoo.calibration import Rules
from brainmri.zoo.entry import rules_of
from brainmri.zoo.preprocess import SQUARE
from brainmri.zoo.registry import AXIAL_OOD, DEFAULT, LoadedModel, find_entry, load

Source = str | Path | Image.Image | np.ndarray | Scan  # of one slice


class Pipeline:
    """A segmenter and a classifier, loaded once. Call it with a slice, or call `study` with a study.

        >>> pipe = Pipeline()
        >>> pipe("slice.png").verdict
        'tumour'

    Args:
        segmenter: the model that draws the mask, or its name; None for the zoo's default.
        classifier: the model that gives the verdict, or its name; None for the segmenter if it also classifies, else for the
            zoo's default.
        device: "auto", "cpu", "cuda", "mps" and so on, for models given by name.
        runtime: the inference backend of models given by name, as for `brainmri.load`; None for float32, or the environment
            variable `BRAINMRI_RUNTIME`.
        mask_threshold: on the probability map, in (0, 1); None for the segmenter's own.
        ood_model: the model whose out-of-distribution detector (`brainmri.zoo.ood`) checks the slices if segmenter and
            classifier have none and it covers their sequences; None for the zoo's detector of axial slices.
        specialist: the specialist that the segmenter's entry names, if it is loaded already; None to load it.
        from_hub: take models given by name from the Hub or its cache, never the embedded copies.

    Raises:
        ValueError: for an unknown name, a model without the task, a device or runtime that is not available, or a threshold
            outside (0, 1).
        FileNotFoundError, brainmri.zoo.hub.HubError: if a model cannot be read or downloaded.
    """

    def __init__(
        self,
        segmenter: str | LoadedModel | None = None,
        classifier: str | LoadedModel | None = None,
        device: str = "auto",
        runtime: str | None = None,
        mask_threshold: float | None = None,
        ood_model: LoadedModel | None = None,
        specialist: LoadedModel | None = None,
        from_hub: bool = False,
    ) -> None:
        self.segmenter = _model(segmenter or DEFAULT, "segmentation", device, runtime, from_hub)
        if classifier is None:
            classifier = self.segmenter if "classification" in self.segmenter.entry.tasks else DEFAULT
        if isinstance(classifier, str) and classifier in (segmenter, self.segmenter.entry.name):
            classifier = self.segmenter
        self.classifier = _model(classifier, "classification", device, runtime, from_hub)
        threshold = None if mask_threshold is None else float(mask_threshold)
        if threshold is not None and not 0 < threshold < 1:
            raise ValueError(f"expected a mask threshold between 0 and 1, both excluded, got {threshold}")
        self.rules = rules_of(self.segmenter.entry, self.classifier.entry, threshold)
        self.ood_model = self._choose_ood_model(ood_model, from_hub)
        self.specialist: Specialist | None = None
        if self.segmenter is self.classifier and (named := self.segmenter.entry.specialist):
            model = specialist or load(named.name, device=str(self.segmenter.device), runtime=runtime, from_hub=from_hub)
            rules = rules_of(model.entry, model.entry, threshold)
            self.specialist = Specialist(model=model, rules=rules, generalist=self.segmenter.entry.name)

    def _choose_ood_model(self, other: LoadedModel | None, from_hub: bool) -> LoadedModel:
        """The model whose detector checks the slices: segmenter or classifier, else another one for the same sequences.

        A detector takes every slice of a sequence that it was not fitted on for out of distribution, so without one for the
        sequences of segmenter and classifier there is no check. A detector of every plane is none for a model of axial slices.
        """
        own = [model for model in (self.segmenter, self.classifier) if model.ood and (self._any_plane or not model.ood.any_plane)]
        if own:
            return own[0]
        needed = self.segmenter.entry.evaluated_on & self.classifier.entry.evaluated_on
        if not needed <= (other.entry if other else find_entry(AXIAL_OOD, from_hub=from_hub)).evaluated_on:
            return self.segmenter
        return other or load(AXIAL_OOD, device=str(self.segmenter.device), runtime=TORCH, from_hub=from_hub)

    @property
    def _any_plane(self) -> bool:
        """Whether the models were trained on slices of every plane."""
        return all(model.net.attributes for model in (self.segmenter, self.classifier))

    @property
    def mask_threshold(self) -> float:
        """The threshold on the probability map, in (0, 1)."""
        return self.rules.mask_threshold

    def __call__(self, source: Source, sequence: str | None = None, progress: Progress | None = None) -> Finding:
        """Analyse one slice, or a sheet of several slices in one picture.

        Args:
            source: a path, a PIL image, an array (H, W[, 3 or 4]) or a `Scan`.
            sequence: its MR sequence, one of `brainmri.zoo.attributes.SEQUENCES`; None to recognise it.
            progress: as for `study`. What it raises ends the analysis.

        Raises:
            FileNotFoundError: if the path is not a file.
            ValueError: for a `Scan` of more than one slice, or an unknown sequence.
            brainmri.io.reading.UnreadableImage: if the input cannot be read.
        """
        scan = _one_slice(source)
        picture = self._decide_picture(scan, sequence, progress)
        warnings = (*self._input_warnings(scan, sequence), *picture.warnings)
        provenance = self.provenance(scan, picture.prepared.predicted, picture.recognition, sequence, picture.specialist)
        finding = self._finding(picture.decisions, 0, warnings, provenance, None, picture.recognition)
        return replace(finding, view=None if picture.place else picture.prepared.view)

    def explain(
        self, source: Source, sequence: str | None = None, progress: Progress | None = None, decision: Decision | None = None
    ) -> tuple[Explanation, Stability]:
        """Explain the verdict on one slice, of a sheet the likeliest to show a tumour, and test how stable its outline is.

        Args:
            source, sequence, progress: as for a call.
            decision: what to explain, for example the decision on a slice of a study; None for that on the slice alone.

        Returns:
            The explanation and the stability, with maps on the grid of the upload.
        """
        scan = _one_slice(source)
        parts = self.prepare(scan, sequence, progress)
        undecided = decision is None or len(parts) > 1  # of a sheet, the likeliest slice has to be found
        picture = decide_picture(parts, lambda part: self._decide(part, progress, undecided), *scan.pixels.shape[:2])
        view, pixels, spacing = picture.prepared.view, picture.prepared.slices[0], picture.prepared.spacing
        grid = scan.pixels.shape[:2]
        decided = decision or picture.decision
        mask = view.cut_masks(decided.mask[None])[0]
        specialist = self.specialist.model if self.specialist and decided.by_specialist else None
        rules = self._deciding_rules(picture.recognition, decided.by_specialist)
        explanation = explain(
            specialist or self.classifier, pixels, mask, decided.probability, decided.verdict, picture.place, spacing
        )
        stable = stability(specialist or self.segmenter, pixels, rules.mask_threshold, progress, spacing)
        return (
            replace(explanation, saliency=view.restore(explanation.saliency[None], *grid)[0]),
            replace(stable, share=view.restore(stable.share[None], *grid)[0]),
        )

    def prepare(self, scan: Scan, sequence: str | None = None, progress: Progress | None = None) -> tuple[Prepared, ...]:
        """Find the slices of a slice or a study and turn them upright, as an analysis does.

        Args:
            scan: a slice (H, W, 3) or a study (S, H, W, 3).
            sequence: its MR sequence, one of `brainmri.zoo.attributes.SEQUENCES`; None to recognise it.
            progress: as for `study`.

        Returns:
            One for a slice and for the slices of one head; several for a sheet of slices and for several pictures.

        Raises:
            ValueError: for an unknown sequence, or one for a study of several.
        """
        return tuple(self._prepare(scan, holds_pictures(scan), sequence, progress))

    def _prepare(self, scan: Scan, pictures: bool, sequence: str | None, progress: Progress | None) -> Iterable[Prepared]:
        """As `prepare`, for pictures one at a time; `pictures` is what `holds_pictures` says of a study."""
        check_sequence(sequence)
        if sequence not in (None, THREE_SEQUENCES) and (found := sum(label is not None for label in scan.sequences)) > 1:
            raise ValueError(f"expected a study of one sequence for sequence={sequence!r}, got {found} sequences; leave it out")
        spacing = scan.geometry.spacing[1:] if scan.geometry else None

        def predict(slices: np.ndarray) -> Prediction:
            models = self.segmenter, self.classifier
            return predict_slices(*models, slices, spacing or SQUARE, progress=progress, ood_model=self.ood_model)

        # a detector of axial slices was not measured on what is cut out of pages, and would let some other images pass
        any_upload = self.ood_model.ood is not None and self.ood_model.ood.any_plane
        named = sequence or SEQUENCE_OF_FILE.get(scan.single_sequence or "", scan.single_sequence)
        if scan.pixels.ndim == 3 and not scan.geometry:
            return prepare_picture(scan.pixels, predict, named, find_slices=any_upload)
        if pictures:
            return prepare_pictures(scan, predict, named, find_slices=any_upload)
        slices = scan if scan.pixels.ndim == 4 else replace(scan, pixels=scan.pixels[None])
        return (prepare_study(slices, predict, named, find_negatives=any_upload),)

    def _decide_picture(self, scan: Scan, sequence: str | None, progress: Progress | None) -> PictureDecision:
        parts = self.prepare(scan, sequence, progress)
        return decide_picture(parts, lambda part: self._decide(part, progress), *scan.pixels.shape[:2])

    def _decide(self, prepared: Prepared, progress: Progress | None, specialist: bool = True) -> Decided:
        """Decide upright slices, by the specialist where they are like its training data, unless it is left out."""
        decisions = decide_slices(prepared.predicted, self.rules, prepared.mode, prepared.sequence)
        chosen = self.specialist if specialist else None
        return chosen.decide(prepared, decisions, progress) if chosen else Decided(decisions, None)

    def study(
        self,
        source: str | Path | Sequence[str | Path] | np.ndarray | Scan,
        progress: Progress | None = None,
        sequence: str | None = None,
    ) -> Study:
        """Analyse a study. Slices without a head are skipped.

        Args:
            source: a path, a list of paths, an array (S, H, W[, 3]), as `read_study` takes them, or a `Scan`.
            progress: called with the number of finished slices and of all slices after each batch of each network. What it raises
                ends the analysis.
            sequence: the MR sequence of a study with a single one; None to recognise it.

        Raises:
            FileNotFoundError: if the path does not exist.
            ValueError: for an unknown sequence, or one for a study of several.
            brainmri.io.reading.UnreadableImage: if the input cannot be read.
        """
        scan = source if isinstance(source, Scan) else read_study(source)
        geometry, pictures = scan.geometry, holds_pictures(scan)
        decided = self._decide_study(scan, pictures, sequence, progress)
        middle = midline(decided[0].prepared.slices)
        warnings = (*self._input_warnings(scan, sequence), *not_measured(geometry, middle))
        if apart := len(decided) > 1:
            warnings = without_one_head(warnings)
        findings = self._study_findings(scan, decided, warnings, sequence)
        mask, maps = np.stack([one.mask for one in findings]), np.stack([one.probability_map for one in findings])
        parts = find_parts(mask, geometry)
        out_of_distribution = [number for number, finding in enumerate(findings) if finding.out_of_distribution]
        if pictures and len(findings) == 1:
            verdict, reason, carried_by = findings[0].verdict, findings[0].reason, (0,) * (findings[0].verdict != NO_TUMOUR)
        else:
            analysed = sum(len(one.decisions.masks) for one in decided)
            verdict, reason, carried_by = decide_findings(findings, out_of_distribution, analysed, apart)
        if problem := None if pictures else self._problem(scan, decided[0]):
            verdict, reason = REVIEW, sentence(problem)
        if verdict == NO_TUMOUR and (missing := scan.incomplete or (None if pictures else missing_part(decided[0].prepared))):
            verdict, reason = REVIEW, f"{sentence(missing)} {reason}"
        if found := no_images(finding.ood for finding in findings):
            verdict, reason = REVIEW, found
        study = Study(
            verdict=verdict,
            reason=reason,
            carried_by=carried_by,
            findings=findings,
            mask=mask,
            probability_map=maps,
            diameters=tuple(diameters(parts, len(mask))),
            lesions=find_lesions(mask, parts, geometry, middle, apart),
            sequences=scan.sequences,
            recognition=None if apart else decided[0].recognition,
            geometry=geometry,
            warnings=(*warnings, *changes(decided), *left_out(out_of_distribution)),
            provenance={},
            apart=apart,
        )
        return replace(study, provenance=findings[study.most_probable].provenance)

    def _decide_study(self, scan: Scan, pictures: bool, sequence: str | None, progress: Progress | None) -> list[PictureDecision]:
        """Decide the slices of one head together, or each of several pictures by itself."""
        if not pictures:
            (prepared,) = self._prepare(scan, pictures, sequence, progress)
            return [decide_head(prepared, lambda part: self._decide(part, progress), scan)]
        decided, prepared = [], self._prepare(scan, pictures, sequence, None)
        for one in decide_pictures(prepared, lambda part: self._decide(part, None), *scan.pixels.shape[1:3]):
            decided.append(one)
            if progress:
                progress(int(one.prepared.view.numbers[0]) + 1, len(scan.pixels))
        return decided

    def _study_findings(
        self, scan: Scan, decided: list[PictureDecision], warnings: tuple[str, ...], sequence: str | None
    ) -> tuple[Finding, ...]:
        """The findings for all slices of a study, also for those without a head."""
        geometry, found = scan.geometry, {}
        pixel = float(np.prod(geometry.spacing[1:])) if geometry and geometry.plausible else None
        for one in decided:
            prepared, own = one.prepared, (*warnings, *one.warnings)
            provenance = self.provenance(scan, prepared.predicted, one.recognition, sequence, one.specialist, prepared.mode)
            for place, number in enumerate(prepared.view.numbers.tolist()):
                found[number] = self._finding(one.decisions, place, own, provenance, pixel, one.recognition)
        others = set(range(len(scan.pixels))) - set(found)
        provenance = next(iter(found.values())).provenance
        found |= {number: without_head(scan.pixels.shape[1:3], warnings, provenance, pixel) for number in others}
        return tuple(found[number] for number in range(len(scan.pixels)))

    def _problem(self, scan: Scan, decided: PictureDecision) -> str | None:
        """Why the slices of one head are for review, a clause; None if they are not."""
        prepared = decided.prepared
        unfit = unfit_size(*scan.pixels.shape[1:3], measured=scan.geometry is not None)
        uncovered = not_covered(self.rules, prepared.sequence, prepared.predicted)
        # of what is no slice of one head, the sequence is often unclear
        return (unfit or uncovered) if prepared.sequence is None else (uncovered or unfit)

    def _input_warnings(self, scan: Scan, sequence: str | None) -> tuple[str, ...]:
        """The warnings of the reader, and how the models take a sequence that nobody and nothing names, or another plane."""
        unnamed = ONE_SEQUENCE in scan.warnings and not (sequence or scan.single_sequence)
        taken_for_flair = unnamed and not self.classifier.net.attributes and FLAIR in self.classifier.entry.evaluated_on
        added = [*[READ_AS_FLAIR] * taken_for_flair, *[ONLY_AXIAL] * (not is_axial(scan) and not self._any_plane)]
        return (*scan.warnings, *added)

    def _finding(
        self,
        decisions: SliceDecisions,
        number: int,
        warnings: tuple[str, ...],
        provenance: dict,
        pixel: float | None,
        recognition: Recognition | None,
    ) -> Finding:
        """The finding for one slice; `pixel` is the area of a pixel in square millimetres, None if unknown."""
        verdict, reason = decisions.verdicts[number]
        check = decisions.ood[number]
        if check and check.reason:
            warnings = (*warnings, ood.WARNING)
        area = int(decisions.masks[number].sum())
        return Finding(
            verdict=verdict,
            reason=reason,
            probability=float(decisions.probabilities[number]),
            mask=decisions.masks[number],
            probability_map=decisions.maps[number],
            area_px=area,
            area_mm2=None if pixel is None else area * pixel,
            ood=check,
            recognition=recognition,
            warnings=warnings,
            provenance=provenance,
            min_area_px=int(decisions.min_areas[number]),
        )

    def provenance(
        self,
        scan: Scan,
        predicted: Prediction | None = None,
        recognition: Recognition | None = None,
        sequence: str | None = None,
        specialist: Prediction | None = None,
        mode: str | None = None,
    ) -> dict:
        """What a result for the scan depends on: input, models, thresholds, calibration, devices, runtimes and versions.

        Args:
            scan: the input.
            predicted: the prediction for it, which knows what the models ran on; None before there is one.
            recognition: what was recognised; threshold and review band are those of the sequence.
            sequence: what the user says that the sequence is.
            specialist: the specialist's prediction, if it decided; threshold and review band are its own then.
            mode: of the rules, as for `decide_slices`; None to find it out.
        """
        ood_config, rules = self.ood_model.entry.ood, self._deciding_rules(recognition, specialist is not None)
        mode = mode or mode_of(scan)
        ran_on = {"segmenter": RanOn.of(self.segmenter), "classifier": RanOn.of(self.classifier)}
        if predicted:
            assert predicted.segmenter is not None
            assert predicted.classifier is not None
            ran_on = {"segmenter": predicted.segmenter, "classifier": predicted.classifier}
        return {
            "input": {"sha256": scan.sha256},
            "sequence": sequence,
            "segmenter": ran_on["segmenter"].record(self.segmenter),
            "classifier": ran_on["classifier"].record(self.classifier),
            "specialist": self.specialist and self.specialist.record(specialist, mode),
            "mask_threshold": rules.mask_threshold,
            "review_band": list(rules.band(mode)),
            "calibration": self.rules.config(mode),
            "ood": ood_config and {"name": self.ood_model.entry.name, **ood_config.config()},
            "versions": {
                "brainmri": __version__,
                "torch": torch.__version__,
                **versions(*(one.runtime for one in ran_on.values())),
                "python": platform.python_version(),
            },
        }

    def _deciding_rules(self, recognition: Recognition | None, by_specialist: bool) -> Rules:
        """The rules that were applied, for the recognised sequence; the specialist's if it decided."""
        rules = self.specialist.rules if self.specialist and by_specialist else self.rules
        return rules.for_sequence(sequence_of(recognition))


def _model(chosen: str | LoadedModel, task: str, device: str, runtime: str | None, from_hub: bool) -> LoadedModel:
    model = load(chosen, device=device, runtime=runtime, from_hub=from_hub) if isinstance(chosen, str) else chosen
    if task not in model.entry.tasks:
        tasks = " and ".join(model.entry.tasks)
        raise ValueError(
            f"expected a model for {task}, got {model.entry.name}, which is for {tasks}; choose another model, such as {DEFAULT}"
        )
    return model


def _one_slice(source: Source) -> Scan:
    scan = source if isinstance(source, Scan) else read_slice(source)
    if scan.pixels.ndim != 3:
        raise ValueError(f"expected one slice (H, W, 3), got pixels of shape {scan.pixels.shape}; use study() for a stack")
    return scan
