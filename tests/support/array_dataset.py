"""A dataset in NumPy files, in one module as `CONTRIBUTING.md` asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from train.datasets.base import Dataset, Slice
from train.phantoms import phantom_volume


class ArraySlice(Slice):
    """A slice in NumPy files, which Pillow does not open."""

    def read_image(self) -> np.ndarray:
        return np.load(self.image)

    def read_mask(self) -> np.ndarray:
        return np.load(self.mask)


def find_arrays(root: str | Path) -> dict[str, list[Slice]]:
    """Slices at `<root>/<patient>/image-<n>.npy` and `mask-<n>.npy`."""
    cases: dict[str, list[Slice]] = {}
    for image in sorted(Path(root).glob("*/image-*.npy")):
        number = int(image.stem.removeprefix("image-"))
        mask = image.with_name(f"mask-{number}.npy")
        cases.setdefault(image.parent.name, []).append(
            ArraySlice(case=image.parent.name, number=number, image=image, mask=mask)
        )  # fmt: skip
    return cases


ARRAYS = Dataset(
    key="arrays",
    name="Phantoms in NumPy files",
    source="this test",
    licence="CC0 1.0",
    licence_id="cc0-1.0",
    hub_id="nobody/arrays",
    citation="None.",
    intended_use="Tests.",
    held_out=frozenset({"patient-3"}),
    find_slices=find_arrays,
    institution_of=lambda case: "here",
)


def write_arrays(root: Path, patients: int) -> None:
    """Write phantoms of 8 slices in the layout that `find_arrays` reads."""
    for patient in range(1, patients + 1):
        folder = root / f"patient-{patient}"
        folder.mkdir(parents=True)
        for number, (image, mask) in enumerate(zip(*phantom_volume(8, 64, seed=patient), strict=True), 1):
            np.save(folder / f"image-{number}.npy", image)
            np.save(folder / f"mask-{number}.npy", mask)
