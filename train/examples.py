"""Slices of many sources in memory, sampled by source and changed into uploads: the training data of `train.generalist`.

The LGG patients appear as three sequences, as FLAIR, T1c or T1 alone, and cut in three planes; the other pictures come from
`train.datasets.wider`.
"""

# pyright: reportPrivateImportUsage=false
# MONAI re-exports its classes without declaring them in __all__.

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from monai import transforms as mt
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from brainmri.io.pixels import FLAIR, to_unit
from brainmri.zoo.attributes import KINDS, PLANES, SEQUENCES, TURNS
from brainmri.zoo.preprocess import Preprocess
from brainmri.zoo.registry import LoadedModel
from train.augment import RandChannelGammad
from train.data import average_with_teacher
from train.datasets import Slice
from train.datasets.wider import find_pictures, read_picture
from train.mirroring import mirror_half
from train.mix import AXIAL, CUT, Mix
from train.uploads import as_upload, resize

UNKNOWN = -100  # label that cross-entropy ignores

WITHOUT_SKULL = ("open_ms", "alzheimer")  # sources that are stripped already
CUTS, LEAST_SLICES = 14, 18  # coronal and sagittal slices of a volume, and the axial slices that it needs for them
HEIGHT = 0.8  # of a head, as a share of its length: the LGG files have no slice spacing
CHANNELS = {"T1": 0, "FLAIR": FLAIR, "T1c": 2}

TURN_SHARE = (0.86, 0.02, 0.10, 0.02)
MIRRORED = {"figshare": 0.8}  # how often a slice is replaced by one of its halves, if it can be (`train.mirroring`)
MIRRORED_ELSEWHERE = 0.15


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One slice and its labels; a label that is not known is `UNKNOWN`.

    Attributes:
        pixels: (H, W, 3) uint8 with pre-contrast T1, FLAIR and post-contrast T1, or (H, W, 1) of one sequence.
        mask: (H, W) bool; with a teacher float16 in [0, 1], its mean with the teacher's map (`learn_from`).
        source: a source of `train.mix.Mix`.
        collection: the set of pictures within the source.
        group: patient, or block of neighbouring pictures.
        tumour: 0 or 1.
        kind, sequence, plane: indices into `KINDS`, `SEQUENCES` and `PLANES`.
    """

    pixels: np.ndarray
    mask: np.ndarray
    source: str
    collection: str
    group: str
    tumour: int
    kind: int = UNKNOWN
    sequence: int = UNKNOWN
    plane: int = UNKNOWN


def patient_examples(slices: list[Slice]) -> list[Example]:
    """A patient's axial slices, and slices of the volume cut coronally and sagittally where it has enough of them."""
    volume, masks = np.stack([s.read_image() for s in slices]), np.stack([s.read_mask() for s in slices])  # (S, H, W[, 3])
    case, three = slices[0].case, SEQUENCES.index("three sequences")

    def example(pixels: np.ndarray, mask: np.ndarray, plane: int) -> Example:
        source = CUT if plane else AXIAL
        return Example(
            pixels=pixels, mask=mask, source=source, collection=source, group=case, tumour=int(mask.any()), sequence=three,
            plane=plane,
        )  # fmt: skip

    examples = [example(pixels, mask, PLANES.index("axial")) for pixels, mask in zip(volume, masks, strict=True)]
    if len(volume) < LEAST_SLICES:
        return examples
    bright = volume[..., FLAIR] > 40
    rows, columns = np.flatnonzero(bright.any(axis=(0, 2))), np.flatnonzero(bright.any(axis=(0, 1)))
    height = round(HEIGHT * len(rows))
    for plane, axis, line in (("coronal", 1, rows), ("sagittal", 2, columns)):
        for position in np.quantile(line, np.linspace(0.15, 0.85, CUTS)).round().astype(int):
            cut = volume.take(position, axis=axis)[::-1]  # (S, W or H, 3), the vertex up
            cut_mask = masks.take(position, axis=axis)[::-1, :, None].astype(np.uint8) * 255
            size = (cut.shape[1], height)
            examples.append(example(resize(cut, size), resize(cut_mask, size)[..., 0] > 127, PLANES.index(plane)))
    return examples


