"""Loaded networks on a GPU that does not exist: fake tensors have devices and shapes, and refuse operations across devices."""

from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from brainmri.zoo.backends import HALF, Backend, InferenceModule, half_forward
from brainmri.zoo.nets import create_network
from brainmri.zoo.registry import LoadedModel

CUDA = torch.device("cuda", 0)


def copy_to_gpu(model: LoadedModel, mode: FakeTensorMode) -> LoadedModel:
    """A model on the fake GPU, with fake copies of its weights, in the backend that "auto" takes there.

    Args:
        model: on the CPU.
        mode: the active mode.
    """
    entry = model.entry
    weights = {name: mode.from_tensor(tensor).to(CUDA) for name, tensor in model.net.state_dict(keep_vars=True).items()}
    with CUDA:  # fake tensors cannot be moved by `Module.to`
        net = create_network(entry.net, entry.arguments).eval().requires_grad_(False)
    net.load_state_dict(weights, strict=True, assign=True)
    module = InferenceModule(net, entry.tasks, model.ood.feature_spec if model.ood else None).eval()
    return replace(model, net=net, device=CUDA, backend=Backend(module, HALF, half_forward(module, CUDA)))
