import pytest
import torch
import torchvision
from torch import nn

from selfsup.models.resnet import ResNet


def pair(depth):
    torch.manual_seed(0)
    reference = getattr(torchvision.models, f"resnet{depth}")()
    reference.fc = nn.Identity()
    with torch.device("meta"):
        ours = ResNet.Config(depth=depth).build()
    assert list(ours.state_dict()) == list(reference.state_dict())
    ours.load_state_dict({name: tensor.clone() for name, tensor in reference.state_dict().items()}, assign=True)
    return ours, reference


@pytest.mark.parametrize("depth", [18, 50])
def test_equals_torchvision(depth):
    ours, reference = pair(depth)
    images = torch.randn(3, 3, 33, 33)
    for training in (True, False):
        assert torch.equal(ours.train(training)(images), reference.train(training)(images))
    for (name, a), b in zip(ours.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(a, b), name  # running statistics after one pass
    assert ours.feature_dim == ours(images).shape[1]


@pytest.mark.parametrize("depth", [34, 101, 152])
def test_has_the_keys_and_shapes_of_torchvision(depth):
    with torch.device("meta"):
        reference = getattr(torchvision.models, f"resnet{depth}")()
        ours = ResNet.Config(depth=depth).build()
    reference.fc = nn.Identity()
    shapes = {name: tensor.shape for name, tensor in reference.state_dict().items()}
    assert {name: tensor.shape for name, tensor in ours.state_dict().items()} == shapes


def test_initial_weights_are_torchvisions():
    torch.manual_seed(0)
    ours = ResNet.Config(depth=18).build()
    for name, weight in ours.named_parameters():
        if "conv" in name:
            assert weight.std().item() == pytest.approx(
                (2 / (weight[0, 0].numel() * weight.shape[0])) ** 0.5, rel=0.05
            ), name
    branches = ResNet.Config(depth="small", stem="small", zero_init_residual=True).build()
    zero = [name for name, weight in branches.named_parameters() if weight.eq(0).all() and "weight" in name]
    assert zero == ["layer1.0.bn2.weight", "layer2.0.bn2.weight", "layer3.0.bn2.weight"]


@pytest.mark.parametrize(
    ("config", "size", "expected"),
    [
        (ResNet.Config(depth=18), 64, (512, 2)),
        (ResNet.Config(depth=18, stem="cifar"), 32, (512, 4)),
        (ResNet.Config(depth=18, stem="cifar", last_stride=1), 32, (512, 8)),
        (ResNet.Config(depth="small", stem="small"), 32, (128, 4)),
        (ResNet.Config(depth="small", stem="small", width=2.0), 32, (256, 4)),
        (ResNet.Config(depth=50, width=0.5), 64, (1024, 2)),
    ],
)
def test_stems_and_widths(config, size, expected):
    net = config.build().eval()
    channels, side = expected
    assert net.feature_dim == channels
    with torch.no_grad():
        assert net.feature_map(torch.randn(1, 3, size, size)).shape == (1, channels, side, side)


def test_the_small_one_is_small():
    net = ResNet.Config(depth="small", stem="small").build()
    assert sum(p.numel() for p in net.parameters()) == 307_360


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="depth is 20; allowed are 'small', 18, 34"):
        ResNet.Config(depth=20)
    with pytest.raises(ValueError, match="leaves no channel"):
        ResNet.Config(depth=18, width=0.001)
