"""Results for the viewer's tests, built from a probability map that is known by hand."""

from pathlib import Path

import numpy as np

from brainmri.analysis.decision import decide_study
from brainmri.analysis.findings import NO_TUMOUR, TUMOUR, Finding, Study
from brainmri.analysis.lesions import diameters, find_lesions, find_parts, without_islands
from brainmri.io.scan import Geometry, Scan
from brainmri.report.html import report_html
from brainmri.report.render import montage_picture

THRESHOLD, SMALLEST = 0.55, 12  # the model's threshold; a slice's mask of fewer pixels is empty
PROVENANCE = {
    "input": {"sha256": "0" * 64}, "mask_threshold": THRESHOLD, "review_band": [0.4, 0.6],
    "segmenter": {"name": "effunet-lgg"}, "classifier": {"name": "resnet50-lgg"},
}  # fmt: skip


def ball(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float, softness: float = 4.0) -> np.ndarray:
    """A map (S, H, W) float32 of a ball with soft edges; slices are three times as thick as pixels are wide."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    distance = np.sqrt((3 * (z - centre[0])) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    return (1 / (1 + np.exp(np.clip((distance - radius) / softness, -60, 60)))).astype(np.float32)


def expected_mask(maps: np.ndarray, threshold: float) -> np.ndarray:
    """The mask (S, H, W) that a pipeline makes of a study's maps."""
    mask = without_islands(maps > threshold)
    return mask & (mask.sum(axis=(1, 2)) >= SMALLEST)[:, None, None]


SEQUENCES = ("T1", "FLAIR", "T1c")
SLICES, SIDE = 60, 256
SET_THRESHOLD = """async (threshold) => {
    const slider = document.querySelector(".viewer-threshold");
    slider.value = threshold;
    slider.dispatchEvent(new Event("input"));
    await new Promise(requestAnimationFrame);  // after the viewer's own, which draws
}"""


def results(slices: int = SLICES, side: int = SIDE, peak: float = 1.0) -> tuple[Scan, Study]:
    """A study of three sequences with one large lesion, an island that only low thresholds keep, and its result.

    Args:
        slices, side: of the study.
        peak: the highest probability of a voxel.
    """
    shape = (slices, side, side)
    y, x = np.mgrid[:side, :side] / side - 0.5
    head = np.where((y / 0.45) ** 2 + (x / 0.36) ** 2 < 1, 0.5 + 0.2 * np.cos(40 * y) * np.cos(40 * x), 0.0)
    maps = peak * np.maximum(ball(shape, (slices / 2, 0.42 * side, 0.6 * side), 0.12 * side),
                             0.5 * ball(shape, (slices / 2, 0.6 * side, 0.35 * side), 0.1 * side))  # fmt: skip
    flair = np.clip(head + 0.3 * maps, 0, 1)
    pixels = np.stack([0.8 * head + 0 * maps, flair, np.clip(1.2 * head + 0.1 * maps, 0, 1)], axis=-1).astype(np.float32)
    geometry = Geometry(shape=(side, side, slices), affine=np.diag([1.0, 1.0, 3.0, 1.0]))
    mask = expected_mask(maps, THRESHOLD)
    findings = tuple(
        Finding(
            verdict=TUMOUR if part.any() else NO_TUMOUR, reason="As the mask.", probability=float(found.max()), mask=part,
            probability_map=found, area_px=int(part.sum()), area_mm2=float(part.sum()), ood=None, recognition=None, warnings=(),
            provenance=PROVENANCE, min_area_px=SMALLEST,
        )
        for part, found in zip(mask, maps, strict=True)
    )  # fmt: skip
    verdict, reason, carried_by = decide_study([finding.verdict for finding in findings])
    parts = find_parts(mask, geometry)
    study = Study(
        verdict=verdict, reason=reason, carried_by=carried_by, findings=findings, mask=mask, probability_map=maps,
        diameters=tuple(diameters(parts, slices)), lesions=find_lesions(mask, parts, geometry, side / 2),
        sequences=SEQUENCES, recognition=None, geometry=geometry, warnings=(), provenance=PROVENANCE,
    )  # fmt: skip
    return Scan(pixels=pixels, name="phantom.nii.gz", sha256="0" * 64, geometry=geometry, sequences=SEQUENCES), study


def save_report(path: Path, scan: Scan, study: Study) -> str:
    """Write the report of a result; return its address."""
    path.write_text(report_html(scan, study, scan.name, montage_picture(scan.pixels, study)), encoding="utf-8")
    return path.as_uri()
