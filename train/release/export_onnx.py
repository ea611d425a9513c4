"""Export entries to ONNX, for programs without torch: python -m train.release.export_onnx NAME… [--weights DIR]

The graph takes placed slices in [0, 1] and normalises them itself; out come probabilities, so that numpy is all it takes. The
mirrored view is not averaged in.
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
    """An entry's network between its own normalisation and its probabilities."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__()
        self.net, self.entry = model.net, model.entry

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, S, S) in [0, 1] to mask (B, 1, S, S) and tumour (B,) probabilities, whichever the network gives."""
        normal = self.entry.preprocess.normalise(image)
        logits, verdict = self.net(normal)
        masks = () if logits is None else (logits.sigmoid(),)
        if verdict is None:
            return masks
        logit = verdict[:, 1] - verdict[:, 0]
        fusion = self.entry.fusion.get("slice")
        if fusion is None:
            return (*masks, (logit / self.entry.temperature).sigmoid())
        evidence = masks[0].sum(dim=(1, 2, 3)).log1p()
        return (*masks, (fusion.logit * logit + fusion.evidence * evidence + fusion.bias).sigmoid())


def export(model: LoadedModel) -> Path:
    """Write `model.onnx` into the entry's folder and mention it in its card.

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
    ClearMetadataAndDocStringPass()(program.model)  # the exporter's traces name folders of the machine it ran on
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path)
    with torch.inference_mode():
        for name, ours, theirs in zip(names, net(image), session.run(None, {"image": image.numpy()}), strict=True):
            if (gap := float(np.abs(ours.numpy() - theirs).max())) > TOLERANCE:
                path.unlink()
                raise RuntimeError(f"{entry.name}: {name} differs by {gap:.2g} between torch and onnxruntime")
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
