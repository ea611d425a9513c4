"""The picture in a model card: the model's result on the bundled synthetic slice."""

from __future__ import annotations

from PIL import Image

from brainmri.analysis.explain import class_activation
from brainmri.analysis.forward import predict_slices
from brainmri.analysis.selfcheck import SLICE
from brainmri.io.reading import read_slice
from brainmri.report.render import flair_picture, heat_picture, overlay_picture
from brainmri.zoo.entry import ModelEntry
from brainmri.zoo.registry import LoadedModel, split_roles


def draw_result(model: LoadedModel) -> Image.Image:
    """The bundled synthetic slice beside the model's outline, its evidence map, or both."""
    pixels, entry = read_slice(SLICE).pixels, model.entry
    pictures = [flair_picture(pixels)]
    maps = predict_slices(*split_roles(model), pixels[None]).maps
    if maps is not None:
        pictures.append(overlay_picture(pixels, maps[0] > entry.mask_threshold))
    if "classification" in entry.tasks:
        pictures.append(heat_picture(pixels, class_activation(model, pixels)[0]))
    height, width = pixels.shape[:2]
    row = Image.new("RGB", (width * len(pictures), height))
    for place, picture in enumerate(pictures):
        row.paste(picture, (width * place, 0))
    return row


def picture_text(entry: ModelEntry) -> str:
    """What the card's picture shows, in words."""
    shown = [
        name
        for task, name in (("segmentation", "the outline"), ("classification", "the evidence map of the verdict"))
        if task in entry.tasks
    ]
    return f"A synthetic slice, {' and '.join(shown)}"
