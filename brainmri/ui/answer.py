"""The answer at a glance: the box with the verdict on a slice or a study, or with the reason of a refusal."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from brainmri.analysis.coverage import READ_AS_FLAIR
from brainmri.analysis.findings import TUMOUR, Finding, Study, count, percent, percent_number, slice_numbers
from brainmri.analysis.forward import with_head
from brainmri.analysis.head import head_mask
from brainmri.analysis.lesions import MIDLINE_TOLERANCE, midline
from brainmri.analysis.recognition import Recognised, Recognition, differ_in_channels
from brainmri.io.scan import Scan
from brainmri.report.chart import chart_svg
from brainmri.report.html import deciding_models, lesions_html, montage_html
from brainmri.report.render import montage_picture, slice_picture
from brainmri.report.templates import STATES
from brainmri.report.viewer import study_viewer
from brainmri.ui.examples import example_of
from brainmri.zoo.attributes import FLAIR, SEQUENCES, T1, T1C, THREE_SEQUENCES

SEQUENCE_LABELS = {name: name for name in SEQUENCES} | {T1: "pre-contrast T1", T1C: "post-contrast T1", "PD": "proton density"}
LABELS = SEQUENCE_LABELS | {"pituitary": "pituitary tumour"}
ASSUMED_FLAIR = "FLAIR (assumed for a greyscale image)"
NOT_RECOGNISED = "not recognised"
CHANGE_SEQUENCE = Markup('<button type="button" class="change-sequence" aria-label="Change the sequence">change</button>')
OF_MASK = ("Lesions", "Size", "Side")  # facts of the model's mask, which are not printed where another mask is shown
MODEL_MASK = Markup(' class="model-mask"')
THUMBNAIL = 112  # pixels; longer side
OPEN_NOTES = 2  # further ones are folded, so that the box does not outgrow its place


def slice_answer(scan: Scan, finding: Finding) -> Markup:
    """The box for a slice."""
    if finding.out_of_distribution:  # nothing that was computed is meaningful
        return answer_html(finding.verdict, [finding.reason], finding.warnings, Markup(""), {})
    recognition = finding.recognition
    size = slice_size(scan.pixels, finding)
    side = image_side(scan.pixels, finding) if finding.area_px else None
    if recognition:
        seen = recognised_facts(recognition, finding.verdict)
    else:
        named = finding.provenance.get("sequence")
        seen = {"Sequence": LABELS.get(named, named) if named else assumed_sequence(scan, finding.warnings)}
    if recognition and not (recognition.sequence and recognition.sequence.name == THREE_SEQUENCES):
        seen["Sequence"] = Markup("{} {}").format(seen["Sequence"], CHANGE_SEQUENCE)
    scale = probability_scale(finding.probability, finding.provenance["review_band"])
    facts = {"Size": size} | seen | {"Side": side, "Model": deciding_models(finding.provenance)}  # the long ones begin a row
    return answer_html(finding.verdict, [finding.reason], finding.warnings, scale, facts)


def study_answer(scan: Scan, study: Study, warnings: tuple[str, ...] | list[str]) -> Markup:
    """The box for a study; `warnings` are its own and those of writing its files."""
    if study.out_of_distribution:
        return answer_html(study.verdict, [study.reason], warnings, Markup(""), {})
    facts = {}
    if study.lesions:
        facts = {"Lesions": str(len(study.lesions)), "Size": study_size(scan.pixels, study), "Side": patient_side(study)}
    seen = recognised_facts(study.recognition, study.verdict) if study.recognition else recognised_one_by_one(study)
    if not seen or sum(label is not None for label in scan.sequences) > 1:  # the names say more than "three"
        seen |= read_sequences(scan, study.warnings)
    if study.geometry and study.geometry.oriented:
        seen["Plane"] = study.geometry.plane
    scale, highest = Markup(""), study.findings[study.most_probable]
    if not highest.out_of_distribution:
        where = f"in slice {study.most_probable + 1} of {len(study.findings)}"
        scale = probability_scale(highest.probability, study.provenance["review_band"], where)
    sentences = [study.reason, Markup("<span{}>{}</span>").format(MODEL_MASK, outlined_slices(study))]
    facts |= seen | {"Model": deciding_models(study.provenance)}
    return answer_html(study.verdict, sentences, warnings, scale, facts)


def study_view(scan: Scan, study: Study) -> Markup:
    """The viewer of a study with the table of lesions and the overlays; of what is no brain, the viewer alone."""
    viewer = study_viewer(scan, study, chart_svg(study))
    if study.out_of_distribution:
        return viewer
    lesions = lesions_html(study) if study.lesions else ""
    overlays = montage_html(study, montage_picture(scan.pixels, study))
    of_mask = Markup("<div{}>{}<details><summary>Overlays</summary>{}</details></div>")
    return viewer + of_mask.format(MODEL_MASK, lesions, overlays)


def outlined_slices(study: Study) -> str:
    """The slices of the outline, and which of them are no tumour slices; empty if the verdict rests on the same ones."""
    outlined = np.flatnonzero(study.mask.any(axis=(1, 2))).tolist()
    if not outlined or outlined == [*study.carried_by] or study.reason.endswith(f"{slice_numbers(outlined)}."):
        return ""
    others = [number for number in outlined if study.findings[number].verdict != TUMOUR] if study.verdict == TUMOUR else []
    alone = f"; alone, {slice_numbers(others)} would not be called tumour" if others else ""
    return f"The outline covers {slice_numbers(outlined)}{alone}."


def refusal(title: str, message: str) -> Markup:
    """The box for an input that cannot be analysed.

    Args:
        title: what failed.
        message: the reason, as HTML; what it quotes from an upload is escaped.
    """
    box = '<section class="verdict refused"><h2><span aria-hidden="true">✕</span> {}</h2><p>{}</p></section>'
    return Markup(box).format(title, Markup(message))


def select_flair(candidates: Sequence[str]) -> Markup:
    """The box that asks for the FLAIR among several series."""
    names = Markup("").join(Markup("<li>{}</li>").format(name) for name in candidates)
    return Markup("""<section class="verdict prompt">
  <h2><span aria-hidden="true">?</span> Which series is the FLAIR?</h2>
  <p>None of these is clearly the FLAIR:</p><ul>{}</ul>
  <p>Select it in the field <b>FLAIR</b>, then press <b>Analyse</b>.</p>
  <p><button type="button" class="select-flair">Select the FLAIR</button></p>
