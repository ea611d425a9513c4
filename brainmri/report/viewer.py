"""The viewer of slices and studies: one `section` of HTML with all its data, which the viewer's script makes interactive.

The data is JSON in the section. The script holds no constant of its own that the analysis depends on: thresholds, islands and
smallest areas come with the data, so that the outline in the browser is the one of the finding.
"""

from __future__ import annotations

import base64
import gzip
import io
from typing import NamedTuple

import numpy as np
from markupsafe import Markup
from PIL import Image

from brainmri._version import __version__
from brainmri.analysis.findings import Finding, Study, chance
from brainmri.analysis.lesions import MIN_ISLAND_SHARE
from brainmri.io.limits import UnreadableImage
from brainmri.io.orientation import TAG
from brainmri.io.pixels import FLAIR
from brainmri.io.scan import PLANES, Geometry, Scan
from brainmri.io.writers import nifti_image, segmentation_template
from brainmri.report.render import PROJECTION_MARGIN, head_projections, to_bytes
from brainmri.report.templates import STATES, TEMPLATES, template

MAX_SIDE, MAX_SLICE_SIDE = 384, 1024  # pixels; longer side of the images of a study and of a single slice
LOWEST_THRESHOLD = 0.05  # of the slider
STEPS = 200  # thresholds that the levels of a map tell apart: multiples of 1 / STEPS, and the finding's own
SCRIPTS = ("viewer_mask.js", "viewer_pane.js", "viewer_projection.js", "viewer_files.js", "viewer.js")
CHANNELS = ("Pre-contrast T1", "FLAIR", "Post-contrast T1")
AS_READ = -1  # the "sequence" that shows a slice's channels as red, green and blue
OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
TOWARDS = "IPL"  # directions in which a view's rows and columns count
PLANE_OF = {frozenset("SR"): "Coronal", frozenset("SA"): "Sagittal", frozenset("AR"): "Axial"}
# by plane: where the previous and the next slice lie, and how slices are counted
ORDER = {
    "axial": ("towards the neck", "towards the top of the head", "from the neck upwards"),
    "coronal": ("towards the back", "towards the front", "from the back to the front"),
    "sagittal": ("towards the patient's right", "towards the patient's left", "from the patient's right to the left"),
}


class View(NamedTuple):
    """How a plane through a scan is shown.

    Attributes:
        axes: the scan's axes (0 slices, 1 rows, 2 columns) that run down the view, across it, and through it.
        flips: whether the first two run upwards and to the left.
        name: "Axial", "Coronal" or "Sagittal".
        letters: at the top, bottom, left and right, the direction in the patient; empty if unknown.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool]
    name: str
    letters: dict[str, str]


def viewer_script() -> str:
    """The viewer's JavaScript, which defines `mountViewer(section)`."""
    return "\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in SCRIPTS)


def viewer_style() -> str:
    """The viewer's style sheet."""
    return (TEMPLATES / "viewer.css").read_text(encoding="utf-8")


def slice_viewer(scan: Scan, finding: Finding) -> Markup:
    """The viewer of one slice.

    Args:
        scan: pixels (H, W, 3).
        finding: its result.
    """
    label = STATES[finding.verdict][2]
    data = _data(scan, scan.pixels[None], (finding,), finding.probability_map[None], None, finding.record())
    data |= {
        "captions": [f"{label} ({_chance(finding)})"],
        "nifti": None,
        "segmentation": None,
        "orientation": orientation_data(scan.orientation),
        "plain": finding.out_of_distribution,
    }
    return _render(data, "Slice viewer", scan.geometry)


def study_viewer(scan: Scan, study: Study, chart: Markup, references: bool = True) -> Markup:
    """The viewer of a study, with its chart.

    Args:
        scan: pixels (S, H, W, 3).
        study: its result.
        chart: `brainmri.report.chart.chart_svg` of the study.
        references: whether the viewer of a DICOM study offers a segmentation; its data then has the UIDs of the images.
    """
    data = _data(scan, scan.pixels, study.findings, study.probability_map, study.geometry, study.record())
    data |= {
        "captions": [slice_caption(number, finding, study) for number, finding in enumerate(study.findings, 1)],
        "nifti": nifti_data(study.mask, study.geometry),
        "segmentation": segmentation_data(study.geometry) if references and study.geometry and study.geometry.instances else None,
        "first": study.most_probable,
        "plain": study.out_of_distribution,
    }
    if study.apart:  # pictures of different heads are no volume
        data |= {"min_island_share": 0, "planes": 1}
    elif study.lesions and not data["plain"]:
        data["projection"] = projection_data(scan.pixels[..., FLAIR], study.geometry, data["proportions"])
    return _render(data, "Slices of the study", study.geometry, chart)


