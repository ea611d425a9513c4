"""The networks of the zoo; `brainmri.zoo.nets.base` describes the contract that they follow.

To add a network, write its class in one module and register it by one line in `NETWORKS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainmri.zoo.hub_mixin import PretrainedNet

# class name, as `config.json` has it, to the module that defines the class
NETWORKS = {
    "EffUNet": "brainmri.zoo.nets.effunet",
    "EffUNetEnsemble": "brainmri.zoo.nets.effunet",
    "ResNet50Classifier": "brainmri.zoo.nets.resnet",
    "ResUNet": "brainmri.zoo.nets.resunet",
}


def create_network(name: str, arguments: Mapping[str, Any]) -> PretrainedNet:
    """A network with untrained weights.

    Args:
        name: its class, one of `NETWORKS`.
        arguments: of its constructor.

    Raises:
        ValueError: for a class that is not registered.
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown network {name!r}; choose from {', '.join(NETWORKS)}")
    return getattr(import_module(NETWORKS[name]), name)(**arguments)


def __getattr__(name: str):
    """Import a network's class on first use, so that the zoo can be listed without importing torch."""
    if name in NETWORKS:
        return getattr(import_module(NETWORKS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
