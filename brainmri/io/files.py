"""The files of a study, in a folder or a zip, and the checks before they are opened.

A zip is never unpacked to disk: its members are read into memory, within the limits, and readers recognise their formats.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import mmap
import os
import re
import stat
import zipfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from brainmri.io.limits import MAX_STUDY_BYTES, NAME, UnreadableImage, check_ratio, describe_size, refuse

MAX_FILES = 8192  # in a folder or a zip; a long examination has a few thousand
DRIVE = re.compile("[A-Za-z]:")
DIRECTORY_ENTRY = re.compile(b"PK\1\2")


class _Clipped(io.BufferedReader):
    """A file on the disk; a read allocates no more than what is left of the file, whatever size a damaged header gives."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1) -> bytes:
        return super().read(size if size is None or size < 0 else min(size, max(0, self._size - self.tell())))


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyFile:
    """One file of a study, on the disk or, from a zip, in memory.

    Attributes:
        path: the file, or the zip that contains it.
        member: its name within the zip.
        data: its bytes, if it is from a zip.
        listed: whether it was given by itself, so that its folder has no meaning.
    """

    path: Path = field(repr=False)
    member: str | None = field(default=None, repr=False)
    data: bytes | None = field(default=None, repr=False)
    listed: bool = False

    @property
    def name(self) -> PurePosixPath:
        """Its path, within the zip if it is from one."""
        return PurePosixPath(self.path.as_posix() if self.member is None else _member_path(self.member))

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.data is None else len(self.data)

    def open(self) -> _Clipped | io.BytesIO:
        return _Clipped(self.path) if self.data is None else io.BytesIO(self.data)

    def read(self) -> bytes:
        return self.path.read_bytes() if self.data is None else self.data

    def digest(self) -> str:
        """SHA-256 of its bytes."""
        with self.open() as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()


def digest(files: list[StudyFile]) -> str:
    """SHA-256 of one file's bytes; of several, of their hexadecimal digests in order."""
    digests = [file.digest() for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def reopen(locations: Iterable[tuple[Path, str | None]]) -> Iterator[io.BufferedReader | IO[bytes]]:
    """Open files of a study again, one at a time, each by its path and, in a zip, its member name."""
    with contextlib.ExitStack() as stack:
        zips: dict[Path, zipfile.ZipFile] = {}  # a zip's directory is parsed once, however many of its members are read
        for path, member in locations:
            if member is not None and path not in zips:
                zips[path] = stack.enter_context(zipfile.ZipFile(path))
            with _Clipped(path) if member is None else zips[path].open(member) as handle:
                yield handle


def is_zip(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(4) in (b"PK\3\4", b"PK\5\6")


def _member_path(name: str) -> str:
    """A zip member's name with slashes; some programs on Windows write backslashes."""
    return name.replace("\\", "/")


def _hidden(name: PurePosixPath) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in name.parts)


def folder_files(folder: Path, ignore: Collection[Path] = ()) -> list[StudyFile]:
    """Every file in a folder and its subfolders, sorted by name, without hidden ones and those in the folders `ignore`.

    Raises:
        UnreadableImage: when there are more than `MAX_FILES`, or links to missing files.
    """
    files, broken, ignored = [], 0, {path.resolve() for path in ignore}
    for path in folder.rglob("*"):
        if ignored and not ignored.isdisjoint(path.resolve().parents):
            continue
        broken += path.is_symlink() and not path.exists()
        if path.is_file() and not _hidden(PurePosixPath(path.relative_to(folder).as_posix())):
            files.append(StudyFile(path=path))
            if len(files) > MAX_FILES:
                raise refuse(NAME, f"got more than {MAX_FILES} files. Please choose one study")
    if broken:  # a study without them would be incomplete
        found = "a link to a missing file" if broken == 1 else f"{broken} links to missing files"
        raise refuse(NAME, f"got {found}. Please fetch what is missing, as with datalad get, or remove the links")
    return sorted(files, key=lambda file: file.name)


def listed_files(paths: Sequence[Path]) -> list[StudyFile]:
    """Several files, in the order they are listed.

    Raises:
        FileNotFoundError: when one of them does not exist.
        UnreadableImage: for no files, for more than `MAX_FILES`, or for a folder or a zip among them.
    """
    if not 1 <= len(paths) <= MAX_FILES:
        raise refuse(NAME, f"got {len(paths)} files, expected 1 to {MAX_FILES}. Please choose one study")
    for path in paths:
        if path.is_dir():
            raise refuse(NAME, "got a folder among several files. Please upload it alone, or the files in it")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is neither a file nor a folder")
        if is_zip(path):
            raise refuse(NAME, "got a zip among several files. Please upload it alone, or the files in it")
        if path.stat().st_size > MAX_STUDY_BYTES:
            raise refuse(NAME, describe_size(path.stat().st_size))
    return [StudyFile(path=path, listed=True) for path in paths]


def zip_files(path: Path) -> list[StudyFile]:
    """Every file in a zip, sorted by name and read into memory, without hidden ones.

    Raises:
        UnreadableImage: when it is damaged, encrypted or hostile, holds another zip, or unpacks to more than the limits.
    """
    try:
        with path.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as content:
            # counted before the directory is parsed, which takes half a kilobyte of memory an entry
            entries = sum(1 for _ in zip(DIRECTORY_ENTRY.finditer(content), range(MAX_FILES + 1), strict=False))
        if entries > MAX_FILES:
            raise refuse(NAME, f"got more than {MAX_FILES} files. Please pack one study")
        with zipfile.ZipFile(path) as archive:
            members = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)
            _check_members(members, path.stat().st_size)
            visible = [info for info in members if not _hidden(PurePosixPath(_member_path(info.filename)))]
            return _read_members(path, archive, visible)
    except UnreadableImage:
        raise
    except Exception:  # damaged zips raise exceptions of many types; some name a member
        raise refuse(NAME, "is damaged. Please copy or download it again") from None


def _check_members(members: list[zipfile.ZipInfo], packed: int) -> None:
    """Refuse a zip by its directory, before anything is unpacked."""
    for info in members:
        name = PurePosixPath(_member_path(info.filename))
        if name.is_absolute() or ".." in name.parts or DRIVE.match(info.filename):
            raise refuse(NAME, "got a zip with paths that lead out of it. Please pack the files again")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise refuse(NAME, "got a zip with links in it. Please pack the files themselves")
        if info.flag_bits & 0x1:
            raise refuse(NAME, "is encrypted. Please save it without a password")
        if name.suffix.lower() == ".zip":
            raise refuse(NAME, "got a zip within a zip. Please unpack it first")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refuse(NAME, "got a zip with an unusual compression. Please save it with the usual one (deflate)")
    unpacked = sum(info.file_size for info in members)
    if unpacked > MAX_STUDY_BYTES:
        raise refuse(NAME, describe_size(unpacked, " unpacked", MAX_STUDY_BYTES))
    check_ratio(NAME, packed, unpacked)


def _read_members(path: Path, archive: zipfile.ZipFile, members: list[zipfile.ZipInfo]) -> list[StudyFile]:
    files, left = [], MAX_STUDY_BYTES
    for info in members:
        with archive.open(info) as handle:
            data = handle.read(left + 1)  # the directory's sizes may lie
        left -= len(data)
        if left < 0:
            raise refuse(NAME, f"got more than {MAX_STUDY_BYTES // 2**20} MiB unpacked. Please pack fewer files")
        files.append(StudyFile(path=path, member=info.filename, data=data))
    return files
