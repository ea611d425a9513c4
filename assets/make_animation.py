"""Make the README's animated picture, a synthetic study with the outlined tumour: python assets/make_animation.py"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ASSETS = Path(__file__).parent
sys.path.insert(0, str(ASSETS.parent))  # the package of this source tree

from brainmri.analysis.pipeline import Pipeline  # noqa: E402
from brainmri.io.reading import read_study  # noqa: E402
from brainmri.report.render import flair_picture, overlay_picture, proportions  # noqa: E402

STUDY, PICTURE = ASSETS / "examples" / "study-flair.nii.gz", ASSETS / "study.webp"
SIDE, MILLISECONDS, QUALITY = 320, 250, 80


def main() -> None:
    scan = read_study(STUDY)
    study = Pipeline(device="cpu").study(scan)
    height, width = proportions(study.mask.shape[1:], study.geometry, SIDE)
    frames = []
    for pixels, mask in zip(scan.pixels, study.mask, strict=True):
        frame = Image.new("RGB", (2 * width, height))
        for place, picture in enumerate((flair_picture(pixels), overlay_picture(pixels, mask))):
            frame.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (place * width, 0))
        frames.append(frame)
    frames += frames[-2:0:-1]  # up and down again
    frames[0].save(PICTURE, save_all=True, append_images=frames[1:], duration=MILLISECONDS, loop=0, quality=QUALITY, method=6)


if __name__ == "__main__":
    main()
