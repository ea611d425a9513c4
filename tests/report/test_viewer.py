"""The viewer's data: what the browser gets is what the analysis found."""

import base64
import gzip
import io
import json
import re
from dataclasses import replace

import nibabel
import numpy as np
import pytest

from brainmri.io.scan import Geometry
from brainmri.report.chart import chart_svg
from brainmri.report.render import head_projections
from brainmri.report.viewer import LOWEST_THRESHOLD, levels, projection_data, study_viewer, views
from brainmri.zoo.ood import OodResult
from tests.support.viewing import THRESHOLD, ball, results


def data_of(html: str) -> dict:
    return json.loads(re.findall(r'<template class="viewer-data">(.*?)</template>', html, re.DOTALL)[0])


def test_levels_give_the_same_masks_as_the_maps_at_every_threshold():
    maps = np.concatenate([ball((5, 40, 40), (2, 20, 20), 12).ravel(), np.arange(201, dtype=np.float32) / 200, [0, 1]])
    maps = maps.astype(np.float32)
    found, edges = levels(maps, 0.333)
    assert found.dtype == np.uint8
    for threshold in [*(np.arange(5, 96) / 100).tolist(), 0.333]:
        level = max(n for n, edge in enumerate(edges) if edge <= threshold)
        assert np.array_equal(found > level, maps > threshold), threshold
    assert not found[maps <= LOWEST_THRESHOLD].any()


@pytest.mark.parametrize(
    ("code", "lengths", "names", "letters"),
    [
        ("LPS", (1, 1, 1), ["Axial", "Coronal", "Sagittal"], ["APRL", "SIRL", "SIAP"]),
        ("RAS", (1, 5, 1), ["Coronal", "Axial", "Sagittal"], ["SIRL", "APRL", "SIAP"]),
        ("RAS", (5, 1, 1), ["Sagittal", "Axial", "Coronal"], ["SIAP", "APRL", "SIRL"]),
    ],
)
def test_views_have_the_letters_of_the_geometry(code, lengths, names, letters):
    affine = np.diag([*np.multiply(lengths, [-1 if letter in "LPI" else 1 for letter in code]), 1]).astype(float)
    found = views(Geometry(shape=(64, 64, 64), affine=affine))
    assert [view.name for view in found] == names
    assert ["".join(view.letters.values()) for view in found] == letters
    assert all(view.letters == {} for view in views(None))
    assert all(view.letters == {} for view in views(Geometry(shape=(64, 64, 64), affine=affine, oriented=False)))


def test_projections_of_the_head_rotate_about_the_long_axis():
    """A rod in the front of the head appears in the middle, and after a quarter turn at its distance from the axis."""
    head = np.zeros((10, 128, 128), np.float32)
    head[2:8, 20:24, 60:68] = 1
    pictures = head_projections(head, (12.8, 1, 1), views=2, side=192)
    assert [picture.size for picture in pictures] == [(192, 192)] * 2
    front, side = (np.flatnonzero((np.asarray(picture) > 60).any(axis=0)).mean() for picture in pictures)
    assert front == pytest.approx(95.5, abs=3)
    assert side - 95.5 == pytest.approx((22 - 64) * 192 / 1.1 / 128, abs=3)


@pytest.mark.parametrize("lengths", [(1, 1, 1), (1, 5, 1), (5, 1, 1)])
def test_the_head_is_upright_in_projections_of_every_plane(lengths):
    geometry = Geometry(shape=(64, 64, 64), affine=np.diag([*lengths, 1]).astype(float))  # stored towards R, A and S
    stored = np.zeros((64, 64, 64), np.float32)
    stored[40, 10:12, 50:] = 1  # right of the middle, in the back, in the upper part
    flair = geometry.to_scan(stored)
    found = projection_data(flair, geometry, list(geometry.spacing))
    turned = np.flip(flair.transpose(found["axes"]), tuple(np.flatnonzero(found["flips"]).tolist()))
    top, back, left = (np.flatnonzero(turned.any(axis=others)).mean() for others in ((1, 2), (0, 2), (0, 1)))
    assert (top > 50, back > 50, left) == (True, True, 23)


def test_a_study_opens_at_its_most_probable_slice():
    scan, study = results(slices=10, side=64)
    strange = OodResult(distance=9.0, other_log_odds=9.0, reason="No brain.")
    findings = [replace(finding, probability=0.1, verdict="no tumour") for finding in study.findings]
    findings[6] = replace(findings[6], probability=0.3)
    findings[8] = replace(findings[8], probability=0.9, ood=strange)
    for changed, first in ((findings, 6), ([replace(finding, ood=strange) for finding in findings], 5)):
        shown = replace(study, findings=tuple(changed))
        assert data_of(study_viewer(scan, shown, chart_svg(shown)))["first"] == first


def test_a_study_of_60_slices_stays_small_and_its_data_is_complete():
    scan, study = results(side=128)
    html = study_viewer(scan, study, chart_svg(study))
    assert len(html) < 60 * 25_000  # bytes; three sequences
    data = data_of(html)
    stored = np.frombuffer(gzip.decompress(base64.b64decode(data["levels"])), np.uint8).reshape(data["shape"])
    level = max(n for n, edge in enumerate(data["edges"]) if edge <= THRESHOLD)
    assert np.array_equal((stored > level).sum(axis=(1, 2)), (study.probability_map > THRESHOLD).sum(axis=(1, 2)))
    assert [len(frames) for frames in data["images"]["frames"]] == [60, 60, 60]
    assert data["voxel_mm3"] == pytest.approx(3)
    header = nibabel.Nifti1Header.from_fileobj(io.BytesIO(base64.b64decode(data["nifti"]["header"])))
    assert header.get_data_shape() == (128, 128, 60)
    assert data["captions"][0] == "Slice 1 of 60: no tumour (probability of tumour under 1%)"
