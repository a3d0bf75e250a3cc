"""Settings and exports that are sealed well and cannot be meant are refused by name, and nothing else is judged."""

import os
import shutil
from pathlib import Path

import pytest

from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.newest import newest_encoder
from selfsup.pretraining import pretrain
from tests.support.sealed_files import put, rewrite
from tests.support.tiny import tiny_run


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after its first step."""
    folder = tmp_path_factory.mktemp("begun") / "run"
    pretrain(tiny_run(folder, root="shapes:32", max_steps=1))
    return folder


@pytest.fixture(scope="module")
def ended(begun: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shutil.copytree(begun, tmp_path_factory.mktemp("ended") / "run")
    pretrain(tiny_run(folder, root="shapes:32"))
    return folder


@pytest.mark.parametrize(
    ("keys", "number", "told"),
    [
        (("method", "head", "output_dim"), 2**63, "method.head.output_dim is 9223372036854775808"),
        (("method", "head", "output_dim"), 10**15, "method.head.output_dim is 1000000000000000"),
        (("method", "head", "output_dim"), 10**8, "method.head.output_dim is 100000000, and nothing in"),
        (("encoder", "width"), 1e300, "encoder.width = 1e.300"),
        (("batch_size",), 2**63, "batch_size is 9223372036854775808"),
    ],
)
def test_sizes_that_nothing_can_have_are_named(
    keys: tuple[str, ...], number: float, told: str, begun: Path, tmp_path: Path
) -> None:
    """An unfinished run is judged by its newest checkpoint, which is built as config.json says."""
    run = shutil.copytree(begun, tmp_path / "run")
    rewrite(run / "config.json", lambda content: put(number, ("run", *keys), content))
    with pytest.raises(ValueError, match=rf"config\.json.* {told}") as refused:
        newest_encoder(run)
    assert "frame #" not in str(refused.value)


def test_a_head_that_nothing_can_have_is_named(ended: Path, tmp_path: Path) -> None:
    run = shutil.copytree(ended, tmp_path / "run")
    rewrite(run / "encoder.json", lambda about: put(2**63, ("head", "config", "output_dim"), about))
    told = r"head.safetensors describe no network.* output_dim = 9223372036854775808: "
    with pytest.raises(ValueError, match=told) as refused:
        load_encoder(run)
    assert "frame #" not in str(refused.value)


@pytest.mark.parametrize("name", ["encoder.safetensors", "head.safetensors"])
def test_an_export_that_is_no_file_is_not_passed_over(name: str, ended: Path, tmp_path: Path) -> None:
    """Else the stage would judge another step, or another layer, than the run has exported."""
    run = shutil.copytree(ended, tmp_path / "run")
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(ValueError, match=f"{name} is a pipe"):
        newest_encoder(run)
