"""Uploads keep the names that their visitors gave them."""

from pathlib import Path

import pytest

from brainmri.ui.upload_names import with_own_names


def test_files_get_the_names_of_their_visitors_back(tmp_path):
    stored = tmp_path / "scan 1.nii"
    stored.write_bytes(b"voxels")
    given = {"path": str(stored), "orig_name": "scan (1).nii"}
    for _ in range(2):  # every event of the page reads the upload again
        file, files, number, nothing = with_own_names([str(stored), [str(stored)], 0.5, None], [given, [given], 0.5, None])
        assert Path(file).name == "scan (1).nii"
        assert Path(file).read_bytes() == b"voxels"
        assert (files, number, nothing) == ([file], 0.5, None)


@pytest.mark.parametrize(
    "name", ["../outside.nii", "/etc/x", "..", "a\\b", "a\0b", "line\nbreak", "n" * 300, "", "scan 1.nii", None, 7]
)
def test_names_that_are_no_file_names_are_not_used(tmp_path, name):
    stored = tmp_path / "scan 1.nii"
    stored.write_bytes(b"voxels")
    assert with_own_names([str(stored)], [{"path": str(stored), "orig_name": name}]) == [str(stored)]
    assert [*tmp_path.iterdir()] == [stored]
