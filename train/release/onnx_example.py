"""The program in a model card that runs `model.onnx` without this package."""

from __future__ import annotations

from brainmri.zoo.entry import ModelEntry

NUMPY_EXAMPLE = """import numpy as np
import onnxruntime
from PIL import Image, ImageOps

SIZE = {size}
picture = Image.open("slice.png").convert("RGB")  # a grey slice is FLAIR, in all three channels
grey = np.asarray(picture, np.float32).mean(axis=2)
head = grey > 0.15 * np.percentile(grey, 99)
rows, columns = (np.flatnonzero(head.mean(axis=axis) > 0.03) for axis in (1, 0))
(left, right), (top, bottom) = ((line[0] - 0.04 * np.ptp(line), line[-1] + 0.04 * np.ptp(line)) for line in (columns, rows))
box = max(0, round(left)), max(0, round(top)), min(picture.width, round(right) + 1), min(picture.height, round(bottom) + 1)
head = ImageOps.contain(picture.crop(box), (SIZE, SIZE))
left, top = (SIZE - head.width) // 2, (SIZE - head.height) // 2
image = np.zeros((1, 3, SIZE, SIZE), np.float32)
image[0, :, top : top + head.height, left : left + head.width] = np.asarray(head, np.float32).transpose(2, 0, 1) / 255
session = onnxruntime.InferenceSession("model.onnx")
outputs = dict(zip((output.name for output in session.get_outputs()), session.run(None, {{"image": image}})))
"""
SHOW_MASK = """small = Image.fromarray(outputs["mask"][0, 0, top : top + head.height, left : left + head.width])
whole = np.zeros(grey.shape, np.float32)
whole[box[1] : box[3], box[0] : box[2]] = np.asarray(small.resize((box[2] - box[0], box[3] - box[1])))
Image.fromarray(np.uint8(255 * (whole > {threshold}))).save("mask.png")
"""
SHOW_VERDICT = """print(f"probability of tumour: {outputs['tumour'][0]:.3f}")
"""


def numpy_example(entry: ModelEntry) -> str:
    """A program with numpy, Pillow and onnxruntime that analyses `slice.png`: it writes `mask.png` or prints the probability."""
    program = NUMPY_EXAMPLE.format(size=entry.preprocess.size)
    if "segmentation" in entry.tasks:
        program += SHOW_MASK.format(threshold=entry.mask_threshold)
    if "classification" in entry.tasks:
        program += SHOW_VERDICT
    return program
