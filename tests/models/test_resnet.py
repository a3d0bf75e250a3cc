import json

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from selfsup.models.blocks import Strided1x1
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from tests.support.figures import GOLDEN, assert_agree, golden, recipe_weight


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


TENSORS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
SELECTIVE = {"conv_main": "streams", "bn_main": "streams_bn", "conv_mix_in": "reduce", "bn_mix_in": "reduce_bn"}
STEM = {"conv": "conv1", "bn": "bn1", "conv_a": "conv1.0", "bn_a": "conv1.1", "conv_b": "conv1.3", "bn_b": "conv1.4"}


def our_key(role, kind, pooled):
    """The state key of one tensor of the weight recipe, "encoder." or "head." in front."""
    tensor = TENSORS.get(kind, "weight")
    place, *rest = role.split(".")
    if place == "head":
        layer = int(rest[0].removeprefix("layer")) - 1
        return f"head.layers.{layer}.{0 if rest[1] == 'dense' else 1}.{tensor}"
    if place == "stem":
        return f"encoder.{STEM.get(rest[0]) or {'conv_c': 'conv1.6', 'bn_c': 'bn1'}[rest[0]]}.{tensor}"
    block = f"encoder.layer{place.removeprefix('group')}.{int(rest[0].removeprefix('block')) - 1}"
    if rest[1] == "shortcut":
        return f"{block}.downsample.{(0 if rest[2] == 'conv' else 1) + pooled}.{tensor}"
    if rest[1] == "sk":
        return f"{block}.conv2.{SELECTIVE.get(rest[2], 'select')}.{tensor}"
    return f"{block}.{rest[1]}.{tensor}"


def recipe_weights(case, checksum):
    """Weights as the golden README generates them, in our layout under our names, once their sums are right."""
    recipe = json.loads((GOLDEN / "simclr_resnet_weights.json").read_text())[case]
    state = {}
    for tensor, sums in zip(recipe["tensors"], checksum, strict=True):
        weight = recipe_weight(tensor["index"], tensor["kind"], tensor["shape"], tensor["scale"])
        wide = weight.double()
        torch.testing.assert_close(torch.stack([wide.sum(), wide.square().sum()]), sums, rtol=1e-9, atol=1e-9)
        turned = weight.permute(3, 2, 0, 1) if weight.ndim == 4 else weight.T if weight.ndim == 2 else weight
        state[our_key(tensor["role"], tensor["kind"], recipe["sk_ratio"] > 0)] = turned.contiguous()
    return state


@pytest.mark.parametrize(("case", "depth", "sk_ratio"), [("r18", 18, 0), ("r50", 50, 0), ("r50sk", 50, 0.0625)])
def test_simclr_golden(case, depth, sk_ratio):
    g = golden(f"simclr_resnet_{case}")
    with torch.device("meta"):
        encoder = ResNet.Config(depth=depth, variant="simclr", sk_ratio=sk_ratio).build()
        head = Head.Config(hidden_layers=2, output_dim=128, batch_norm="all").build(encoder.feature_dim)
    whole = nn.ModuleDict({"encoder": encoder, "head": head})
    state = recipe_weights(case, g["weight_checksum"])
    missing, unexpected = whole.load_state_dict(state, assign=True, strict=False)
    assert not unexpected
    assert {key for key in missing if "num_batches" not in key} == {"head.layers.2.1.bias"}  # no beta: our frozen 0
    head.layers[2][1].bias = nn.Parameter(torch.zeros(128), requires_grad=False)

    stages = []
    for module in (encoder.maxpool, encoder.layer1, encoder.layer2, encoder.layer3, encoder.layer4):
        module.register_forward_hook(lambda module, inputs, output: stages.append(output))
    with torch.no_grad():
        features = encoder.eval()((g["image_uint8"].float() / 255).permute(0, 3, 1, 2))
        hidden = [head.eval().hidden(features, layer) for layer in (1, 2, 3)]
    assert [list(stage.permute(0, 2, 3, 1).shape) for stage in stages] == g["stage_shape"].tolist()
    assert_agree(torch.stack([stage.double().mean() for stage in stages]), g["stage_mean"], 2e-5, "stage means")
    stds = torch.stack([stage.double().std(correction=0) for stage in stages])
    assert_agree(stds, g["stage_std"], 2e-5, "stage deviations")
    assert_agree(features, g["features"], 2e-5, "features")
    for ours, name in zip(hidden, ("head_layer1", "head_layer2", "head_output"), strict=True):
        assert_agree(ours, g[name], 2e-5, name)


