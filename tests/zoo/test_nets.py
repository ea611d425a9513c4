"""The networks: the paper's table recounted, every shape walked."""

from copy import deepcopy

import pytest
import torch

from brainmri.zoo.entry import count_parameters
from brainmri.zoo.nets import NETWORKS, EffUNet, EffUNetEnsemble, ResNet50Classifier, ResUNet, create_network
from brainmri.zoo.nets.efficientnet_lite import SCALES
from brainmri.zoo.nets.effunet import logits_of_mean_probability
from brainmri.zoo.nets.resunet import ResBlock, UpBlock

# Table 2 of the paper, for a 256 x 256 input: block, channels, side
RESUNET_SHAPES = {
    "stem": (16, 256),
    "encoder.0": (32, 128),
    "encoder.1": (64, 64),
    "encoder.2": (128, 32),
    "bottleneck": (256, 16),
    "decoder.0": (128, 32),
    "decoder.1": (64, 64),
    "decoder.2": (32, 128),
    "decoder.3": (16, 256),
    "head": (1, 256),
}
# what enters each decoder block: the paper's Concatenate rows
CONCATENATED = {"decoder.0": 384, "decoder.1": 192, "decoder.2": 96, "decoder.3": 48}


def test_resunet_has_the_papers_parameters():
    net = ResUNet()
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 1_206_129
    assert count_parameters(net) == 1_210_513
    assert sum(p.numel() for p in net.head.parameters()) == 17


def test_resunet_has_the_papers_shapes():
    net = ResUNet().eval()
    seen, entered = {}, {}

    def watch(name):
        def hook(_module, inputs, output):
            seen[name] = (output.shape[1], output.shape[2])
            entered[name] = sum(part.shape[1] for part in inputs)

        return hook

    for name in RESUNET_SHAPES:
        net.get_submodule(name).register_forward_hook(watch(name))
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, 256, 256)).mask.shape == (1, 1, 256, 256)
    assert seen == RESUNET_SHAPES
    assert {name: entered[name] for name in CONCATENATED} == CONCATENATED


def test_up_blocks_equal_upsampling_and_concatenation():
    torch.manual_seed(0)
    block = UpBlock(8 + 4, 6).eval()
    as_written = ResBlock(8 + 4, 6).eval()
    as_written.load_state_dict(block.state_dict())
    x, skip = torch.randn(2, 8, 5, 7), torch.randn(2, 4, 10, 14)
    joined = torch.cat([x.repeat_interleave(2, 2).repeat_interleave(2, 3), skip], dim=1)
    with torch.inference_mode():
        torch.testing.assert_close(block(x, skip), as_written(joined))


def test_resunet_batch_norm_is_keras_default():
    for module in ResUNet().modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.momentum, module.eps) == (0.01, 1e-3)


@pytest.mark.slow
def test_resnet50_head_is_the_papers():
    net = ResNet50Classifier()
    kinds = [type(layer).__name__ for layer in net.head]
    assert kinds == ["AvgPool2d", "Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    assert net.head[2].in_features == 2048 * 2 * 2  # an 8 x 8 map under a 4 x 4 pool
    assert net.eval()(torch.zeros(2, 3, 256, 256)).verdict.shape == (2, 2)


def test_a_frozen_base_does_not_change():
    net = ResNet50Classifier(64, 2, frozen=True).train()
    before = {k: v.clone() for k, v in net.base.state_dict().items()}
    optimiser = torch.optim.SGD((p for p in net.parameters() if p.requires_grad), lr=0.1)
    net(torch.randn(4, 3, 64, 64)).verdict.square().sum().backward()
    optimiser.step()
    assert all(torch.equal(v, before[k]) for k, v in net.base.state_dict().items())
    assert all(p.grad is not None for p in net.head.parameters())


def test_an_unfrozen_base_is_trained():
    net = ResNet50Classifier(64, 2).train()
    net(torch.randn(4, 3, 64, 64)).verdict.square().sum().backward()
    assert all(p.grad is not None for p in net.base.parameters())


@pytest.mark.parametrize(("size", "pool"), [(144, 4), (160, 4), (100, 3)])
def test_a_pool_that_does_not_tile_is_refused(size, pool):
    with pytest.raises(ValueError, match="does not tile"):
        ResNet50Classifier(size, pool)


def test_effunet_gives_mask_and_verdict_from_one_pass():
    net = EffUNet().eval()
    image = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        mask, verdict, _ = net(image)
    assert mask.shape == (2, 1, 64, 96)
    assert verdict.shape == (2, 2)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("EffUNet", {}),
        ("EffUNet", {"attributes": {"plane": ["axial", "coronal"], "turn": ["0", "180"]}}),
        ("EffUNetEnsemble", {"members": 2}),
        ("ResUNet", {}),
        ("ResUNet", {"attributes": {"plane": ["axial", "coronal"], "turn": ["0", "180"]}}),
        ("ResNet50Classifier", {"image_size": 64, "pool": 2}),
    ],
)
def test_every_network_follows_the_contract(name, arguments):
    net = deepcopy(create_network(name, arguments)).eval()  # as weights are averaged and exported
    image = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        output, features = net(image), net.forward_features(image)
        from_features = net.forward_head(features)
    present = ("segmentation" in net.tasks, "classification" in net.tasks, bool(net.attributes))
    for expected, logits, same in zip(present, output, from_features, strict=True):
        assert (logits is not None) == expected
        assert logits is same is None or torch.equal(logits, same)
    assert [found.shape[1] for found in features] == net.feature_channels
    if output.verdict is None:
        with pytest.raises(NotImplementedError, match="no verdict"):
            net.cam_features(image)
        return
    with torch.inference_mode():
        verdict, maps = net.cam_features(image)
    assert torch.equal(verdict, output.verdict)
    assert {found.shape[0] for found in maps} == {2}


