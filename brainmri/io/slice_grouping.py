"""Which slices belong together: those of one folder and one case, or the pages of one TIFF."""

from __future__ import annotations

import re
from pathlib import PurePath

from brainmri.io.files import StudyFile
from brainmri.io.sequence_names import identify
from brainmri.io.tiff import MAGIC, holds_one_page

# phones name photos and screenshots by date and time, which count no slices
_TAKEN = r"(?<!\d)(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:_\d{6}(?:\d{3})?)?$"
NUMBERED = re.compile(rf"(?!.*{_TAKEN})(?P<case>.+)_(?P<number>\d{{1,9}})")
_WORDS = r"(?:masks?|seg|segm|segmentations?|labels?)"
# "mask_12", "seg_case_12" and "case_seg_12", "case_mask"; the rest is the name of the picture
_MASK = re.compile(rf"{_WORDS}[-_](?P<after>.+)|(?P<before>.+)[-_]{_WORDS}(?P<number>[-_]\d{{1,9}})?", re.IGNORECASE)


def find_masks(pictures: list[StudyFile]) -> set[StudyFile]:
    """Those of the pictures that are masks by their names: `…_mask`, and masks of others in their folder by name or number.

    Without a picture that it belongs to, another name has no effect: "label_3.png" alone may be a slice. If all names end in
    `_mask`, none is a mask, so that they are flagged instead of ignored.
    """
    places = {picture: _place(picture) for picture in pictures}
    matches = {picture: match for picture, place in places.items() if (match := _MASK.fullmatch(place.stem))}
    others = [place for picture, place in places.items() if picture not in matches]
    of_others = {(one.parent, one.stem.lower()) for one in others} | {(one.parent, _number(one.stem)) for one in others}
    found = {picture for picture in pictures if picture.name.stem.endswith("_mask")}
    if len(found) == len(pictures):
        return set()
    for picture, match in matches.items():
        rest = (match["after"] or f"{match['before']}{match['number'] or ''}").lower()
        number, folder = _number(rest), places[picture].parent
        if (folder, rest) in of_others or (number is not None and (folder, number) in of_others):
            found.add(picture)
    return found


def _number(stem: str) -> int | None:
    """The number at the end of a name."""
    match = re.search(r"\d{1,9}$", stem)
    return int(match[0]) if match else None


def split_slices(files: list[StudyFile]) -> tuple[list[list[StudyFile]], int]:
    """The slices of each study, in the order of the files, and how many pictures are left out.

    A study is the slices of one folder that are numbered for one case (`<case>_<number>`), or one multi-page TIFF. A folder in
    which a slice has no number is one study. Masks are ignored. Folders of masks and those below a folder of slices are left out.
    """
    masks = find_masks(files)
    files = [file for file in files if file not in masks]
    folders = {file.name.parent for file in files if not file.listed}
    kept = [file for file in files if file.listed or not folders.intersection(file.name.parent.parents)]
    kept = [file for file in kept if file.listed or identify(file.name.parent.name) != "segmentation"] or kept
    stacks = {file for file in kept if holds_pages(file)}
    unnumbered = {_folder(file) for file in kept if file not in stacks and not NUMBERED.fullmatch(file.name.stem)}
    studies: dict[tuple[str, str], list[StudyFile]] = {}
    for file in kept:
        numbered = NUMBERED.fullmatch(file.name.stem)
        case = file.name.as_posix() if file in stacks else numbered["case"] if numbered else ""
        studies.setdefault((_folder(file), "" if _folder(file) in unnumbered and file not in stacks else case), []).append(file)
    return list(studies.values()), len(files) - len(kept)


def _place(file: StudyFile) -> PurePath:
    """Its path; without the folder if it is listed, since the folders of such files have no meaning."""
    return PurePath(file.name.name) if file.listed else PurePath(file.name)


def _folder(file: StudyFile) -> str:
    """The path of its folder; folders of files that are listed have no meaning."""
    return "" if file.listed else file.name.parent.as_posix()


def holds_pages(file: StudyFile) -> bool:
    """Whether a file is a TIFF of several slices."""
    with file.open() as handle:
        return handle.read(4) in MAGIC and not holds_one_page(handle)
