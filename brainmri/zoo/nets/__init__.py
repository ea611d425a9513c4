"""The networks: torch modules, no preprocessing; how each is read from and pushed to the Hub is `brainmri.zoo.hub_mixin`'s.

Every segmenter returns logits (B, 1, H, W). Every classifier returns two logits (B, 2), "no tumour" and "tumour".
`EffUNet` and `EffUNetEnsemble` do both: their `both` gives mask and verdict from one pass, their `forward` the mask logits.
"""

from brainmri.zoo.nets.effunet import EffUNet, EffUNetEnsemble
from brainmri.zoo.nets.resnet import ResNet50Classifier
from brainmri.zoo.nets.resunet import ResUNet

__all__ = ["EffUNet", "EffUNetEnsemble", "ResNet50Classifier", "ResUNet"]
