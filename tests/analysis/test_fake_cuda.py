"""The code for GPUs on a machine without one: fake CUDA tensors have devices and shapes, and refuse operations across devices."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

import brainmri
from brainmri.analysis.forward import _place, encoder_features, run_model
from brainmri.zoo.backends import HALF, Backend, InferenceModule, half_forward, half_precision
from brainmri.zoo.hub_mixin import PretrainedNet
from brainmri.zoo.nets import create_network
from brainmri.zoo.registry import LoadedModel
from train.augment import RandChannelGammad, RandReplaceWithFlaird
from train.loop import choose_precision

pytestmark = pytest.mark.slow

ENTRIES = {entry.name: entry for entry in brainmri.list_models()}
CUDA = torch.device("cuda", 0)


@pytest.fixture
def fake_cuda():
    with FakeTensorMode() as mode:
        yield mode


def create_on_gpu(name: str) -> PretrainedNet:
    """An entry's network with random weights; fake tensors cannot be moved, so it is created on the device."""
    with CUDA:
        return create_network(ENTRIES[name].net, ENTRIES[name].arguments)


def fake_model(name: str) -> LoadedModel:
    """An entry with random weights on the fake GPU, in the backend that "auto" takes there."""
    entry = ENTRIES[name]
    net = create_on_gpu(name).eval().requires_grad_(False)
    module = InferenceModule(net, entry.tasks, entry.ood.feature_spec if entry.ood else None).eval()
    return LoadedModel(entry=entry, net=net, device=CUDA, backend=Backend(module, HALF, half_forward(module, CUDA)))


@pytest.mark.parametrize("name", ENTRIES)
def test_slices_stay_on_the_gpu_from_pixels_to_maps(fake_cuda, name):
    model = fake_model(name)
    preprocess = model.entry.preprocess
    images, placements = _place(model, np.zeros((70, 240, 200, 3), np.float32), (1.0, 1.2))
    assert images.device == CUDA
    outputs = [output for output in run_model(model, images) if output is not None]
    assert {output.device for output in outputs} == {CUDA}
    assert {output.dtype for output in outputs} == {torch.float32}
    assert {len(output) for output in outputs} == {70}
    if "segmentation" in model.entry.tasks:
        restored = preprocess.restore(outputs[0][0], placements[0])
        assert (restored.device, restored.shape) == (CUDA, (240, 200))
    if model.entry.ood:
        assert encoder_features(model, images, model.entry.ood.feature_spec).device == CUDA


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if "classification" in entry.tasks])
def test_class_activation_features_are_on_the_gpu(fake_cuda, name):
    model = fake_model(name)
    size = model.entry.preprocess.size
    logits, features = model.net.cam_features(torch.zeros(2, 3, size, size, device=CUDA))
    assert {tensor.device for tensor in (logits, *features)} == {CUDA}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_loss_of_a_training_step_is_on_the_gpu(fake_cuda, name):
    """Without the backward pass, which needs a real device, and MONAI's losses, which look at values."""
    entry = ENTRIES[name]
    net = create_on_gpu(name).train()
    size = entry.preprocess.size
    image, mask = torch.rand(4, 3, size, size, device=CUDA), torch.rand(4, 1, size, size, device=CUDA)
    with torch.autocast("cuda", torch.bfloat16):
        output = net(entry.preprocess.normalise(image).to(memory_format=torch.channels_last))
        if output.mask is not None:
            assert F.binary_cross_entropy_with_logits(output.mask.float(), mask).device == CUDA
        if output.verdict is not None:
            assert F.cross_entropy(output.verdict.float(), torch.ones(4, dtype=torch.long, device=CUDA)).device == CUDA


def test_slices_are_augmented_on_the_gpu(fake_cuda):
    """The transforms of this project; MONAI's own wrap tensors, which fake ones do not allow."""
    for transform in (RandChannelGammad("image", 1.0, gamma=(0.7, 1.4), gain=(0.7, 1.3)), RandReplaceWithFlaird("image", 1.0)):
        assert transform({"image": torch.rand(3, 64, 64, device=CUDA)})["image"].device == CUDA


def test_inference_takes_float16_and_training_bfloat16_where_the_card_has_it(monkeypatch):
    assert half_precision(CUDA) == torch.float16
    net = torch.nn.Identity()
    for has_it, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has_it=has_it: has_it)
        assert choose_precision("auto", net, 64, CUDA) == dtype
        assert choose_precision("float32", net, 64, CUDA) == torch.float32
    with pytest.raises(ValueError, match="use --precision float32"):
        choose_precision("bfloat16", net, 64, CUDA)