def test_simclr_shortcuts_and_first_weights():
    torch.manual_seed(0)
    ours = ResNet.Config(depth=18, stem="cifar", variant="simclr").build()
    plain = ResNet.Config(depth=18, stem="cifar").build()
    shortcuts = {key for key in ours.state_dict() if key not in plain.state_dict()}
    assert {key.rsplit(".", 2)[0] for key in shortcuts} == {"layer1.0.downsample"}
    for name, weight in ours.named_parameters():
        if weight.ndim == 4:
            std = weight[0].numel() ** -0.5
            assert weight.std().item() == pytest.approx(std, rel=0.05), name
            assert weight.abs().max() <= 2 * std / 0.8796, name  # a normal one would go to 4 deviations
    zero = [name for name, weight in ours.named_parameters() if weight.eq(0).all() and "weight" in name]
    assert zero == [f"layer{stage}.{block}.bn2.weight" for stage in (1, 2, 3, 4) for block in (0, 1)]


# Millions of parameters as the authors give them (Chen et al. 2020b, table 1).
@pytest.mark.parametrize(
    ("depth", "width", "sk_ratio", "millions"),
    [
        (50, 1, 0, 24),
        (50, 1, 0.0625, 35),
        (50, 2, 0, 94),
        (50, 2, 0.0625, 140),
        (101, 1, 0, 43),
        (152, 1, 0, 58),
        (152, 3, 0.0625, 795),
    ],
)
def test_simclr_sizes_are_the_published_ones(depth, width, sk_ratio, millions):
    with torch.device("meta"):
        net = ResNet.Config(depth=depth, width=width, sk_ratio=sk_ratio, variant="simclr").build()
    assert round(sum(p.numel() for p in net.parameters()) / 1e6) == millions


def test_depth_200():
    with torch.device("meta"):
        net = ResNet.Config(depth=200).build()
    assert [len(net.get_submodule(stage)) for (stage,) in net.stages] == [3, 24, 36, 3]
    assert 1 + 3 * sum((3, 24, 36, 3)) + 1 == 200  # with the classifier


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="depth is 20; allowed are 'small', 18, 34"):
        ResNet.Config(depth=20)
    with pytest.raises(ValueError, match="leaves no channel"):
        ResNet.Config(depth=18, width=0.001)
    with pytest.raises(ValueError, match=r"sk_ratio is -0.1; give 0"):
        ResNet.Config(variant="simclr", sk_ratio=-0.1)
    with pytest.raises(ValueError, match="add variant="):
        ResNet.Config(depth=50, sk_ratio=0.0625)
    with pytest.raises(ValueError, match="depth 18, whose blocks have no selective kernels"):
        ResNet.Config(depth=18, variant="simclr", sk_ratio=0.0625)


def test_a_strided_convolution_of_few_channels_is_an_ordinary_one() -> None:
    """Where torch's own would write beyond its memory: 2 channels, channels-last, differentiated."""
    torch.manual_seed(0)
    picked = Strided1x1(2, 4, 1, 2, bias=False).double()
    images = torch.randn(8, 2, 9, 7, dtype=torch.float64).requires_grad_()
    ordinary = F.conv2d(images, picked.weight, None, 2)
    found = picked(images)
    assert torch.allclose(found, ordinary, rtol=1e-12, atol=0)
    for leaf in (images, picked.weight):
        mine, theirs = (
            torch.autograd.grad(out.square().sum(), leaf, retain_graph=True)[0] for out in (found, ordinary)
        )
        assert torch.allclose(mine, theirs, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("width", "picked"), [(0.0625, 2), (0.25, 0), (1.0, 0)])
def test_only_narrow_nets_have_it(width: float, picked: int) -> None:
    net = ResNet.Config(depth="small", width=width, stem="small").build()
    assert sum(isinstance(module, Strided1x1) for module in net.modules()) == picked
