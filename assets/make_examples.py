"""Make the demo's example slices and studies: synthetic MRI from an average brain and seeds, without patient data.

    pip install nilearn nibabel
    python assets/make_examples.py [--out assets/examples]

The page shows the result of one example before any click; `brainmri.ui.examples` stores it.

The anatomy is the MNI ICBM152 template that nilearn ships inside its package, so nothing is downloaded. The template has
neither skull nor lesion, is symmetric, and is the mean of 152 people: warps, a synthetic skull and scalp, a lesion, a bias
field and noise turn a slice of it into something that looks like one person's scan. Its licence is in `examples/NOTICE.md`.
"""

from __future__ import annotations

import argparse
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

SIZE = 256
THICK = 3  # template slices (1 mm each) that are averaged into one, as a scanner's thick slice does
SOURCE = (
    "Derived from the MNI ICBM152 2009a nonlinear symmetric template. Copyright (C) 1993-2004 Louis Collins, McConnell Brain "
    "Imaging Centre, Montreal Neurological Institute, McGill University. Full notice: NOTICE.md"
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One example: the level of the slice, its lesion, and the seed of everything random."""

    level: int  # mm above the bottom of the template; the lateral ventricles are at 75 to 105
    seed: int
    lesion: tuple[float, float, float] | None = None  # row, column and radius in pixels
    ring: float = 0.0  # how much of the lesion takes up contrast agent, 0..1
    gains: tuple[float, float, float] = (1.0, 1.0, 1.0)  # brightness of the three channels: scanners differ
    zoom: float = 1.0  # pixels per mm
    flair_only: bool = False


RECIPES = {
    "large-lesion": Recipe(level=92, seed=11, lesion=(122, 165, 35), ring=0.8, gains=(1.0, 1.05, 1.05)),
    "small-lesion": Recipe(level=103, seed=22, lesion=(160, 96, 12), gains=(0.85, 0.95, 0.9), zoom=1.05),
    "frontal-lesion": Recipe(level=88, seed=33, lesion=(82, 100, 24), ring=0.15, gains=(0.9, 1.0, 1.1)),
    "flair-only": Recipe(level=108, seed=44, lesion=(144, 162, 21), zoom=1.05, flair_only=True),
    "healthy-ventricles": Recipe(level=95, seed=55, gains=(1.0, 1.05, 0.9), zoom=1.0),
    "healthy-high": Recipe(level=122, seed=66, gains=(0.9, 0.95, 1.0), zoom=1.12),
}


# studies: one slice every STEP mm; a recipe's level and the radius of its lesion are those of the lesion's centre, in mm
LEVELS, STEP = range(66, 142, 5), 5
FRAME = slice(14, 242), slice(34, 222)  # rows and columns that are kept
SEQUENCES = ("t1", "flair", "t1ce")
STUDIES = {
    "study-flair": Recipe(level=97, seed=77, lesion=(140, 160, 26), flair_only=True),
    "study-small": Recipe(level=107, seed=88, lesion=(150, 98, 13), flair_only=True),
    "study-healthy": Recipe(level=97, seed=99, flair_only=True),
    "study-three": Recipe(level=92, seed=111, lesion=(92, 104, 22), ring=0.5, gains=(1.0, 1.05, 1.0)),
}
CARD = 160  # pixels; side of a study's picture on the page


def load_template() -> np.ndarray:
    """The template's T1, grey matter and white matter: (3, 233, 197, 189) float32 in 0..1, front and right first."""
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    loaders = load_mni152_template, load_mni152_gm_template, load_mni152_wm_template
    volumes = np.stack([np.asarray(loader(resolution=1).dataobj, dtype=np.float32) for loader in loaders])
    return volumes.transpose(0, 2, 1, 3)[:, ::-1, ::-1]  # stored from left to right and from back to front


def hills(rng: np.random.Generator, width: float) -> np.ndarray:
    """Random hills `width` pixels wide: (SIZE, SIZE), mean 0, standard deviation 1."""
    field = ndimage.gaussian_filter(rng.standard_normal((SIZE, SIZE)), width, mode="wrap")
    return (field - field.mean()) / field.std()


def soft(inside: np.ndarray, edge: float = 1.5) -> np.ndarray:
    """A signed depth in pixels (positive inside) to a coverage in 0..1 that rises over `edge`."""
    return np.clip(inside / edge + 0.5, 0, 1)


def depth_of(mask: np.ndarray) -> np.ndarray:
    """Signed distance to the border of a mask in pixels, positive inside: (SIZE, SIZE)."""
    return ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)


