"""Augmentation of placed slices."""

import torch

from brainmri.io.pixels import FLAIR
from train.augment import RandReplaceWithFlaird, augmentation


def test_flair_replaces_the_other_sequences():
    transform = RandReplaceWithFlaird("image", prob=1.0)
    transform.set_random_state(0)
    image = torch.rand(3, 8, 8)
    patterns = set()
    for _ in range(60):
        out = transform({"image": image})["image"]
        assert torch.equal(out[FLAIR], image[FLAIR])
        patterns.add(tuple(bool(torch.equal(out[c], image[FLAIR])) for c in (0, 2)))
    assert patterns == {(True, True), (True, False), (False, True)}
    assert not torch.equal(image[0], image[FLAIR])  # the cached slice does not change


def test_augmentation_moves_image_and_mask_together():
    transform = augmentation(64)
    transform.set_random_state(3)
    mask = torch.zeros(1, 64, 64)
    mask[:, 24:40, 20:34] = 1
    for _ in range(20):
        out = transform({"image": mask.repeat(3, 1, 1), "mask": mask})
        assert type(out["image"]) is torch.Tensor
        inside, outside = out["mask"] > 0.9, out["mask"] < 0.1
        flair = out["image"][FLAIR : FLAIR + 1]
        assert flair[inside].mean() > 0.5 > flair[outside].mean()


def test_augmentation_depends_on_the_seed_only():
    item = {"image": torch.rand(3, 64, 64), "mask": torch.zeros(1, 64, 64)}
    one, two, other = (augmentation(64).set_random_state(seed)(item)["image"] for seed in (5, 5, 6))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