</section>""").format(names)


def unseen_input(label: str, mark: str) -> Markup:
    """The name of an input of which no picture can be shown, with a mark in its place."""
    line = '<p class="input"><span class="missing" aria-hidden="true">{}</span><b>{}</b></p>'
    return Markup(line).format(mark, label) if label else Markup("")


def preview(scan: Scan, name: str) -> Markup:
    """What is analysed: a small picture, the name and the size; of an example also its label."""
    pixels = scan.pixels if scan.pixels.ndim == 3 else scan.pixels[len(scan.pixels) // 2]
    picture = slice_picture(pixels)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    source = f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
    *slices, height, width, _ = scan.pixels.shape
    size = f"{width} × {height} pixels" + (f", {count(slices[0], 'slice')}" if slices else "")
    row = '<p class="input"><img src="{}" alt="" width="{}" height="{}"><span><b>{}</b><br>{}</span></p>'
    example = example_of(scan.sha256)
    title, line = (example.label, f"{name}, {size}") if example else (name, size)
    return Markup(row).format(source, *picture.size, title, line)


def empty_state(words: str) -> Markup:
    """The placeholder shown before there is a result; `words` are HTML."""
    return Markup(f'<div class="verdict empty">{words}</div>')


def answer_html(
    verdict: str, sentences: list[str], warnings: Sequence[str], scale: Markup, facts: Mapping[str, str | None]
) -> Markup:
    """The box. Text is escaped, unless it is markup; facts that are None are left out."""
    state, symbol, label = STATES[verdict]
    rows = Markup("").join(
        Markup("<div{}><dt>{}</dt><dd>{}</dd></div>").format(MODEL_MASK if name in OF_MASK else "", name, value)
        for name, value in facts.items()
        if value
    )
    return Markup("""<section class="verdict {}">
  <h2><span aria-hidden="true">{}</span> {}</h2>{}
  <dl class="facts">{}</dl>
  <p>{}</p>{}
