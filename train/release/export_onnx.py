"""Export entries to ONNX, for programs without torch: python -m train.release.export_onnx NAME… [--weights DIR]

The graph takes cropped and scaled slices in [0, 1], normalises them itself and returns probabilities, so that the caller needs
only numpy. It does not average over the mirrored slice.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from brainmri.zoo.entry import ONNX
from brainmri.zoo.registry import EMBEDDED, LoadedModel, load
from train.release.card import write_card

TOLERANCE = 1e-4  # of a probability, between torch and onnxruntime


class Probabilities(nn.Module):
    """An entry's network with its normalisation before it and its calibration after it."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        self.net, self.entry = model.net, model.entry

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, S, S) in [0, 1] to the probabilities of the mask (B, 1, S, S) and of tumour (B,), those of its tasks."""
        normal = self.entry.preprocess.normalise(image)
        logits, verdict, _ = self.net(normal)
        mask = None if logits is None else logits.sigmoid()
        fusion = self.entry.fusion.get("slice")
        if verdict is None:
            tumour = None
        elif mask is None or fusion is None:
            tumour = ((verdict[:, 1] - verdict[:, 0]) / self.entry.temperature).sigmoid()
        else:
            evidence = mask.sum(dim=(1, 2, 3)).log1p()
            tumour = (fusion.logit * (verdict[:, 1] - verdict[:, 0]) + fusion.evidence * evidence + fusion.bias).sigmoid()
        return tuple(probabilities for probabilities in (mask, tumour) if probabilities is not None)


def export(model: LoadedModel) -> Path:
    """Write `model.onnx` into the entry's folder and render its card.

    Raises:
        RuntimeError: when onnxruntime's probabilities differ from torch's by more than the tolerance.
    """
    import onnxruntime
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    entry, net = model.entry, Probabilities(model).eval()
    size = entry.preprocess.size
    image = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    names = [name for name, task in (("mask", "segmentation"), ("tumour", "classification")) if task in entry.tasks]
    path = entry.folder / ONNX
    program = torch.onnx.export(
        net, (image,), input_names=["image"], output_names=names, dynamo=True,
        dynamic_shapes={"image": {0: torch.export.Dim("batch")}}, verbose=False,
    )  # fmt: skip
    if program is None:
        raise RuntimeError(f"{entry.name}: torch's exporter returned nothing")
    ClearMetadataAndDocStringPass()(program.model)  # without the exporter's stack traces, which hold local paths
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path)
    with torch.inference_mode():
        for name, expected, result in zip(names, net(image), session.run(None, {"image": image.numpy()}), strict=True):
            if (gap := float(np.abs(expected.numpy() - result).max())) > TOLERANCE:
                path.unlink()
                raise RuntimeError(f"{entry.name}: expected {name} within {TOLERANCE} of torch, got a difference of {gap:.2g}")
    write_card(entry)
    return path


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME")
    parser.add_argument("--weights", type=Path, default=EMBEDDED, help="folder of entries")
    options = parser.parse_args(arguments)
    for name in options.names:
        path = export(load(name, weights=options.weights / name, device="cpu"))
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