def personal_slice(template: np.ndarray, recipe: Recipe, rng: np.random.Generator) -> np.ndarray:
    """Cut the template and bend it into one person's brain: (3, SIZE, SIZE) in 0..1, T1, grey and white matter."""
    cut = template[..., recipe.level - THICK // 2 : recipe.level + THICK // 2 + 1].mean(axis=-1)
    rows, columns = np.meshgrid(np.arange(SIZE, dtype=float), np.arange(SIZE, dtype=float), indexing="ij")
    # Head shape and the lie of the ventricles vary over centimetres, the folds of the cortex over millimetres.
    for field in (rows, columns):
        field += 2.4 * hills(rng, 32) + 1.1 * hills(rng, 7)
    if recipe.lesion:  # a mass pushes its surroundings away, and so the pixel samples from nearer its centre
        row, column, radius = recipe.lesion
        away = np.hypot(rows - row, columns - column) / radius
        push = 0.28 * np.exp(-0.5 * (away / 1.1) ** 2)
        rows, columns = rows - push * (rows - row), columns - push * (columns - column)
    angle = np.deg2rad(rng.uniform(-3, 3))
    y, x = (rows - SIZE / 2) / recipe.zoom, (columns - SIZE / 2) / recipe.zoom / rng.uniform(0.98, 1.05)
    y, x = np.cos(angle) * y - np.sin(angle) * x, np.sin(angle) * y + np.cos(angle) * x
    middle = cut.shape[1] / 2 - 2, cut.shape[2] / 2  # so that the head, not the template, is in the middle of the frame
    return np.stack([ndimage.map_coordinates(part, (y + middle[0], x + middle[1]), order=1) for part in cut])


def make(template: np.ndarray, recipe: Recipe, noise_seed: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """One example and the true mask of its lesion.

    Args:
        noise_seed: draws the noise apart from the anatomy, for the slices of one study; from the recipe's own seed when None.

    Returns:
        (SIZE, SIZE, 3) uint8, pre-contrast T1, FLAIR and post-contrast T1; or (SIZE, SIZE) uint8 where FLAIR is all there is;
        and (SIZE, SIZE) bool.
    """
    rng = np.random.default_rng(recipe.seed)
    t1, grey, white = personal_slice(template, recipe, rng)
    brain = ndimage.binary_fill_holes(t1 > 0.25)
    brain_cover = ndimage.gaussian_filter(brain.astype(float), 0.7)

    # Tissue. Fluid is read off T1, for the template's maps of grey and white matter leave the narrow furrows out.
    fluid = np.clip((0.66 - t1) / 0.26, 0, 1) * brain
    open_water = np.clip(2 * ndimage.gaussian_filter(fluid, 2.5) - 0.6, 0, 1)  # the ventricles
    # In one person, unlike in the mean, some furrows gape and some are shut.
    fluid = np.clip(fluid * (1 + 0.5 * (1 - open_water) * hills(rng, 4)), 0, 1)
    texture = 1 + 0.05 * hills(rng, 1.2) + 0.04 * hills(rng, 4)
    solid = grey + white + 1e-3
    flair = (0.55 * grey + 0.42 * white) / solid * texture * (1 - fluid) + 0.08 * fluid
    plain = (0.44 * grey + 0.54 * white) / solid * (2 - texture) * (1 - fluid) + 0.20 * fluid
    vessels = fluid * (hills(rng, 1.3) > 1.6) + 0.5 * fluid * (hills(rng, 2.5) > 1.2)
    contrast = 1.06 * plain + 0.45 * ndimage.gaussian_filter(vessels * (1 - 0.7 * open_water), 0.6)

    # The lesion: a blob with a ragged, soft border, in fibre more than in cortex, and not in fluid.
    mask = np.zeros((SIZE, SIZE), bool)
    if recipe.lesion:
        row, column, radius = recipe.lesion
        rows, columns = np.mgrid[:SIZE, :SIZE]
        ragged = radius * (1 + 0.20 * hills(rng, radius / 2.5) + 0.07 * hills(rng, 3)) - 0.25 * radius * (1 - white)
        inside = ragged - np.hypot(rows - row, (columns - column) * 1.15)
        cover = soft(inside, 5) * (1 - 0.85 * fluid) * brain
        mask, count = ndimage.label(cover > 0.5)
        mask = mask == 1 + np.argmax(ndimage.sum_labels(cover, mask, range(1, count + 1)))  # keep the largest component
        mask = ndimage.binary_fill_holes(ndimage.binary_opening(mask))
        uneven = 1 + 0.10 * hills(rng, radius / 3) + 0.05 * hills(rng, 1.5)
        core = soft(inside - 0.45 * radius, 6)  # the middle is often looser tissue: less bright on FLAIR, darker on T1
        flair += (0.88 * uneven - 0.16 * core - flair) * cover
        plain += ((0.38 - 0.06 * core) * uneven - plain) * cover
        contrast += ((0.40 - 0.07 * core) * uneven - contrast) * cover
        rim = np.exp(-0.5 * ((inside - 0.55 * radius) / 2.6) ** 2) * np.clip(0.7 + 0.7 * hills(rng, 6), 0, 1)
        contrast += recipe.ring * 0.65 * rim * cover

    # Skull and scalp follow the brain's hull, not its furrows.
    grown = depth_of(brain) > -22
    out = 1 - ndimage.gaussian_filter(depth_of(depth_of(grown) > 21), 6)  # pixels outwards from the inner table of the skull
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    bone = 6.0 + 1.0 * hills(rng, 24) + 2.5 * np.clip(-y - 0.45, 0, 1)
    temple = np.exp(-0.5 * (((y + 0.28) / 0.22) ** 2)) * np.clip(np.abs(x) * 3 - 0.7, 0, 1) * (recipe.level < 110)
    scalp = bone + 5.0 + 0.9 * hills(rng, 18) + 4.0 * np.clip(y, 0, 1) + 5.0 * temple
    fat = 1 - 0.22 * soft(out - scalp + 2.2) + 0.07 * hills(rng, 1.3) + 0.12 * hills(rng, 14)  # the skin is darker than the fat
    muscle = soft(0.75 * temple - 0.3, 0.3) * soft(scalp - 3.5 - out)
    fat = fat * (1 - 0.55 * muscle * (1 + 0.25 * hills(rng, 1.4)))
    marrow = soft(1.6 - np.abs(out - 0.55 * bone)) * np.clip(0.5 + 0.5 * hills(rng, 9), 0, 1)
    # The sagittal sinus lies on the midline under the bone, in front and behind.
    sinus = soft(3.2 - np.hypot(out + 1.0, (x - x[brain].mean()) * 90)) * (np.abs(y) > 0.3)
    dura = np.exp(-0.5 * ((out + 0.3) / 0.8) ** 2) * np.clip(0.5 + 0.4 * hills(rng, 8), 0, 1)

    noise_rng = rng if noise_seed is None else np.random.default_rng([recipe.seed, noise_seed])
    channels = []
    for tissue, gap, fatty, marrowy, sinus_light, dura_light, gain in (
        (plain, 0.14, 1.25, 0.38, 0.16, 0.06, recipe.gains[0]),
        (flair, 0.06, 1.15, 0.30, 0.08, 0.06, recipe.gains[1]),
        (contrast, 0.15, 1.10, 0.38, 0.85, 0.30, recipe.gains[2]),
    ):
        picture = fatty * fat * soft(scalp - out)
        for value, cover in ((0.07 + marrowy * marrow, soft(bone - out)), (gap, soft(-out)), (tissue, brain_cover)):
            picture = picture + (value - picture) * cover
        picture = picture + (sinus_light - picture) * sinus * (1 - brain_cover) + dura_light * dura * (1 - 0.7 * brain_cover)
        # Brighter near the coil, and uneven besides.
        bias = 1 + 0.06 * hills(rng, 50) + 0.08 * (y**2 + x**2)
        picture = ndimage.gaussian_filter(np.clip(picture, 0, None) * bias * gain * 0.46, 0.45)
        # The magnitude of a complex signal with Gaussian noise on both parts is Rician; the blur is the scanner's interpolation.
        noise = ndimage.gaussian_filter(noise_rng.standard_normal((2, SIZE, SIZE)), (0, 0.55, 0.55)) * 0.019
        channels.append(np.hypot(picture + noise[0], noise[1]))
    image = (np.clip(np.stack(channels, axis=-1), 0, 1) * 255).round().astype(np.uint8)
    return (image[..., 1] if recipe.flair_only else image), mask


def make_study(template: np.ndarray, recipe: Recipe) -> tuple[np.ndarray, np.ndarray]:
    """A head with at most one round lesion, slices from below.

    Returns:
        (S, H, W, 3) uint8, or (S, H, W) for FLAIR alone, and the mask of the lesion, (S, H, W) bool.
    """
    slices = []
    for level in LEVELS:
        lesion = None
        if recipe.lesion:
            row, column, radius = recipe.lesion
            reach = radius**2 - (level - recipe.level) ** 2
            lesion = (row, column, reach**0.5) if reach > 36 else None
        slices.append(make(template, replace(recipe, level=level, lesion=lesion), noise_seed=level))
    return tuple(np.stack(part)[:, *FRAME] for part in zip(*slices, strict=True))


def save_study(name: str, template: np.ndarray, out: Path) -> None:
    """Write a study as NIfTI, three sequences in a zip, with its true mask and its picture for the page."""
    recipe = STUDIES[name]
    volume, mask = make_study(template, recipe)
    source = "From the MNI ICBM152 template, see NOTICE.md"
    if recipe.flair_only:
        save_volume(volume, out / f"{name}.nii.gz", source)
    else:
        with TemporaryDirectory() as folder, zipfile.ZipFile(out / f"{name}.zip", "w", zipfile.ZIP_STORED) as archive:
            for channel, sequence in enumerate(SEQUENCES):
                path = Path(folder) / f"{sequence}.nii.gz"
                save_volume(volume[..., channel], path, source)
                archive.write(path, path.name)
    if recipe.lesion:
        save_volume(mask.astype(np.uint8), out / "truth" / f"{name}.mask.nii.gz", f"The true mask of {name}")
    widest = volume[int(mask.sum(axis=(1, 2)).argmax()) or len(volume) // 2]
    height, width = widest.shape[:2]
    card = Image.new("L" if recipe.flair_only else "RGB", (CARD, CARD))
    shown = Image.fromarray(widest).resize((round(CARD * width / height), CARD), Image.Resampling.LANCZOS)
    card.paste(shown, ((CARD - shown.width) // 2, 0))
    save(np.asarray(card), out / "cards" / f"{name}.png", f"A slice of {name}.")
    print(f"{name}: {volume.shape}, lesion of {mask.sum() * STEP / 1000:.1f} mL")


def save_volume(volume: np.ndarray, path: Path, content: str) -> None:
    """Write (S, H, W) as NIfTI with 1 mm pixels, in the orientation the slices have."""
    import nibabel

    stored = volume.transpose(2, 1, 0)  # columns to the left, rows to the back, slices upwards
    affine = np.diag([-1.0, -1.0, STEP, 1.0])
    affine[:2, 3] = np.array(stored.shape[:2]) / 2
    image = nibabel.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = f"Synthetic, not a patient. {content}"[:79].encode()
    nibabel.save(image, path)


def save(pixels: np.ndarray, path: Path, content: str) -> None:
    """Write a PNG with its description in the metadata; a label drawn into the image would mislead the networks."""
    notes = PngInfo()
    notes.add_text("Description", f"Synthetic slice made by assets/make_examples.py, not a patient. {content}")
    notes.add_text("Source", SOURCE)
    Image.fromarray(pixels).save(path, pnginfo=notes, optimize=True)


def main() -> None:
    """Write the images, and the masks of those with a lesion under `truth/`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "examples", help="folder to write to")
    out = parser.parse_args().out
    for folder in ("truth", "cards"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    template = load_template()
    for stem, recipe in RECIPES.items():
        image, mask = make(template, recipe)
        content = "FLAIR alone." if recipe.flair_only else "Channels: pre-contrast T1, FLAIR, post-contrast T1."
        save(image, out / f"{stem}.png", content)
        if recipe.lesion:
            save(mask.astype(np.uint8) * 255, out / "truth" / f"{stem}.mask.png", f"The true mask of {stem}.png.")
        print(f"{stem}: {image.shape}, lesion of {mask.sum()} pixels")
    for name in STUDIES:
        save_study(name, template, out)


if __name__ == "__main__":
    main()