def counted(study: Study) -> str:
    """How a study's slices are counted, for example "from the neck upwards"."""
    return "in their order" if study.apart else ORDER[study.geometry.plane if study.geometry else "axial"][2]


def slice_caption(number: int, finding: Finding, study: Study) -> str:
    """A slice's number, verdict and probability in one line; the viewer adds the outlined area."""
    return f"Slice {number} of {len(study.findings)}: {STATES[finding.verdict][2].lower()} ({_chance(finding)})"


def _chance(finding: Finding) -> str:
    if finding.out_of_distribution:  # a probability of tumour in what is no brain would mislead
        return "does not look like a brain MRI slice"
    return chance(finding.probability, finding.verdict, finding.provenance["review_band"])


def views(geometry: Geometry | None) -> list[View]:
    """The view of a scan's own slices, and the two planes at right angles to it."""
    code = PLANES[geometry.plane if geometry else "axial"]
    found = []
    for pair in ((1, 2), (0, 2), (0, 1)):
        down, across = sorted(pair, key=lambda axis: "SI AP LR".index(code[axis]))
        axes = (down, across, 3 - down - across)
        flips = (code[down] not in TOWARDS, code[across] not in TOWARDS)
        ends = [OPPOSITE[code[axis]] if flipped else code[axis] for axis, flipped in zip(axes[:2], flips, strict=True)]
        letters = {"top": OPPOSITE[ends[0]], "bottom": ends[0], "left": OPPOSITE[ends[1]], "right": ends[1]}
        name = PLANE_OF[frozenset(end if end in "SAR" else OPPOSITE[end] for end in ends)]
        found.append(View(axes, flips, name, letters if geometry and geometry.oriented else {}))
    return found


def projection_data(flair: np.ndarray, geometry: Geometry | None, lengths: list[float]) -> dict:
    """Projections of the head, and how the scan's axes lie in them: upwards, from front to back, and from right to left.

    Args:
        flair: (S, H, W) in [0, 1].
        geometry: of the scan.
        lengths: of a voxel along the scan's axes.
    """
    code = PLANES[geometry.plane if geometry else "axial"]
    axes = [next(axis for axis in range(3) if code[axis] in pair) for pair in ("SI", "PA", "LR")]
    flips = [code[axis] in "IAR" for axis in axes]
    head = np.flip(flair.transpose(axes), tuple(axis for axis in range(3) if flips[axis]))
    pictures = head_projections(head, tuple(lengths[axis] for axis in axes))
    return {
        "frames": [picture_uri(picture) for picture in pictures],
        "axes": axes,
        "flips": flips,
        "side": pictures[0].width,
        "margin": PROJECTION_MARGIN,
    }


def levels(maps: np.ndarray, *thresholds: float) -> tuple[np.ndarray, list[float]]:
    """Probability maps in 8 bits that give the same masks as the maps themselves, at every threshold of the slider.

    Args:
        maps: (S, H, W) float32 in [0, 1].
        thresholds: other ones that must give the same mask.

    Returns:
        (S, H, W) uint8, the number of edges below each probability, and the edges: a probability is above `edges[n]` where its
        level is above n. Probabilities that no threshold outlines have level 0.
    """
    edges = np.unique(np.append(np.arange(STEPS) / STEPS, thresholds))
    found = np.zeros(maps.shape, np.uint8)
    outlined = maps > np.float32(min(LOWEST_THRESHOLD, *thresholds))
    found[outlined] = np.searchsorted(edges.astype(np.float32), maps[outlined])
    return found, edges.tolist()


def _data(
    scan: Scan, pixels: np.ndarray, findings: tuple[Finding, ...], maps: np.ndarray, geometry: Geometry | None, record: dict
) -> dict:
    """What the script needs to know, without what differs between slices and studies.

    With `plain`, the viewer shows the pictures alone: in what is no brain, no mask and no probability is meaningful.
    """
    slices, height, width = maps.shape
    measured = geometry if geometry is not None and geometry.plausible else None
    # where the slice thickness is unknown: a head is about as high as it is wide
    lengths = geometry.spacing if geometry else (max(height, width) / slices, 1.0, 1.0)
    thresholds = [finding.provenance["mask_threshold"] for finding in findings]
    found, edges = levels(maps, *set(thresholds))
    images, sequences, first = _images(pixels, MAX_SIDE if slices > 1 else MAX_SLICE_SIDE)
    return {
        "name": scan.name,
        "shape": list(maps.shape),
        "proportions": list(lengths),
        "pixel_mm2": measured and measured.spacing[1] * measured.spacing[2],
        "voxel_mm3": measured and measured.voxel_volume,
        "threshold": record["provenance"]["mask_threshold"],
        "thresholds": thresholds,
        "edges": edges,
        "levels": base64.b64encode(gzip.compress(found.tobytes(), mtime=0)).decode(),
        "min_areas": [finding.min_area_px for finding in findings],
        "min_island_share": MIN_ISLAND_SHARE if slices > 1 else 0,
        "planes": 3 if slices > 1 else 1,
        "images": images,
        "sequences": sequences,
        "sequence": first,
        "first": 0,
        "record": record,
    }


