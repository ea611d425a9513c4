"""The layouts of datasets that are recognised, each a class; `train.datasets.own` lists them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

from train.datasets.own.base import (
    PICTURES,
    Found,
    Layout,
    Sample,
    Source,
    columns_of,
    folders_in,
    images_in,
    name_patients,
    some,
    stem_of,
    suffix_of,
    without_mask_ending,
)

IMAGES = ("images", "image", "imgs", "img", "imagestr")
MASKS = ("masks", "mask", "labels", "label", "annotations", "segmentations", "labelstr")
UNNUMBERED = (
    "no patient can be read from the names of the images, so each image counts as a patient; if a patient has several, a split "
    "leaks: use a folder for each patient, names such as PATIENT_12.png, or a CSV with a column patient"
)


class Table:
    """A CSV file, or a folder with one, whose rows are images with their masks."""

    name = "CSV"
    example = "dataset.csv with the columns image, mask, patient, sequence (mask empty: no tumour; sequence optional)"
    required = ("image", "mask", "patient")

    def matches(self, root: Path) -> bool:
        return self._table(root) is not None

    def _table(self, root: Path) -> Path | None:
        tables = (
            [root] if root.is_file() and root.suffix.lower() == ".csv" else sorted(root.glob("*.csv")) if root.is_dir() else []
        )
        return next((path for path in tables if set(self.required) <= set(columns_of(path))), None)

    def find(self, root: Path) -> Found:
        """Rows of one patient with the same mask are the sequences of one sample."""
        path = self._table(root)
        assert path is not None  # `matches` found it
        try:
            with path.open(newline="", encoding="utf-8-sig") as handle:
                rows = list(csv.DictReader(handle))
        except UnicodeDecodeError as error:
            raise ValueError(f"expected {path} in UTF-8, got another encoding; save it as CSV UTF-8") from error
        joined: dict[tuple, list[dict]] = {}
        for number, row in enumerate(rows):
            if missing := [column for column in ("image", "patient") if not row[column]]:
                raise ValueError(
                    f"expected a value for {missing[0]} in every row of {path}, got none in row {number + 2}; add it"
                )
            joined.setdefault((row["patient"], row["mask"] or number), []).append(row)
        files = [path.parent / name for row in rows for name in (row["image"], row["mask"]) if name]
        if missing_files := [str(file) for file in files if not file.is_file()]:
            raise ValueError(
                f"expected the files that {path} lists, relative to its folder, got {len(missing_files)} that do not exist: "
                f"{some(missing_files)}; correct the table"
            )
        return Found(
            samples=[
                Sample(
                    patient=patient,
                    sources=tuple(Source(sequence=r.get("sequence") or "", path=path.parent / r["image"]) for r in part),
                    mask=path.parent / part[0]["mask"] if part[0]["mask"] else None,
                )
                for (patient, _), part in joined.items()
            ]
        )


class NnUnet:
    """The layout of the Medical Segmentation Decathlon and of nnU-Net."""

    name = "Decathlon or nnU-Net"
    example = "dataset.json, imagesTr/case_001.nii.gz (or case_001_0000.nii.gz, one for each channel), labelsTr/case_001.nii.gz"

    def matches(self, root: Path) -> bool:
        return (root / "dataset.json").is_file() and (root / "imagesTr").is_dir()

    def find(self, root: Path) -> Found:
        described = self._described(root / "dataset.json")
        channels = described.get("channel_names") or described.get("modality") or {}
        names = [str(channels[key]) for key in sorted(channels, key=int)]
        labels = self._labels(described.get("labels", {}))
        if not (root / "labelsTr").is_dir():
            raise ValueError(f"expected labelsTr beside imagesTr in {root}, got none; add the masks")
        masks = {stem_of(path): path for path in images_in(root / "labelsTr")}
        images: dict[str, dict[int, Path]] = {}
        for path in images_in(root / "imagesTr"):
            match = re.fullmatch(r"(.+)_(\d{4})", stem_of(path))
            case, channel = (match[1], int(match[2])) if match and match[1] in masks else (stem_of(path), -1)
            images.setdefault(case, {})[channel] = path
        samples = []
        check_pairs(set(images), set(masks), "imagesTr", "labelsTr")
        for case, files in images.items():
            if -1 in files:  # the sequences along the fourth axis
                path = files[-1]
                parts = enumerate(names) if len(names) > 1 else [(None, names[0] if names else "")]
                sources = tuple(Source(sequence=name, path=path, part=part) for part, name in parts)
            else:
                sources = tuple(
                    Source(sequence=names[number] if number < len(names) else str(number), path=path)
                    for number, path in sorted(files.items())
                )
            samples.append(Sample(patient=case, sources=sources, mask=masks[case]))
        return Found(samples=samples, labels=labels)

    @staticmethod
    def _described(path: Path) -> dict:
        try:
            described = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"expected JSON in {path}, got {error}; correct the file") from error
        found = described if isinstance(described, dict) else {}
        channels = found.get("channel_names") or found.get("modality") or {}
        if not (found and isinstance(channels, dict) and all(str(key).isdigit() for key in channels)):
            raise ValueError(
                f'expected {path} to name the channels by number, such as "channel_names": {{"0": "FLAIR"}}, and the labels, got '
                f"{str(channels or described)[:80]}; correct the file"
            )
        return found

    @staticmethod
    def _labels(stored: dict) -> dict[str, int]:
        """Values by name: nnU-Net 2 stores them so, earlier versions and the Decathlon the other way round; without 0."""
        pairs = [(key, value) if isinstance(value, int) else (value, key) for key, value in stored.items()]
        return {str(name): int(value) for name, value in pairs if str(value).isdigit() and int(value) > 0}


class Brats:
    """Folders of BraTS patients: T1, T1c, T2, FLAIR and the segmentation of one examination each."""

    name = "BraTS"
    example = "BraTS-GLI-00001-000/BraTS-GLI-00001-000-t1n.nii.gz, …-t1c.nii.gz, …-t2w.nii.gz, …-t2f.nii.gz, …-seg.nii.gz"
    sequence = re.compile(r"(?i)(t1n|t1ce|t1c|t1gd|t1w|t1|t2f|t2w|t2|flair)")

    def matches(self, root: Path) -> bool:
        return root.is_dir() and any(self._segmentation(folder) and self._sources(folder) for folder in self._folders(root))

    @staticmethod
    def _folders(root: Path) -> list[Path]:
        """The patients' folders; BraTS 2018 to 2019 have them in HGG and LGG."""
        grades = [folder for folder in folders_in(root) if folder.name in ("HGG", "LGG")]
        return [folder for parent in grades or [root] for folder in folders_in(parent)]

    @staticmethod
    def _volumes(folder: Path) -> list[Path]:
        return [path for path in sorted(folder.iterdir()) if suffix_of(path) in (".nii", ".nii.gz")]

    def _segmentation(self, folder: Path) -> Path | None:
        return next((path for path in self._volumes(folder) if re.search(r"[-_]seg$", stem_of(path), re.IGNORECASE)), None)

    def _sources(self, folder: Path) -> tuple[Source, ...]:
        ends = ((re.split(r"[-_]", stem_of(path))[-1], path) for path in self._volumes(folder))
        return tuple(Source(sequence=end, path=path) for end, path in ends if self.sequence.fullmatch(end))

    def find(self, root: Path) -> Found:
        folders = [folder for folder in self._folders(root) if self._sources(folder)]
        if lacking := [folder.name for folder in folders if not self._segmentation(folder)]:
            raise ValueError(
                f"expected a segmentation (…-seg.nii.gz) in every folder of {root}, got none in {len(lacking)}: {some(lacking)}; "
                "give the training part of the dataset"
            )
        samples = [
            # BraTS-GLI-00001-000 and -001 are examinations of one patient
            Sample(patient=re.sub(r"(?<=-\d{5})-\d{3}$", "", f.name), sources=self._sources(f), mask=self._segmentation(f))
            for f in folders
        ]
        return Found(samples=samples, tumour=(1, 2, 3, 4))


