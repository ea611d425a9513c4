"""Phantoms in every layout of people's own data, for tests."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from PIL import Image

from train.phantoms import phantom_volume

SLICES, SIZE = 8, 48
AFFINE = np.diag([-4.0, -4.0, 5.0, 1.0])  # mm; index to right, anterior, superior, of rows and columns as in a slice


def save_picture(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_volume(path: Path, scan: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    """A scan (S, H, W[, N]) as NIfTI, its axes columns, rows, slices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.moveaxis(scan, (2, 1, 0), (0, 1, 2)), affine), path)


def patients(number: int):
    """Name, images (S, H, W, 3) uint8 and masks (S, H, W) bool of each."""
    return [(f"p{n}", *phantom_volume(SLICES, SIZE, seed=n)) for n in range(1, number + 1)]


def write_folders(root: Path, number: int) -> None:
    for name, images, masks in patients(number):
        for n, (image, mask) in enumerate(zip(images, masks, strict=True), 1):
            save_picture(root / "images" / f"{name}_{n}.png", image)
            save_picture(root / "masks" / f"{name}_{n}_mask.png", mask.astype(np.uint8) * 255)


def write_kaggle(root: Path, number: int) -> None:
    for name, images, masks in patients(number):
        for n, (image, mask) in enumerate(zip(images, masks, strict=True), 1):
            save_picture(root / name / f"{name}_{n}.tif", image)
            save_picture(root / name / f"{name}_{n}_mask.tif", mask.astype(np.uint8) * 255)


def write_volume_folders(root: Path, number: int) -> None:
    for name, images, masks in patients(number):
        save_volume(root / "imgs" / f"{name}.nii.gz", images[..., 1])
        save_volume(root / "labels" / f"{name}.nii.gz", masks.astype(np.uint8))


def write_decathlon(root: Path, number: int) -> None:
    for name, images, masks in patients(number):
        four = images[..., [1, 0, 2, 0]].astype(np.float32)  # FLAIR, T1w, t1gd, T2w
        save_volume(root / "imagesTr" / f"{name}.nii.gz", four)
        save_volume(root / "labelsTr" / f"{name}.nii.gz", masks.astype(np.uint8))
    described = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}, "labels": {"0": "background", "1": "tumour"}}
    (root / "dataset.json").write_text(json.dumps(described))


def write_nnunet(root: Path, number: int) -> None:
    for name, images, masks in patients(number):
        for channel, colour in enumerate((0, 1, 2)):
            save_volume(root / "imagesTr" / f"{name}_{channel:04d}.nii.gz", images[..., colour])
        save_volume(root / "labelsTr" / f"{name}.nii.gz", masks.astype(np.uint8) * 2)
    described = {"channel_names": {"0": "T1", "1": "FLAIR", "2": "T1ce"}, "labels": {"background": 0, "tumour": 2}}
    (root / "dataset.json").write_text(json.dumps(described))


def write_bids(root: Path, number: int) -> None:
    for name, images, masks in patients(number):
        stem, anat = f"sub-{name}", root / f"sub-{name}" / "anat"
        save_volume(anat / f"{stem}_T1w.nii.gz", images[..., 0])
        save_volume(anat / f"{stem}_FLAIR.nii.gz", images[..., 1])
        save_volume(anat / f"{stem}_ce-gd_T1w.nii.gz", images[..., 2])
        mask = root / "derivatives" / "masks" / stem / "anat" / f"{stem}_label-tumour_mask.nii.gz"
        save_volume(mask, masks.astype(np.uint8))
    (root / "dataset_description.json").write_text("{}")


def write_brats(root: Path, number: int) -> None:
    for n, (_, images, masks) in enumerate(patients(number), 1):
        stem = f"BraTS-GLI-{n:05d}-000"
        for end, colour in (("t1n", 0), ("t2f", 1), ("t1c", 2), ("t2w", 0)):
            save_volume(root / stem / f"{stem}-{end}.nii.gz", images[..., colour])
        labels = masks.astype(np.uint8) * 2
        labels[:, SIZE // 2 :] *= 2  # two labels, both tumour
        save_volume(root / stem / f"{stem}-seg.nii.gz", np.minimum(labels, 3))


def write_csv(root: Path, number: int) -> None:
    rows = []
    for name, images, masks in patients(number):
        for n, (image, mask) in enumerate(zip(images, masks, strict=True), 1):
            for sequence, colour in (("T1", 0), ("FLAIR", 1), ("T1 post", 2)):
                save_picture(root / "slices" / f"{name}-{n}-{colour}.png", image[..., colour])
                rows.append([f"slices/{name}-{n}-{colour}.png", f"slices/{name}-{n}-mask.png", name, sequence])
            save_picture(root / "slices" / f"{name}-{n}-mask.png", mask.astype(np.uint8))
    with (root / "dataset.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["image", "mask", "patient", "sequence"], *rows])


# by name: the layout that recognises it, what writes it, and whether it has one sequence only
LAYOUTS: dict[str, tuple[str, Callable[[Path, int], None], bool]] = {
    "folders": ("images and masks", write_folders, False),
    "kaggle": ("masks beside images", write_kaggle, False),
    "volumes": ("images and masks", write_volume_folders, True),
    "decathlon": ("Decathlon or nnU-Net", write_decathlon, False),
    "nnunet": ("Decathlon or nnU-Net", write_nnunet, False),
    "bids": ("BIDS derivatives", write_bids, False),
    "brats": ("BraTS", write_brats, False),
    "csv": ("CSV", write_csv, False),
}
