"""Images that are no axial brain MR slices, by kind.

They are photographs and other images that packages ship, drawn ones, and real slices that were rotated, reformatted or coloured.
Nothing is downloaded. The detector of axial slices (`train.ood.fit`) is measured with them, not fitted; that of an entry for any
head (`train.ood.fit_inputs`) is fitted on the kinds that are no brain MR slices.
"""

from __future__ import annotations

import gzip
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from brainmri.io.pixels import FLAIR, MIN_SIDE

ASSETS = Path(__file__).parents[2] / "assets"
CROPS = 3  # random crops of each image, in addition to the whole
FACES, DIGITS = 40, 40
COLOUR_MAPS = ("jet", "viridis", "inferno", "hot", "cool", "hsv")
SLICE_MM = 5.0  # assumed distance between the dataset's slices; its files do not record it


def package(name: str) -> Path:
    """The folder of an installed package; ModuleNotFoundError without it."""
    from importlib.util import find_spec

    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"expected the package {name}, which ships images, got none; install train/requirements.txt")
    return Path(spec.origin).parent


def read(path: Path) -> np.ndarray:
    """An image file, or the first frame of one: (H, W) or (H, W, 3) uint8."""
    image = Image.open(path)
    return np.asarray(image if image.mode == "L" else image.convert("RGB"))


def _zoom(image: np.ndarray, factor: float | Sequence[float], order: int) -> np.ndarray:
    return np.asarray(ndimage.zoom(image, factor, order=order))