class BidsDerivatives:
    """A BIDS dataset with masks among its derivatives."""

    name = "BIDS derivatives"
    example = "sub-01/anat/sub-01_FLAIR.nii.gz, derivatives/masks/sub-01/anat/sub-01_label-tumour_mask.nii.gz (or …_dseg.nii.gz)"

    def matches(self, root: Path) -> bool:
        return root.is_dir() and any(root.glob("sub-*")) and ((root / "derivatives").is_dir() or bool(self._masks(root)))

    @staticmethod
    def _masks(root: Path) -> list[Path]:
        """Masks of lesions; brain masks, by their label or description, are none."""
        files = [path for path in images_in(root) if re.search(r"_(mask|dseg)$", stem_of(path))]
        return [path for path in files if not re.search(r"_(label|desc)-brain(mask)?_", path.name, re.IGNORECASE)]

    @staticmethod
    def _entities(path: Path) -> dict[str, str]:
        return dict(part.split("-", 1) for part in stem_of(path).split("_") if "-" in part)

    def find(self, root: Path) -> Found:
        masks = self._masks(root)
        images: dict[tuple, list[Path]] = {}
        for path in images_in(root):
            if path not in masks and path.parent.name == "anat" and "brain_mask" not in path.name:
                images.setdefault(self._examination(path), []).append(path)
        samples = []
        for mask in masks:
            sources = self._sources(images.get(self._examination(mask), []), self._entities(mask))
            if not sources:
                raise ValueError(
                    f"expected an image in sub-…/anat for {mask.relative_to(root)}, got none of the same subject, session and "
                    "space; add it, or remove the mask"
                )
            samples.append(Sample(patient=f"sub-{self._entities(mask)['sub']}", sources=sources, mask=mask))
        if not samples:
            raise ValueError(f"expected masks (…_mask.nii.gz or …_dseg.nii.gz) in the derivatives of {root}, got none; add them")
        subjects = {f"sub-{subject}" for subject, _ in images}
        without = sorted(subjects - {sample.patient for sample in samples})
        note = f"{len(without)} of {len(subjects)} subjects have no mask and are not used: {some(without)}"
        return Found(samples=samples, notes=(note,) if without else ())

    def _examination(self, path: Path) -> tuple:
        entities = self._entities(path)
        return entities.get("sub"), entities.get("ses")

    def _sources(self, files: list[Path], mask: dict[str, str]) -> tuple[Source, ...]:
        """The images of an examination that are in the mask's space: derivatives in it, else the raw images."""
        fitting = [path for path in files if self._entities(path).get("space") == mask.get("space")] or [
            path for path in files if "space" not in self._entities(path)
        ]
        return tuple(Source(sequence=self._sequence(path), path=path) for path in fitting)

    def _sequence(self, path: Path) -> str:
        suffix = stem_of(path).rsplit("_", 1)[-1]
        return f"{suffix} {self._entities(path)['ce']}" if "ce" in self._entities(path) else suffix