def picture_examples(root: str | Path) -> list[Example]:
    """The brain MR slices among the pictures of `train.datasets.wider`."""
    examples = []
    for picture in find_pictures(root):
        if picture.tumour is None:
            continue
        pixels, mask = read_picture(picture)
        source = "ms" if picture.finding == "multiple sclerosis" else picture.collection
        examples.append(Example(
            pixels=pixels[..., None], mask=mask, source=source, collection=picture.collection, group=picture.group,
            tumour=int(picture.tumour), kind=index_of(KINDS, picture.finding), sequence=index_of(SEQUENCES, picture.sequence),
            plane=index_of(PLANES, picture.plane),
        ))  # fmt: skip
    return examples


def index_of(names: tuple[str, ...], name: str) -> int:
    """The index of a name, or `UNKNOWN`."""
    return names.index(name) if name in names else UNKNOWN


def single_sequence(example: Example, sequence: str) -> Example:
    """An LGG example as one of its sequences; FLAIR where the dataset has no such sequence for the patient."""
    flair = example.pixels[..., FLAIR]
    channel = example.pixels[..., CHANNELS[sequence]]
    if np.array_equal(channel, flair):  # the dataset puts FLAIR in place of a missing sequence
        sequence = "FLAIR"
    kind = KINDS.index("glioma") if sequence == "T1c" and example.tumour else UNKNOWN
    return replace(example, pixels=channel[..., None], sequence=SEQUENCES.index(sequence), kind=kind)


def learn_from(teacher: LoadedModel, examples: list[Example]) -> list[Example]:
    """The examples with targets halfway between the annotator's and the teacher's (`train.data.average_with_teacher`).

    The teacher sees LGG slices with three sequences, whichever of them the student gets.
    """
    taught = []
    for example in tqdm(examples, desc="asking the teacher", unit="slice", mininterval=10):
        target = average_with_teacher(example.mask, to_unit(np.ascontiguousarray(example.pixels)), teacher)
        taught.append(replace(example, mask=target.astype(np.float16)))
    return taught


def mirrored(example: Example, random: np.random.Generator) -> Example:
    """One half of the slice and its mirror image (`train.mirroring.mirror_half`), with the labels that it then has."""
    pixels, mask = mirror_half(example.pixels, example.mask.astype(np.float32), random)
    tumour = int((mask > 0.5).any())
    return replace(example, pixels=pixels, mask=mask, tumour=tumour, kind=example.kind if tumour else UNKNOWN)