def with_crops(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Each image, and `CROPS` square crops of it."""
    rng = np.random.default_rng(0)
    for image in images:
        yield image
        height, width = image.shape[:2]
        for _ in range(CROPS):
            side = int(rng.uniform(0.35, 0.8) * min(height, width))
            if side >= MIN_SIDE:
                top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
                yield image[top : top + side, left : left + side]


def photographs() -> Iterator[np.ndarray]:
    """In colour, from scikit-image, scikit-learn, matplotlib and gradio."""
    names = ("astronaut", "chelsea", "coffee", "motorcycle_left", "rocket", "hubble_deep_field")
    paths = [next((package("skimage") / "data").glob(f"{name}.*")) for name in names]
    paths += sorted((package("sklearn") / "datasets" / "images").glob("*.jpg"))
    paths += [package("matplotlib") / "mpl-data" / "sample_data" / "grace_hopper.jpg"]
    media = package("gradio") / "media_assets" / "images"
    paths += [media / name for name in ("cheetah.jpg", "cheetah1.jpg", "lion.jpg", "tower.jpg", "groot.jpeg")]
    yield from map(read, paths)


def grey_photographs() -> Iterator[np.ndarray]:
    """The same without colours, and photographs that are grey already."""
    for image in photographs():
        yield np.asarray(Image.fromarray(image).convert("L"))
    for name in ("camera", "coins", "moon", "brick", "grass", "gravel", "clock_motion"):
        yield read(package("skimage") / "data" / f"{name}.png")


def faces() -> Iterator[np.ndarray]:
    """Labeled Faces in the Wild, small and grey, as scikit-image ships them."""
    small = np.load(package("skimage") / "data" / "lfw_subset.npy", allow_pickle=False)  # (200, 25, 25), the first half faces
    for face in small[:FACES]:
        yield _zoom(face, 6, order=3)


def digits() -> Iterator[np.ndarray]:
    """Handwriting, white on black, from scikit-learn."""
    from sklearn.datasets import load_digits

    pixels, _ = load_digits(return_X_y=True)
    for digit in np.asarray(pixels)[:DIGITS].reshape(-1, 8, 8):
        yield _zoom(digit, 16, order=1)


def microscopy() -> Iterator[np.ndarray]:
    """Cells, stained tissue and retinas, from scikit-image."""
    for name in ("cell.png", "ihc.png", "retina.jpg", "microaneurysms.png"):
        yield read(package("skimage") / "data" / name)


def drawings() -> Iterator[np.ndarray]:
    """Pages, logos, charts and drawings from scikit-image, matplotlib, gradio, networkx and sympy."""
    for name in ("page", "text", "logo", "horse", "phantom", "color", "chessboard_GRAY", "chessboard_RGB"):
        yield read(package("skimage") / "data" / f"{name}.png")
    samples = package("matplotlib") / "mpl-data" / "sample_data"
    paths = [samples / "logo2.png", samples / "Minduka_Present_Blue_Pack.png", package("gradio") / "media_assets/images/logo.png"]
    paths += sorted((package("networkx") / "drawing" / "tests" / "baseline").glob("*.png"))
    paths += sorted((package("sympy") / "plotting" / "tests").glob("*.png"))
    yield from map(read, paths)


def screenshots() -> Iterator[np.ndarray]:
    """An earlier version of this project's page with synthetic brains, gradio's, and rendered ones: text, a window, a sheet."""
    for name in ("slice", "study"):
        yield read(Path(__file__).parent / "screenshots" / f"{name}.png")
    yield read(package("gradio") / "media_assets" / "images" / "screenshot.gif")
    lines = [line for line in Path(__file__).read_text(encoding="utf-8").splitlines() if line][:40]
    for ink, paper in ((0, 255), (230, 20)):
        page = Image.new("L", (640, 560), paper)
        pen = ImageDraw.Draw(page)
        for number, line in enumerate(lines):
            pen.text((12, 8 + 13 * number), line, fill=ink)
        yield np.asarray(page)
    window = Image.new("RGB", (800, 500), (245, 245, 245))
    pen = ImageDraw.Draw(window)
    pen.rectangle((0, 0, 800, 36), fill=(15, 118, 110))
    for number in range(8):
        pen.rectangle((20, 60 + 52 * number, 240, 100 + 52 * number), fill=(255, 255, 255), outline=(148, 163, 184))
        pen.text((34, 74 + 52 * number), f"Setting {number + 1}", fill=(30, 41, 59))
    pen.rectangle((270, 60, 780, 470), fill=(255, 255, 255), outline=(148, 163, 184))
    yield np.asarray(window)
    tiles = [np.asarray(Image.open(path).convert("RGB"))[::2, ::2] for path in sorted((ASSETS / "examples").glob("*.png"))]
    yield np.vstack([np.hstack(tiles[:3]), np.hstack(tiles[3:])])


def other_medicine() -> Iterator[np.ndarray]:
    """CT, ultrasound, scintigraphy, MR of the abdomen, dose and segmentation, from pydicom's test files; a few frames of each."""
    from pydicom import dcmread

    names = """693_J2KI CT_small J2K_pixelrep_mismatch JPEG2000 examples_overlay examples_jpeg2k examples_palette
        examples_rgb_color examples_ybr_color ExplVR_BigEnd liver_1frame""".split()
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # these files are invalid on purpose
            (path,) = (package("pydicom") / "data").rglob(f"{name}.dcm")
            dataset = dcmread(path)
            pixels = dataset.pixel_array
        if dataset.get("Modality") == "SEG":
            pixels = 255 * pixels  # stored as 0 and 1; shown in black and white
        if int(dataset.get("NumberOfFrames", 1)) == 1:
            pixels = pixels[None]
        yield from pixels[:: max(1, len(pixels) // 3)]


def other_planes() -> Iterator[np.ndarray]:
    """Sagittal and coronal slices of heads: matplotlib's, nibabel's, the average brain, and the example study."""
    import nibabel

    from assets.make_examples import load_template

    with gzip.open(package("matplotlib") / "mpl-data" / "sample_data" / "s1045.ima.gz") as handle:
        yield np.frombuffer(handle.read(), np.uint16).reshape(256, 256)  # sagittal
    person = nibabel.as_closest_canonical(nibabel.load(package("nibabel") / "tests" / "data" / "example4d.nii.gz"))
    study = nibabel.as_closest_canonical(nibabel.load(ASSETS / "examples" / "study-flair.nii.gz"))
    for image, volume in ((person, np.asarray(person.dataobj)[..., 0]), (study, np.asarray(study.dataobj))):
        yield from reformats(volume.astype(np.float32), image.header.get_zooms()[:3])
    _, grey, white = load_template()  # rows to the back, columns to the left, upwards
    yield from reformats((0.55 * grey + 0.42 * white)[::-1].transpose(1, 0, 2), (1, 1, 1))


def reformats(volume: np.ndarray, spacing: tuple[float, ...], each: int = 6) -> Iterator[np.ndarray]:
    """Upright sagittal and coronal slices through the middle of a volume.

    Args:
        volume: towards right or left, anterior and superior.
        spacing: along its axes, in mm; one mm becomes one pixel.
        each: number of slices in each plane.
    """
    for axis in (0, 1):
        across = [number for number in range(3) if number != axis]
        for place in np.linspace(0.3, 0.7, each):
            plane = volume.take(int(place * volume.shape[axis]), axis=axis)
            plane = _zoom(plane, [spacing[number] for number in across], order=1)
            yield plane.T[::-1]


def noise() -> Iterator[np.ndarray]:
    """Noise of several kinds, fine and coarse, grey and in colour."""
    rng = np.random.default_rng(0)
    for channels in ((), (3,)):
        shape = (200, 200, *channels)
        yield rng.integers(0, 256, shape, dtype=np.uint8)
        yield np.clip(rng.normal(40, 12, shape), 0, 255).astype(np.uint8)
        yield np.abs(rng.normal(0, 1, shape))  # like the air in an MR image
        yield (rng.random(shape) > 0.98).astype(np.uint8) * 255
        for width in (2, 6, 20, 50):
            sigmas = (width, width, *(0 for _ in channels))
            yield np.asarray(ndimage.gaussian_filter(rng.standard_normal(shape), sigmas))


def blank() -> Iterator[np.ndarray]:
    """One value everywhere, or everywhere but in one pixel, or a ramp."""
    for value in (0, 1, 60, 128, 255):
        yield np.full((256, 256), value, np.uint8)
    yield np.full((256, 256, 3), (20, 90, 160), np.uint8)
    almost = np.zeros((256, 256), np.uint8)
    almost[100, 100] = 1
    yield almost
    yield np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    yield np.tile(np.arange(256, dtype=np.uint8), (256, 1)).T


PACKAGES: dict[str, Callable[[], Iterator[np.ndarray]]] = {
    "photographs in colour, and crops": lambda: with_crops(photographs()),
    "photographs in grey, and crops": lambda: with_crops(grey_photographs()),
    "faces": faces,
    "handwritten digits": digits,
    "microscopy and retinas, and crops": lambda: with_crops(microscopy()),
    "drawings, charts, pages, and crops": lambda: with_crops(drawings()),
    "screenshots and sheets of slices, and crops": lambda: with_crops(screenshots()),
    "CT, ultrasound, other parts of the body, and crops": lambda: with_crops(other_medicine()),
    "sagittal and coronal": other_planes,
    "noise": noise,
    "blank": blank,
}


def altered(slices: Iterable[np.ndarray], colour: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """Upright slices (H, W, 3) uint8 that were rotated, flipped, inverted or coloured, each with its kind.

    Args:
        slices: each is coloured with the next of `COLOUR_MAPS`.
        colour: number of the first slice's colour map.
    """
    from matplotlib import colormaps

    for number, pixels in enumerate(slices):
        yield "rotated by 90 degrees", np.rot90(pixels, 1 if number % 2 else 3)
        yield "upside down", pixels[::-1]
        yield "inverted", 255 - pixels
        colours = colormaps[COLOUR_MAPS[(colour + number) % len(COLOUR_MAPS)]](pixels[..., FLAIR])
        yield "colour-mapped", (255 * colours[..., :3]).round().astype(np.uint8)


def reformatted(volume: np.ndarray) -> Iterator[np.ndarray]:
    """A sagittal and a coronal image through a patient's slices (S, H, W, 3) uint8, from below and nose up."""
    for axis in (2, 1):
        plane = volume.take(int(0.45 * volume.shape[axis]), axis=axis)  # (S, H or W, 3)
        yield _zoom(plane, (SLICE_MM, 1, 1), order=1)[::-1]
