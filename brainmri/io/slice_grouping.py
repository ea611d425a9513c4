"""Which slices belong together: those of one folder and one case, or the pages of one TIFF."""

from __future__ import annotations

import re

from brainmri.io.files import StudyFile
from brainmri.io.sequence_names import identify
from brainmri.io.tiff import MAGIC, holds_one_page

NUMBERED = re.compile(r"(?P<case>.+)_(?P<number>\d{1,9})")


def split_slices(files: list[StudyFile]) -> tuple[list[list[StudyFile]], int]:
    """The slices of each study, in the order of the files, and how many pictures are left out.

    A study is the slices of one folder that are numbered for one case (`<case>_<number>`), or one multi-page TIFF. A folder in
    which a slice has no number is one study. Folders of masks and those below a folder of slices are left out.
    """
    folders = {file.name.parent for file in files if not file.listed}
    kept = [file for file in files if file.listed or not folders.intersection(file.name.parent.parents)]
    kept = [file for file in kept if file.listed or identify(file.name.parent.name) != "segmentation"] or kept
    stacks = {file for file in kept if _holds_pages(file)}
    unnumbered = {_folder(file) for file in kept if file not in stacks and not NUMBERED.fullmatch(file.name.stem)}
    studies: dict[tuple[str, str], list[StudyFile]] = {}
    for file in kept:
        numbered = NUMBERED.fullmatch(file.name.stem)
        case = file.name.as_posix() if file in stacks else numbered["case"] if numbered else ""
        studies.setdefault((_folder(file), "" if _folder(file) in unnumbered and file not in stacks else case), []).append(file)
    return list(studies.values()), len(files) - len(kept)


def _folder(file: StudyFile) -> str:
    """The path of its folder; folders of files that are listed have no meaning."""
    return "" if file.listed else file.name.parent.as_posix()


def _holds_pages(file: StudyFile) -> bool:
    """Whether a file is a TIFF of several slices."""
    with file.open() as handle:
        return handle.read(4) in MAGIC and not holds_one_page(handle)