</section>""").format(state, symbol, label, scale, rows, Markup(" ").join(filter(None, sentences)), notes_html(warnings))


def notes_html(warnings: Sequence[str]) -> Markup:
    """The warnings of a result; if there are many, those beyond the first ones are folded."""
    notes = [Markup('<p class="warning"><b>Note:</b> {}.</p>').format(warning) for warning in warnings]
    if len(notes) <= OPEN_NOTES + 1:  # one folded note would take as much space as an open one
        return Markup("").join(notes)
    fold = Markup("{}<details><summary>{} more notes</summary>{}</details>")
    return fold.format(Markup("").join(notes[:OPEN_NOTES]), len(notes) - OPEN_NOTES, Markup("").join(notes[OPEN_NOTES:]))


def probability_scale(probability: float, review: list[float], where: str = "") -> Markup:
    """A probability as text and as a needle on a scale of three zones: no tumour, review, tumour.

    Args:
        probability: in [0, 1].
        review: [low, high], the review band; without a band both are equal.
        where: the slice of a study that it is the highest of; empty for a single slice.
    """
    low, high = review
    middle = min(max(50 * (low + high), 30), 70)  # percent; leaves room for the labels at both ends
    chance = Markup("Highest probability: <b>{}</b>, {}" if where else "<b>{}</b> probability of tumour")
    ends = percent_number(low), percent_number(high)
    band = Markup('<span style="left:{:.0f}%">review: {} to {}%</span>').format(middle, *ends)
    return Markup("""
  <p class="probability">{chance}</p>
  <div class="scale" aria-hidden="true">
    <i class="clear" style="width:{low:.2f}%"></i><i class="review" style="width:{width:.2f}%"></i><i class="tumour"></i>
    <b style="left:{needle:.2f}%"></b>
  </div>
  <p class="zones"><span>no tumour</span>{band}<span>tumour</span></p>""").format(
        chance=chance.format(percent(probability, review), where), low=100 * low, width=100 * (high - low),
        needle=100 * probability, band=band if high > low else "",
    )  # fmt: skip


def recognised_facts(recognition: Recognition, verdict: str) -> dict[str, str | None]:
    """Sequence, plane and kind of tumour as the network recognised them."""

    def known(part: Recognised | None) -> str:
        if part is None:
            return NOT_RECOGNISED
        name = LABELS.get(part.name, part.name)
        return name if part.probability == 1 else f"{name} ({percent(part.probability)})"

    has_kind = verdict == TUMOUR and recognition.sequence is not None and recognition.sequence.name == T1C
    return {
        "Sequence": known(recognition.sequence),
        "Plane": known(recognition.plane),
        "Kind": known(recognition.kind) if has_kind else None,
    }


def recognised_one_by_one(study: Study) -> dict[str, str | None]:
    """Sequences and planes of pictures, with their numbers, the most frequent first; empty if nothing was recognised."""
    found = [one.recognition for one in study.findings if study.apart and one.recognition and not one.out_of_distribution]

    def counted(parts: list[Recognised | None]) -> str:
        names = Counter(LABELS.get(part.name, part.name) if part else NOT_RECOGNISED for part in parts)
        return ", ".join(f"{name} ({number})" for name, number in names.most_common())

    return {"Sequence": counted([one.sequence for one in found]), "Plane": counted([one.plane for one in found])} if found else {}


def assumed_sequence(scan: Scan, warnings: Sequence[str]) -> str:
    """The sequence of an input that no network recognises: three where the channels differ, or FLAIR if a warning says so."""
    if differ_in_channels(scan.pixels.reshape(-1, *scan.pixels.shape[-3:])):
        return THREE_SEQUENCES
    return ASSUMED_FLAIR if READ_AS_FLAIR in warnings else NOT_RECOGNISED


def read_sequences(scan: Scan, warnings: Sequence[str]) -> dict[str, str | None]:
    """The sequences that a study was read as; `warnings` are those of its result."""
    if not any(scan.sequences):
        return {"Sequence": assumed_sequence(scan, warnings)}
    if scan.single_sequence:
        return {"Sequence": scan.single_sequence}
    names = [SEQUENCE_LABELS[channel] for channel, label in zip((T1, FLAIR, T1C), scan.sequences, strict=True) if label]
    return {"Sequence": ", ".join(names)}


def slice_size(pixels: np.ndarray, finding: Finding) -> str | None:
    """The outlined area, in cm² if the pixel size is known, and its share of the head; None without one, and of no brain."""
    if not finding.area_px or finding.out_of_distribution:
        return None
    area = f"{finding.area_px:,} pixels" if finding.area_mm2 is None else f"{finding.area_mm2 / 100:.1f} cm²"
    if finding.view is None:
        return area
    return f"{area}, {percent(head_share(*upright(pixels, finding)))} of the head in this slice"


def upright(pixels: np.ndarray, finding: Finding) -> tuple[np.ndarray, np.ndarray]:
    """The slice (H, W, 3) and the mask (H, W) of a finding as the networks saw them: cut out of a page, not inverted, upright."""
    assert finding.view is not None
    return finding.view.cut(pixels[None])[0], finding.view.cut_masks(finding.mask[None])[0]


def study_size(pixels: np.ndarray, study: Study) -> str | None:
    """The outlined volume in mL and the largest diameter in mm; without voxel size the share of the head.

    None where nothing is outlined, of no brain, and of different people, whose lesions have no sum.
    """
    if not study.lesions or study.out_of_distribution or study.apart:
        return None
    volume = study.volume_mm3
    if volume is not None:
        return f"{volume / 1000:.1f} mL, largest diameter {max(study.diameters):.0f} mm"
    return f"{int(study.mask.sum()):,} voxels, {percent(head_share(pixels, study.mask))} of the head (voxel size unknown)"


def head_share(pixels: np.ndarray, mask: np.ndarray) -> float:
    """The share of the head, without the background, that a mask covers, in [0, 1].

    Args:
        pixels: (H, W, 3) or (S, H, W, 3) in [0, 1].
        mask: (H, W) or (S, H, W) bool.
    """
    slices, masks = pixels.reshape(-1, *pixels.shape[-3:]), mask.reshape(-1, *mask.shape[-2:])
    heads = (head_mask(slices[number]) | masks[number] for number in np.flatnonzero(with_head(slices)))
    return float(mask.sum() / max(1, sum(int(head.sum()) for head in heads)))


def image_side(pixels: np.ndarray, finding: Finding) -> str | None:
    """The half of the image in which the outline lies; None for sheets, half heads, sagittal and turned slices without sides.

    The patient's left is not known in a picture; the usual display is named as an assumption.
    """
    recognition = finding.recognition
    if finding.view is None or finding.view.turned:
        return None
    if recognition and recognition.plane and recognition.plane.name == "sagittal":
        return None
    slice_, mask = upright(pixels, finding)
    middle = midline(slice_[None])
    if middle is None:
        return None
    left = float((np.nonzero(mask)[1] < middle).mean())
    if MIDLINE_TOLERANCE <= left <= 1 - MIDLINE_TOLERANCE:
        return "both sides of the midline"
    here, patient = ("left", "right") if left > 0.5 else ("right", "left")
    return f"{here} half of the image (usually the patient's {patient})"


def patient_side(study: Study) -> str | None:
    """The patient's side of the lesions; None if the files store no orientation."""
    sides = [lesion.side for lesion in study.lesions]
    if None in sides:
        return None
    return "left and right" if len({*sides} - {"both"}) > 1 else "both sides" if "both" in sides else sides[0]