class UploadDataset(Dataset):
    """Examples changed into uploads, augmented, on the network's grid; an item is addressed by (index, seed)."""

    def __init__(self, examples: list[Example], preprocess: Preprocess, mix: Mix) -> None:
        self.examples, self.preprocess, self.mix = examples, preprocess, mix
        keys = ["image", "mask"]
        self.spatial = mt.Compose([
            mt.RandFlipd(keys, prob=0.5, spatial_axis=1),
            mt.RandAffined(keys, prob=0.8, rotate_range=0.4, shear_range=0.1, scale_range=0.2,
                           translate_range=0.08 * preprocess.size, mode="bilinear", padding_mode="zeros"),
        ])  # fmt: skip
        self.intensity = mt.Compose(
            [
                RandChannelGammad("image", prob=0.7, gamma=(0.65, 1.5), gain=(0.7, 1.3)),
                mt.RandBiasFieldd("image", prob=0.1, coeff_range=(0.0, 0.2)),
                mt.RandGaussianSmoothd("image", prob=0.1, sigma_x=(0.3, 1.2), sigma_y=(0.3, 1.2)),
                mt.RandGaussianNoised("image", prob=0.3, std=0.03),
            ]
        )

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index_and_seed: tuple[int, int]) -> dict:
        """`image` (3, S, S) and `mask` (1, S, S) float32 in [0, 1], and the labels `tumour`, `kind`, `sequence`, `plane`, `turn`.

        The image is not normalised. `tumour` is `UNKNOWN` where the changes removed the outline from the picture.
        """
        index, seed = index_and_seed
        random = np.random.default_rng(seed)
        example = self.examples[index]
        if example.source in (AXIAL, CUT):
            sequence = str(random.choice(list(self.mix.lgg), p=list(self.mix.lgg.values())))
            example = example if sequence == "three sequences" else single_sequence(example, sequence)
        if random.random() < MIRRORED.get(example.source, MIRRORED_ELSEWHERE):
            example = mirrored(example, random)
        removal = 0.0 if example.collection in WITHOUT_SKULL else 0.2 if example.source == "heads" else 0.35
        pixels, target = as_upload(example.pixels, example.mask.astype(np.float32), random, skull_removal=removal)
        image, placement = self.preprocess(to_unit(np.ascontiguousarray(pixels)))
        mask = self.preprocess.place(torch.from_numpy(np.ascontiguousarray(target))[None], placement)
        for transform in (self.spatial, self.intensity):
            transform.set_random_state(int(random.integers(2**31)))
        item = cast("dict", self.intensity(self.spatial({"image": image, "mask": mask})))
        image, mask = (torch.as_tensor(np.asarray(item[key]), dtype=torch.float32) for key in ("image", "mask"))
        if example.pixels.shape[2] == 1:  # one sequence in three equal channels, as it is served
            image = image[:1].expand(3, -1, -1)
        turn = int(random.choice(len(TURNS), p=TURN_SHARE))
        image, mask = (torch.rot90(tensor, turn, (1, 2)).contiguous() for tensor in (image, mask))
        lost = example.tumour and float(mask.sum()) < 3
        return {
            "image": image, "mask": mask.clamp(0, 1), "tumour": UNKNOWN if lost else example.tumour, "kind": example.kind,
            "sequence": example.sequence, "plane": example.plane, "turn": turn,
        }  # fmt: skip


class SourceSampler(Sampler[tuple[int, int]]):
    """Sample (index, seed) with replacement: sources, tumours, kinds and sequences by the mix, groups more evenly.

    The sample depends on the seed and the epoch only, so a resumed run gets the same examples.

    Args:
        samples: examples per epoch.
    """

    def __init__(self, examples: list[Example], samples: int, seed: int, mix: Mix) -> None:
        strata = [(e.source, e.tumour, e.kind, e.sequence) for e in examples]
        counts = Counter(zip(strata, (e.group for e in examples), strict=True))
        weights = np.array([counts[s, e.group] ** -0.5 for s, e in zip(strata, examples, strict=True)])
        for stratum in set(strata):
            members = np.array([s == stratum for s in strata])
            weights[members] *= share_in_source(mix, *stratum) / weights[members].sum()
        sources = np.array([e.source for e in examples])
        for source in set(sources):  # which may lack some of its strata here
            weights[sources == source] *= mix.source[source] / weights[sources == source].sum()
        self.weights = torch.from_numpy(weights)
        self.samples, self.seed, self.epoch = samples, seed, 0

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        chosen = torch.multinomial(self.weights, self.samples, replacement=True, generator=generator)
        for position, index in enumerate(chosen.tolist()):
            yield index, int(np.random.SeedSequence([self.seed, self.epoch, position]).generate_state(1)[0])


def share_in_source(mix: Mix, source: str, tumour: int, kind: int, sequence: int) -> float:
    """The share of its source for the examples with or without tumour, of one kind and sequence."""
    share = 1.0
    if source in mix.tumour:
        share *= mix.tumour[source] if tumour else 1 - mix.tumour[source]
    if kind != UNKNOWN:
        share *= mix.kind[KINDS[kind]]
    return share * mix.heads[SEQUENCES[sequence]] if source == "heads" else share