class ImagesAndMasks:
    """A folder of images and one of masks with the same names."""

    name = "images and masks"
    example = "images/p1_12.png and masks/p1_12.png (or p1_12_mask.png), for slices or volumes"

    def matches(self, root: Path) -> bool:
        return all(self._folder(root, names) for names in (IMAGES, MASKS))

    @staticmethod
    def _folder(root: Path, names: tuple[str, ...]) -> Path | None:
        folders = {folder.name.lower(): folder for folder in folders_in(root)} if root.is_dir() else {}
        return next((folders[name] for name in names if name in folders), None)

    def find(self, root: Path) -> Found:
        images, masks = (self._folder(root, names) for names in (IMAGES, MASKS))
        assert images is not None  # `matches` found both
        assert masks is not None
        by_name = {key(path, images): path for path in images_in(images)}
        masks_by_name = {}
        for path in images_in(masks):
            stem = key(path, masks)
            masks_by_name[stem if stem in by_name else without_mask_ending(stem) or stem] = path
        check_pairs(set(by_name), set(masks_by_name), images.name, masks.name)
        patients = name_patients(list(by_name.values()), images)
        samples = [
            Sample(patient=patients[path], sources=(Source(sequence="", path=path),), mask=masks_by_name[stem])
            for stem, path in by_name.items()
        ]
        return Found(samples=samples, notes=notes_on(samples))


class MaskBesideImage:
    """Masks beside their images, as in the LGG dataset on Kaggle: a folder for each patient, or one folder."""

    name = "masks beside images"
    example = "p1/p1_12.tif and p1/p1_12_mask.tif (the Kaggle layout), for slices or volumes"

    def matches(self, root: Path) -> bool:
        return root.is_dir() and any(without_mask_ending(stem_of(path)) for path in images_in(root))

    def find(self, root: Path) -> Found:
        files = {key(path, root): path for path in images_in(root)}
        masks = {image: files[stem] for stem in files if (image := without_mask_ending(stem)) is not None}
        images = {stem: path for stem, path in files.items() if path not in masks.values()}
        check_pairs(set(images), set(masks), "the images", "the masks")
        patients = name_patients(list(images.values()), root)
        samples = [
            Sample(patient=patients[path], sources=(Source(sequence="", path=path),), mask=masks[stem])
            for stem, path in images.items()
        ]
        return Found(samples=samples, notes=notes_on(samples))


def key(path: Path, root: Path) -> str:
    """The name by which an image and its mask belong together: the folders below the root and the stem."""
    return (path.relative_to(root).parent / stem_of(path)).as_posix()


def notes_on(samples: list[Sample]) -> tuple[str, ...]:
    """A note where every picture is a patient of its own."""
    pictures = [sample for sample in samples if suffix_of(sample.sources[0].path) in PICTURES]
    return (UNNUMBERED,) if len(pictures) > 1 and len({sample.patient for sample in pictures}) == len(pictures) else ()


def check_pairs(images: set[str], masks: set[str], images_name: str, masks_name: str) -> None:
    """ValueError unless every image has a mask and every mask an image."""
    if lacking := sorted(images - masks):
        raise ValueError(
            f"expected a mask in {masks_name} for every image, got none for {len(lacking)} of {len(images)}: {some(lacking)}; "
            "add them, all black for images without tumour, or list the images in a CSV with an empty mask"
        )
    if lacking := sorted(masks - images):
        raise ValueError(
            f"expected an image in {images_name} for every mask, got none for {len(lacking)} of {len(masks)}: {some(lacking)}; "
            "add the images, or remove the masks"
        )
    if not images:
        raise ValueError(f"expected images in {images_name}, got none; add images and their masks")


# tried in this order, the more specific ones first; a new layout is a class and an entry here
LAYOUTS: list[Layout] = [Table(), NnUnet(), Brats(), BidsDerivatives(), ImagesAndMasks(), MaskBesideImage()]