def _render(data: dict, label: str, geometry: Geometry | None, chart: Markup | None = None) -> Markup:
    slices, shape, lengths = data["shape"][0], data["shape"], data["proportions"]
    shown = views(geometry)[: data["planes"]]
    panes = []
    for view in shown:
        tall, wide = (shape[axis] * lengths[axis] for axis in view.axes[:2])
        panes.append({"label": f"{view.name} view", "ratio": f"{wide / tall:.4f}", "letters": list(view.letters.items())})
    back, on, counting = ORDER[geometry.plane if geometry else "axial"]
    data = data | {"panes": [{"axes": view.axes, "flips": view.flips} for view in shown]}
    sequences = data.pop("sequences")
    return Markup(template("viewer.html").render(
        data=data, label=label, panes=panes, chart=None if data["plain"] else chart, slices=slices, first=data["first"] + 1,
        previous=back, next=on, counted=counting, sequences=sequences,
    ))  # fmt: skip


def _images(pixels: np.ndarray, side: int) -> tuple[dict, list[tuple[int, str]], int]:
    """The grey images of each sequence; the choices of sequences, as value and name; and the value of the first to show."""
    equal = all(np.array_equal(pixels[..., channel], pixels[..., FLAIR]) for channel in range(3))
    channels = [FLAIR] if equal else range(3)
    frames, shape = [], pixels.shape[:3]
    for channel in channels:
        pictures = [_shrink(Image.fromarray(to_bytes(plane[..., channel]), "L"), side) for plane in pixels]
        shape = (len(pictures), pictures[0].height, pictures[0].width)
        frames.append([picture_uri(picture) for picture in pictures])
    sequences = [(number, CHANNELS[channel]) for number, channel in enumerate(channels)]
    if not equal and len(pixels) == 1:
        sequences.append((AS_READ, "Colours as read"))
    return {"shape": list(shape), "frames": frames}, sequences, 0 if equal else FLAIR


def nifti_data(mask: np.ndarray, geometry: Geometry | None) -> dict:
    """The header of a mask's (S, H, W) NIfTI file, and how the scan's axes lie in the stored array."""
    if geometry is None:  # images: voxels of side 1 in the order of the pixels
        slices, height, width = mask.shape
        geometry = Geometry(shape=(width, height, slices), affine=np.diag([-1.0, -1.0, 1.0, 1.0]), oriented=False)
    header = nifti_image(mask, geometry).to_bytes()[:352]
    return {
        "header": base64.b64encode(header).decode(),
        "shape": list(geometry.shape),
        "axes": list(geometry.axes),
        "directions": list(geometry.directions),
        "missing": list(geometry.missing),
    }


def segmentation_data(geometry: Geometry) -> dict | None:
    """What a browser needs to write a DICOM segmentation; None where the images cannot be referenced."""
    try:
        template = segmentation_template(geometry, __version__)
    except UnreadableImage:  # the record says why
        return None
    return {
        "header": base64.b64encode(gzip.compress(template.header, mtime=0)).decode(),
        "uids": template.uids,
        "frames": template.frames,
    }


def orientation_data(tag: int) -> dict:
    """The orientation tag of a slice's file, and the EXIF data of a PNG that has the same one."""
    tags = Image.Exif()
    tags[TAG] = tag
    exif = tags.tobytes(8).removeprefix(b"Exif\0\0")
    return {"tag": tag, "exif": base64.b64encode(exif).decode() if tag != 1 else None}


def _shrink(picture: Image.Image, side: int) -> Image.Image:
    """A picture whose longer side is at most `side` pixels."""
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return picture if scale >= 1 else picture.resize((width, height), Image.Resampling.BILINEAR)


def picture_uri(picture: Image.Image) -> str:
    """A picture as a data URI."""
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=85, method=2)
    return f"data:image/webp;base64,{base64.b64encode(stream.getvalue()).decode()}"
