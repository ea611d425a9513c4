"""Functions that damage files of every supported kind; `tests/support/fuzz.py` feeds the results to the readers."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import pydicom
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from brainmri.io.dicom_log import quiet
from tests.support.seeds import KINDS, SUFFIX, seeds

Random = np.random.Generator


# --- damage to any file ---------------------------------------------------------------------------------------------------

ODD = (0, 1, 2, 7, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
ODD_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, -1e38, 65536.0, np.inf, -np.inf, np.nan)
HEAD = 1024  # bytes; most lengths and counts are in the first ones


def _at(rng: Random, data: bytearray | bytes) -> int:
    """A random offset, more often near the beginning."""
    return int(rng.integers(min(len(data), HEAD) if rng.random() < 0.6 else len(data)))


def flip(rng: Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        damaged[_at(rng, data)] ^= 1 << rng.integers(8)
    return bytes(damaged)


def cut(rng: Random, data: bytes) -> bytes:
    return data[: _at(rng, data)]


def splice(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[: _at(rng, data)] + other[_at(rng, other) :]


def repeat(rng: Random, data: bytes) -> bytes:
    """Repeat a part once or many times."""
    start = _at(rng, data)
    part = data[start : start + int(rng.integers(1, 200))]
    return data[:start] + part * int(rng.choice((2, 2, 3, 100))) + data[start:]


def remove(rng: Random, data: bytes) -> bytes:
    start = _at(rng, data)
    return data[:start] + data[start + int(rng.integers(1, 200)) :]


def number(rng: Random, data: bytes) -> bytes:
    """Overwrite what may be a length, count or offset with an extreme number."""
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
    odd = (int(rng.choice(ODD)) % 256 ** int(width)).to_bytes(int(width), str(order))
    start = _at(rng, data) // 2 * 2
    return data[:start] + odd + data[start + len(odd) :]


ANYWHERE: tuple[Callable[[Random, bytes], bytes], ...] = (flip, cut, repeat, remove, number, number)


# --- damage to a format that keeps its checksums and structure ------------------------------------------------------------


def png_chunk(rng: Random, data: bytes) -> bytes:
    """Change the contents or kind of a chunk and update its checksum."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + length]])
        at += 12 + length
    if not chunks:
        return flip(rng, data)
    chosen = chunks[rng.integers(len(chunks))]
    how = rng.integers(5)
    if how == 0:
        chosen[0] = bytes(
            rng.choice([b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"acTL", b"fdAT", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"IEND"])
        )
    elif how == 1:
        chunks.insert(int(rng.integers(len(chunks))), list(chosen))
    elif how == 2 and chosen[0] == b"IDAT":
        chosen[1] = zlib.compress(bytes(int(rng.choice((0, 1000, 10**7)))))
    elif chosen[1]:
        chosen[1] = _damaged(rng, chosen[1])
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def tiff_tag(rng: Random, data: bytes) -> bytes:
    """Change the tag, type, count or value of an entry in the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    if len(data) < 8 or data[2 if order == "<" else 3] != 42:
        return number(rng, data)
    (start,) = struct.unpack_from(order + "I", data, 4)
    if start + 2 > len(data):
        return number(rng, data)
    (entries,) = struct.unpack_from(order + "H", data, start)
    at = start + 2 + 12 * int(rng.integers(max(1, entries)))
    field, form = ((0, "H"), (2, "H"), (4, "I"), (8, "I"), (8, "I"))[rng.integers(5)]
    odd = int(rng.choice((*ODD, 254, 256, 257, 258, 259, 262, 273, 277, 279, 320, 322, 324, 325, 339, 347, 50000, len(data))))
    packed = struct.pack(order + form, odd % (65536 if form == "H" else 2**32))
    return data[: at + field] + packed + data[at + field + len(packed) :]


def nifti_field(rng: Random, data: bytes) -> bytes:
    """Change a header field: dimensions, type, voxel size, offset, scale or orientation."""
    order = "<" if data[:1] in (b"\x5c", b"\x1c") else ">"
    whole = [(40 + 2 * n, "h") for n in range(8)] + [(70, "h"), (72, "h"), (252, "h"), (254, "h"), (123, "b")]
    floats = (
        [(76 + 4 * n, "f") for n in range(8)] + [(108, "f"), (112, "f"), (116, "f")] + [(256 + 4 * n, "f") for n in range(18)]
    )
    if data[4:8] == b"n+2\0":
        whole = [(16 + 8 * n, "q") for n in range(8)] + [(12, "h"), (14, "h"), (168, "q"), (344, "i"), (348, "i")]
        floats = [(104 + 8 * n, "d") for n in range(8)] + [(176, "d"), (184, "d")] + [(352 + 8 * n, "d") for n in range(18)]
    at, form = (whole + floats)[rng.integers(len(whole + floats))]
    if form in "fd":
        packed = np.array(rng.choice(ODD_FLOATS)).astype(order + form.replace("f", "f4").replace("d", "f8")).tobytes()
    else:
        odd = (*ODD, 3, 4, 8, 16, 32, 64, 256, 512, 768, 1024, 1280, 1536, 2048, 4096)
        size = struct.calcsize(form)
        packed = (int(rng.choice(odd)) % 256**size).to_bytes(size, "little" if order == "<" else "big")
    return data[:at] + packed + data[at + len(packed) :]


DICOM_FIELDS = {
    "Rows": (0, 1, 16, 31, 65535), "Columns": (0, 1, 16, 31, 65535), "NumberOfFrames": (0, -1, 2, 4097, 10**9, "x", ""),
    "BitsAllocated": (0, 1, 8, 12, 16, 32, 64), "BitsStored": (0, 1, 8, 17, 65535), "HighBit": (0, 7, 65535),
    "PixelRepresentation": (0, 1, 2), "SamplesPerPixel": (0, 1, 3, 65535), "InstanceNumber": (-1, 2**31, ""),
    "PhotometricInterpretation": ("MONOCHROME1", "RGB", "PALETTE COLOR", "YBR_FULL", ""), "SeriesNumber": (-1, 2**31),
    "PixelSpacing": ([0, 0], [-1, 1], [1e-30, 1e30], [1], ["nan", 1]), "SliceThickness": (0, -1, "nan", "inf"),
    "ImagePositionPatient": ([0, 0], [1e30, 0, 0], ["nan", 0, 0]), "SpacingBetweenSlices": (0, -1, "nan", "inf"),
    "ImageOrientationPatient": ([0] * 6, [1, 0, 0, 1, 0, 0], [1e9] * 6, [1]), "RescaleSlope": (0, -1, "1e39", "nan", "x"),
    "RescaleIntercept": ("1e39", "-1e39", "nan"), "Modality": ("MR", "CT", ""), "SOPInstanceUID": ("", "x", "1.2"),
    "PerFrameFunctionalGroupsSequence": ([],), "SharedFunctionalGroupsSequence": ([],), "PixelData": (b"", b"\0", bytes(10**6)),
}  # fmt: skip


def dicom_field(rng: Random, data: bytes) -> bytes:
    """Change one or two header elements: sizes, bits, counts, positions or scale."""
    try:
        with quiet():
            ds = pydicom.dcmread(io.BytesIO(data), force=True)
            if rng.random() < 0.15:
                ds.file_meta.TransferSyntaxUID = str(
                    rng.choice((JPEG2000Lossless, JPEGBaseline8Bit, JPEGLSLossless, RLELossless))
                )
            for _ in range(rng.integers(1, 3)):
                keyword = str(rng.choice(list(DICOM_FIELDS)))
                values = DICOM_FIELDS[keyword]
                setattr(ds, keyword, values[rng.integers(len(values))])
            buffer = io.BytesIO()
            ds.save_as(buffer)
            return buffer.getvalue()
    except Exception:  # pydicom refuses to write this value
        return flip(rng, data)


STRUCTURED = {"png": png_chunk, "tiff": tiff_tag, "nifti": nifti_field, "dicom": dicom_field}


def _damaged(rng: Random, data: bytes) -> bytes:
    return ANYWHERE[rng.integers(len(ANYWHERE))](rng, data) if data else data


# --- zips -----------------------------------------------------------------------------------------------------------------

NAMES = (
    "case_{}.png", "case_{}.tif", "{}_flair.nii", "t1.nii.gz", "IM{}", "a/b/case_{}.jpg", "case_{}_mask.png", "../case_{}.png",
    "/etc/{}", "C:\\{}", "..\\{}.png", "CON.png", "x" * 300 + "{}.png", "case_\n{}.png", "кейс_{}.png", "\u202egnp.{}_esac",
    ".hidden",
    "inner.zip", "case_{}.png/", "", " ", "case_\0{}.png", "case_99999999999.png", "__MACOSX/case_{}.png",
)  # fmt: skip


def zip_of(rng: Random) -> bytes:
    """Damaged and intact files in a zip that may itself be hostile."""
    buffer = io.BytesIO()
    same = rng.random() < 0.5
    kind = str(rng.choice(KINDS[:-1]))
    with zipfile.ZipFile(buffer, "w") as archive:
        for place in range(rng.integers(0, 5)):
            kind = kind if same else str(rng.choice(KINDS[:-1]))
            data = mutant(rng, kind) if rng.random() < 0.5 else _seed(rng, kind)
            name = f"case_{place}{SUFFIX[kind]}" if rng.random() < 0.6 else str(rng.choice(NAMES)).format(place)
            info = zipfile.ZipInfo(name)
            if rng.random() < 0.1:
                info.external_attr = int(rng.choice((0o120777, 0o060000, 0o010000))) << 16  # a link, a device, a pipe
            packing = (zipfile.ZIP_DEFLATED, zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            if rng.random() < 0.05:
                data = data + bytes(int(rng.choice((10**6, 3 * 10**7))))
            archive.writestr(info, data, packing[rng.integers(len(packing))])
    data = buffer.getvalue()
    if rng.random() < 0.1:  # nested
        outer = io.BytesIO()
        with zipfile.ZipFile(outer, "w") as archive:
            archive.writestr(str(rng.choice(("inner.zip", "case_1.png", "inner"))), data)
        return outer.getvalue()
    return zip_directory(rng, data) if rng.random() < 0.4 else data


def zip_directory(rng: Random, data: bytes) -> bytes:
    """Change a header or directory field: sizes, offsets (so that members overlap), flags, compression or counts."""
    signature = bytes(rng.choice([b"PK\3\4", b"PK\1\2", b"PK\5\6"]))
    at = data.find(signature, int(rng.integers(len(data))))
    at = data.find(signature) if at < 0 else at
    if at < 0:
        return _damaged(rng, data)
    width = int(rng.choice((2, 4)))
    start = at + int(rng.integers(4, 46 - width)) // 2 * 2
    odd = int(rng.choice((*ODD, 8, 9, 12, 14, 30, at))) % 256**width
    return data[:start] + odd.to_bytes(width, "little") + data[start + width :]


# --- mutants --------------------------------------------------------------------------------------------------------------


def _seed(rng: Random, kind: str) -> bytes:
    files = seeds(kind)
    return files[rng.integers(len(files))]


def mutant(rng: Random, kind: str) -> bytes:
    """A damaged file of a kind; equal generator states give equal files."""
    if kind == "zip":
        return zip_of(rng)
    data = _seed(rng, kind)
    if kind == "packed nifti":
        if rng.random() < 0.7:
            return gzip.compress(mutant(rng, "nifti"), 1)
        return _damaged(rng, data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):  # with more, hardly any file would reach the pixel decoders
        if not data:
            break
        draw = rng.random()
        if draw < 0.1:
            data = splice(rng, data, _seed(rng, str(rng.choice(KINDS[:-1])) if rng.random() < 0.2 else kind))
        elif draw < 0.6 and kind in STRUCTURED:
            data = STRUCTURED[kind](rng, data)
        else:
            data = _damaged(rng, data)
    return data
