"""Networks for images of any number of channels, and weights of three in them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from selfsup.config.settings import dump, restore
from selfsup.models.channels import adapted, with_channels
from selfsup.models.encoder import Encoder
from selfsup.models.resnet import ResNet
from selfsup.models.timm import Timm

SMALL = ResNet.Config(depth="small", stem="small", width=0.25)
VIT = Timm.Config(name="vit_tiny_patch16_224", image_size=32, patch_size=16, embed_dim=24, depth=1, num_heads=2)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 7])
def test_adapted_as_timm_does(channels: int) -> None:
    manipulate = pytest.importorskip("timm.models._manipulate")
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(adapted(weight, channels), manipulate.adapt_input_conv(channels, weight.clone()))


def test_a_gray_image_gives_what_it_gave_as_colours() -> None:
    three, one = SMALL.build().eval(), replace(SMALL, in_channels=1).build().eval()
    one.load_state_dict(with_channels(three.state_dict(), one.state_dict(), "here"))
    gray = torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.allclose(one(gray), three(gray.expand(-1, 3, -1, -1)), atol=1e-5)


@pytest.mark.parametrize("stem", ["imagenet", "cifar", "cifar_padded", "small"])
@pytest.mark.parametrize("channels", [1, 5])
def test_every_stem_takes_the_channels(stem: Any, channels: int) -> None:
    config = ResNet.Config(depth="small", stem=stem, width=0.125, in_channels=channels)
    network = config.build()
    assert network(torch.zeros(2, channels, 32, 32)).shape == (2, network.feature_dim)
    assert config.channels == channels
    deep = ResNet.Config(depth=50, width=0.0625, variant="simclr", sk_ratio=0.0625, in_channels=channels).build()
    assert deep(torch.zeros(2, channels, 32, 32)).shape == (2, deep.feature_dim)


def test_three_channels_are_what_they_were() -> None:
    torch.manual_seed(0)
    first = SMALL.build().state_dict()
    torch.manual_seed(0)
    again = replace(SMALL, in_channels=3).build().state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert SMALL.label == "smallx0.25_small"
    assert replace(SMALL, in_channels=5).label == "smallx0.25_small_5ch"
    older = dump(SMALL)
    del older["in_channels"]
    assert restore(older, Encoder.Config) == SMALL  # settings of before there was a choice


def test_timm_takes_the_channels(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    three = VIT.build()
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file({n.removeprefix("network."): t for n, t in three.state_dict().items()}, path)
    config = replace(VIT, in_channels=5, pretrained=str(path))
    network = config.build()
    assert network.network.patch_embed.proj.weight.shape[1] == 5
    config.load_pretrained(network)
    found, held = network.state_dict(), three.state_dict()
    stem = "network.patch_embed.proj.weight"
    assert torch.equal(found[stem], adapted(held[stem], 5))
    assert all(torch.equal(found[name], held[name]) for name in held if name != stem)
    assert network.normalisation is None  # theirs is of colours
    assert network(torch.zeros(2, 5, 32, 32)).shape == (2, 24)


def test_weights_of_other_numbers_are_left_as_they_are() -> None:
    four, five = (replace(SMALL, in_channels=count).build().state_dict() for count in (4, 5))
    assert with_channels(four, five, "here")["conv1.weight"].shape[1] == 4


@pytest.mark.parametrize("count", [0, 2000])
def test_no_such_number_of_channels(count: int) -> None:
    for config in (SMALL, VIT):
        with pytest.raises(ValueError, match=f"in_channels is {count}; give the number of channels of the images"):
            replace(config, in_channels=count)  # type: ignore[type-var]
