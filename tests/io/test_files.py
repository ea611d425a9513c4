"""Folders and zips of studies, and their limits."""

import zipfile

import numpy as np
import pytest

import brainmri.io.files
from brainmri.io.reading import read_study
from tests.support.phantom import images, nifti, save
from tests.support.studies import inner_zip, png, read, refusal, zip_of_bytes


def test_zip_of_slices_is_read_like_its_folder(tmp_path):
    members = {f"case/case_{n}.png": png(n) for n in (1, 2, 10, 9)}
    members |= {
        "case/case_1_mask.png": png(255),
        "__MACOSX/case/._case_1.png": b"junk",
        "case/.DS_Store": b"junk",
        "notes.txt": b"",
    }
    scan = read_study(zip_of_bytes(tmp_path, members))
    assert np.rint(scan.pixels[:, 0, 0, 0] * 255).tolist() == [1, 2, 9, 10]
    folder = tmp_path / "case"
    folder.mkdir()
    for name, data in members.items():
        if name.startswith("case/"):
            (tmp_path / name).write_bytes(data)
    assert np.array_equal(read_study(folder).pixels, scan.pixels)
    assert np.array_equal(read_study(tmp_path / "case" / "case_9.png").pixels, scan.pixels[2:3])


def test_previews_beside_a_volume_and_in_subfolders_are_ignored(tmp_path):
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / "case_1.png").write_bytes(png(1))
    for number in (1, 2):
        (tmp_path / f"case_{number}.png").write_bytes(png(number))
    assert len(read(tmp_path).pixels) == 2
    nifti(tmp_path / "flair.nii")
    assert len(read(tmp_path).pixels) == 12


def test_mixed_formats_and_several_folders_are_refused(tmp_path):
    one = save(tmp_path / "one", images())
    nifti(one / "flair.nii")
    assert "got DICOM and NIfTI files together" in refusal(one)
    several = zip_of_bytes(tmp_path, {"a/case_1.png": png(1), "b/case_2.png": png(2)})
    assert "got 2 studies, of different folders or cases (a/case_1.png, b/case_2.png). Please upload one of them" in refusal(
        several
    )
    (tmp_path / "letter.txt").write_text("Dear doctor,")
    assert "MRI file" in refusal(tmp_path / "letter.txt")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({}, "MRI file"),
        ({"../case_1.png": png(1)}, "lead out of it"),
        ({"a/../../case_1.png": png(1)}, "lead out of it"),
        ({"/etc/case_1.png": png(1)}, "lead out of it"),
        ({"C:/case_1.png": png(1)}, "lead out of it"),
        ({"..\\case_1.png": png(1)}, "lead out of it"),
        ({"Planted.zip": inner_zip(), "case_1.png": png(1)}, "a zip within a zip"),
        ({"Planted.dat": inner_zip()}, "is a zip"),
        ({f"{n}": b"" for n in range(8193)}, "more than 8192 files"),
    ],
)
def test_hostile_zips_are_refused(tmp_path, members, reason):
    message = refusal(zip_of_bytes(tmp_path, members))
    assert reason in message


def test_zip_with_too_large_contents_is_refused_by_its_directory(tmp_path, monkeypatch):
    path = zip_of_bytes(tmp_path, {"case_1.png": bytes(5 * 2**20)}, compression=zipfile.ZIP_DEFLATED)
    monkeypatch.setattr(brainmri.io.files, "MAX_STUDY_BYTES", 2**20)
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("unpacked"))
    assert "5 MiB unpacked" in refusal(path)


def test_zip_with_wrong_sizes_in_its_directory_is_not_unpacked_further(tmp_path, monkeypatch):
    path = zip_of_bytes(tmp_path, {"case_1.png": bytes(5 * 2**20)}, compression=zipfile.ZIP_DEFLATED)
    size = (5 * 2**20).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (1000).to_bytes(4, "little")))
    sizes = []
    real = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda self, n=-1: sizes.append(n) or real(self, n))
    assert "is damaged. Please copy or download it again" in refusal(path)
    assert sizes == [2**30 + 1]


def test_overlapping_zip_members_each_count_towards_the_limit(tmp_path, monkeypatch):
    path = zip_of_bytes(tmp_path, {f"case_{n}.png": bytes(2**19) for n in range(4)})
    monkeypatch.setattr(brainmri.io.files, "MAX_STUDY_BYTES", 2**20)
    monkeypatch.setattr(brainmri.io.files, "_check_members", lambda *_: None)
    assert "more than 1 MiB unpacked" in refusal(path)


def test_encrypted_linked_unusually_compressed_and_damaged_zips_are_refused(tmp_path):
    path = zip_of_bytes(tmp_path, {"case_1.png": png(1)})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(data)
    assert "encrypted" in refusal(tmp_path / "locked.zip")
    link = zipfile.ZipInfo("case_1.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "links" in refusal(path)
    path = zip_of_bytes(tmp_path, {"case_1.png": png(1)}, compression=zipfile.ZIP_LZMA)
    assert "unusual compression" in refusal(path)
    path.write_bytes(b"PK\3\4" + bytes(100))
    assert "is damaged. Please copy or download it again" in refusal(path)
    whole = zip_of_bytes(tmp_path, {"case_1.png": png(1)}).read_bytes()
    path.write_bytes(whole.replace(b"IDAT", b"JDAT"))
    assert "is damaged. Please copy or download it again" in refusal(path)


def test_zip_with_times_in_its_names_is_read(tmp_path):
    assert len(read(zip_of_bytes(tmp_path, {f"2020-01-01T12:30:00/case_{n}.png": png(n) for n in (1, 2)})).pixels) == 2


def test_link_to_a_missing_file_is_refused(tmp_path):
    nifti(tmp_path / "t1.nii")
    (tmp_path / "flair.nii").symlink_to(tmp_path / "annex" / "object")
    assert "got a link to a missing file. Please fetch what is missing" in refusal(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"is a link to a missing file\. Please fetch it"):
        read_study(tmp_path / "flair.nii")


def test_too_many_files_and_too_many_bytes_are_refused(tmp_path, monkeypatch):
    large = tmp_path / "flair.nii"
    with large.open("wb") as handle:
        handle.truncate(2**30 + 1)  # sparse: nothing is written
    assert "got 1,024 MiB, expected at most" in refusal(large)
    monkeypatch.setattr(brainmri.io.files, "MAX_FILES", 2)
    for number in range(3):
        (tmp_path / f"case_{number}.png").write_bytes(png(1))
    assert "more than 2 files" in refusal(tmp_path)
