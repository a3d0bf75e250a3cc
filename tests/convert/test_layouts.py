"""Files of every layout give the features of their own networks, go out and come in again, and nothing is missed."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from selfsup.convert.conversion import Converted, convert
from selfsup.convert.layout import Refused
from selfsup.convert.options import Options
from selfsup.convert.reading import Contents, read
from selfsup.convert.table import inert, recognise, table
from selfsup.convert.writing import written
from selfsup.models.heads import Neck
from tests.support.foreign_files import FILES, File

pytest.importorskip("timm")
NAMES = sorted(FILES)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> "Files":
    return Files(tmp_path_factory.mktemp("files"))


class Files:
    """Each file is made, written and read once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: dict[str, tuple[File, Contents]] = {}

    def __call__(self, name: str) -> tuple[File, Contents]:
        if name not in self.made:
            file = FILES[name]()
            self.made[name] = file, read(file.write(self.folder / name), inert())
        return self.made[name]

    def converted(self, name: str, **changes: Any) -> tuple[File, Contents, Converted]:
        file, contents = self(name)
        return file, contents, convert(contents, Options(**file.options | changes))


@pytest.mark.parametrize("name", NAMES)
def test_features_are_those_of_the_network_itself(name: str, files: Files) -> None:
    file, contents, found = files.converted(name)
    assert found.layout.name == file.layout
    encoder = found.config.build()
    encoder.load_state_dict(found.tensors)
    images = torch.randn(3, 3, file.size, file.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        expected = file.features.double()(images)  # type: ignore[attr-defined]
        features = encoder.double().eval()(images)
        # Where a position is added to the class token, that sum is rounded to single precision.
        close = 1e-6 if "registers" in name else 1e-9
        assert torch.allclose(features, expected, rtol=close, atol=close)
        assert features.std() > 1e-3
        if file.embedding is not None:
            assert found.head is not None
            config, tensors = found.head
            head = config.build(encoder.feature_dim)
            head.load_state_dict(tensors)
            wanted = file.embedding.double()(expected)  # type: ignore[attr-defined]
            assert torch.allclose(head.double().eval()(features), wanted, rtol=1e-9, atol=1e-9)
        else:
            assert found.head is None
    kept = sum(found.left_out.values())
    assert kept < len(contents.tensors)


@pytest.mark.parametrize("name", NAMES)
def test_out_and_in_again_gives_equal_tensors(name: str, files: Files) -> None:
    file, contents, found = files.converted(name)
    flat = written(found.layout, found.config, found.tensors, found.head, found.network)
    registers = "registers" in name  # the class token's position was added to the token, and cannot be told apart
    plain = "two_domains" not in name  # they leave as networks of one domain
    if plain and not registers:
        for place, tensor in flat.items():
            assert torch.equal(tensor, contents.tensors[place]), place
    heads = getattr(found.config, "num_heads", None)
    again = convert(replace(contents, tensors=flat), Options(layout=file.layout, heads=heads))
    assert again.config == found.config
    assert again.tensors.keys() == found.tensors.keys()
    for place, tensor in found.tensors.items():
        assert torch.equal(again.tensors[place], tensor), place
    if found.head is not None:
        assert again.head is not None
        assert again.head[0] == found.head[0]
        for place, tensor in found.head[1].items():
            assert torch.equal(again.head[1][place], tensor), place


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_an_extra_and_a_misshapen_tensor_are_named(name: str, files: Files) -> None:
    file, contents, found = files.converted(name)
    names = [n for n in written(found.layout, found.config, found.tensors, None, found.network)]
    names = [n for n in names if n in contents.tensors and not n.endswith("num_batches_tracked")]
    options = Options(**file.options)
    for victim in (names[0], names[len(names) // 2]):
        fewer = {n: t for n, t in contents.tensors.items() if n != victim}
        with pytest.raises(Refused, match=rf"{re.escape(victim.rpartition('::')[2])}\b.* is missing"):
            convert(replace(contents, tensors=fewer), options)
    victim = names[len(names) // 2]
    shape = contents.tensors[victim].shape
    larger = contents.tensors | {victim: torch.ones(shape[0] + 1, *shape[1:])}
    with pytest.raises(Refused, match=rf"{re.escape(victim.rpartition('::')[2])} .*(has shape|does not fit)"):
        convert(replace(contents, tensors=larger), options)
    for stray in (f"{file.prefix}stray.weight", "stray"):
        more = replace(contents, tensors=contents.tensors | {stray: torch.ones(2, 3)})
        with pytest.raises(Refused, match=r"stray.* of shape \(2, 3\) belongs to no part of these files") as refused:
            convert(more, options)
        assert f"of the layout {file.layout}: " in str(refused.value)
        dropped = convert(more, replace(options, drop=(stray.rpartition("::")[2],)))
        assert dropped.left_out == found.left_out | {"what was to be dropped": 1}


def test_every_layout_has_a_file_here_and_is_told_from_all_others(files: Files) -> None:
    assert {files(name)[0].layout for name in NAMES} == set(table())
    for name in NAMES:
        file, contents = files(name)
        assert recognise(contents).layout.name == file.layout


def test_the_other_network_of_a_file_is_taken_where_it_is_asked_for(files: Files) -> None:
    _, contents, key = files.converted("moco", network="key")
    assert torch.equal(key.tensors["conv1.weight"], contents.tensors["state_dict::encoder_k.conv1.weight"])
    assert key.left_out["the query network"] > 100
    assert key.head is not None
    with pytest.raises(Refused, match="with a network teacher"):
        convert(contents, Options(network="teacher"))
    with pytest.raises(Refused, match="files of moco hold query, key, and no network teacher"):
        convert(contents, Options(network="teacher", layout="moco"))


def test_what_a_file_says_of_images_is_taken_and_what_a_person_says_counts_more(files: Files) -> None:
    fed = files.converted("hf_vit")[2].preprocessing
    assert (fed.mean, fed.std, fed.size, fed.fit) == ((0.5, 0.4, 0.3), (0.5, 0.6, 0.7), 32, "whole")
    assert fed.interpolation == "bicubic"
    told = files.converted("hf_vit", mean=(0.1, 0.2, 0.3), fraction=0.5)[2]
    assert (told.preprocessing.mean, told.preprocessing.fraction) == ((0.1, 0.2, 0.3), 0.5)
    assert told.preprocessing_from == "the configuration beside the weights, and --fraction, --mean"
    zero = files.converted("simclr")[2].preprocessing
    assert (zero.mean, zero.std, zero.interpolation) == ((0.0,) * 3, (1.0,) * 3, "bicubic_aliased")
    reid = files.converted("spcl")[2].preprocessing
    assert (reid.size, reid.fit) == ((256, 128), "whole")


def test_positions_are_resampled_to_another_size(files: Files) -> None:
    file, _, found = files.converted("dinov2", size=48)
    positions, before = found.tensors["network.pos_embed"], file.content["pos_embed"]
    assert positions.shape == (1, 37, 24)
    assert torch.equal(positions[:, 0], before[:, 0])
    grid = before[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)
    wanted = torch.nn.functional.interpolate(grid, size=(6, 6), mode="bicubic")
    assert torch.allclose(positions[:, 1:].transpose(1, 2).unflatten(2, (6, 6)), wanted)
    assert found.preprocessing.size == 48
    with pytest.raises(Refused, match="size is 50, and patches are of 8 pixels; give a multiple"):
        files.converted("dinov2", size=50)


def test_heads_are_asked_for_where_nothing_tells_them(files: Files) -> None:
    with pytest.raises(Refused, match="none is known of width 24; give --heads"):
        files.converted("timm", heads=None)
    with pytest.raises(Refused, match="heads is 5, which does not divide the width 24"):
        files.converted("timm", heads=5)


def test_a_head_that_no_settings_fit_is_left_out_with_a_word(files: Files) -> None:
    found = files.converted("barlow_twins")[2]
    assert found.left_out["the head"] == 13
    assert any(note.startswith("its head is left out: heads here have a bias") for note in found.notes)
    dropped = files.converted("moco", head="drop")[2]
    assert dropped.head is None
    assert dropped.left_out["the head"] == 4


def test_a_neck_is_a_head(files: Files) -> None:
    found = files.converted("spcl_two_domains")[2]
    assert found.head is not None
    assert isinstance(found.head[0], Neck.Config)
    assert found.left_out["batch norm of the source domain"] > 200


def test_half_precision_becomes_single_with_a_word(files: Files) -> None:
    _, contents = files("moco")
    halves = {name: t.half() if t.is_floating_point() else t for name, t in contents.tensors.items()}
    found = convert(replace(contents, tensors=halves), Options())
    assert all(t.dtype in (torch.float32, torch.int64) for t in found.tensors.values())
    assert "the weights are float16 and become float32" in found.notes


def test_any_network_of_timm_is_read_by_its_name(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    net = timm.create_model("convnext_atto", num_classes=3, depths=(1, 1, 1, 1), dims=(4, 8, 16, 32))
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(Refused, match=r"of no layout that is known.*\n.*\nthe nearest layouts"):
        convert(read(tmp_path / "weights.pth"), Options())
    with pytest.raises(Refused, match=r"has shape \(4, 3, 4, 4\); timm's convnext_atto wants"):
        convert(read(tmp_path / "weights.pth"), Options(architecture="convnext_atto"))
    small = timm.create_model("resnet10t", num_classes=3)
    torch.save(small.state_dict(), tmp_path / "small.pth")
    found = convert(read(tmp_path / "small.pth"), Options(architecture="resnet10t"))
    encoder = found.config.build()
    encoder.load_state_dict(found.tensors)
    images = torch.randn(2, 3, 64, 64)
    small.reset_classifier(0)
    with torch.no_grad():
        assert torch.allclose(encoder.eval()(images), small.eval()(images), atol=1e-5)