def test_every_registered_network_is_tested_above():
    assert set(NETWORKS) == {"EffUNet", "EffUNetEnsemble", "ResUNet", "ResNet50Classifier"}


def test_an_ensemble_averages_its_members():
    net = EffUNetEnsemble(3).eval()
    image = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        output = net(image)
        masks, verdicts, _ = zip(*(member(image) for member in net.members), strict=True)
        assert not torch.equal(masks[0], masks[1])
        assert torch.allclose(output.mask.sigmoid(), sum(mask.sigmoid() for mask in masks) / 3, atol=1e-6)
        assert torch.allclose(output.verdict, sum(verdicts) / 3, atol=1e-6)
        assert [found.shape for found in net.cam_features(image)[1]] == [(2, 112, 4, 6)] * 3
        first = net.members[0].forward_features(image)
        assert all(torch.equal(one, other) for one, other in zip(first, net.forward_features(image), strict=False))


def test_the_mean_of_probabilities_is_exact_near_0_and_1():
    near = torch.tensor([[-25.0, 25.0, -90.0, 0.0], [1.0, 25.0, -90.0, 0.0]])
    found = logits_of_mean_probability(near)
    assert torch.allclose(found[[0, 3]].sigmoid(), torch.tensor([0.731059 / 2, 0.5]), atol=1e-6)
    assert torch.allclose(found[1:3], torch.tensor([25.0, -90.0]))


@pytest.mark.slow
@pytest.mark.parametrize("encoder", list(SCALES))
def test_effunet_equals_its_reference_implementations(encoder):
    """To the bit, in training too: timm's encoder in the U-Net of segmentation_models.pytorch, by the same names."""
    from segmentation_models_pytorch import Unet

    ours = EffUNet(encoder)
    theirs = Unet(
        f"tu-tf_efficientnet_{encoder}", encoder_weights=None, decoder_channels=(128, 64, 48, 24, 12),
        aux_params={"classes": 2, "pooling": "avg", "dropout": 0.0},
    )  # fmt: skip
    assert list(ours.unet.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.unet.state_dict(), strict=True)
    ours.unet.classification_head[2].p = 0.0
    image = torch.randn(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    for training in (True, False):
        expected, found = theirs.train(training)(image), ours.train(training)(image)
        assert all(torch.equal(one, other) for one, other in zip(expected, found[:2], strict=True))
    pairs = zip(theirs.state_dict().values(), ours.unet.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_effunet_on_an_unknown_encoder_is_refused():
    with pytest.raises(ValueError, match="unknown encoder 'b7'; choose from lite0, lite2"):
        EffUNet("b7")


def test_effunet_is_initialised_like_its_reference_implementations():
    from segmentation_models_pytorch import Unet

    torch.manual_seed(0)
    aux = {"classes": 2, "pooling": "avg", "dropout": 0.2}
    theirs = Unet("tu-tf_efficientnet_lite0", encoder_weights=None, decoder_channels=(128, 64, 48, 24, 12), aux_params=aux)
    for (name, one), other in zip(theirs.state_dict().items(), EffUNet().unet.state_dict().values(), strict=True):
        if one.numel() > 2000:
            assert float(one.std()) == pytest.approx(float(other.std()), rel=0.1), name
