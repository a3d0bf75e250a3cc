"""`selfsup doctor`: what is missing is said with its remedy, and only what selfsup needs ends it with 1."""

import configparser
import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from selfsup import cli
from selfsup.packages import EXTRAS, LOST, NEEDED, PACKAGES
from selfsup.stages import doctor, installed
from selfsup.stages.doctor import examined
from tests.support.places import ROOT


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    monkeypatch.setattr(sys, "argv", ["selfsup", "doctor"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), json.loads(said.out), said.err


def test_a_whole_installation_is_said_to_be_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found, said = call(monkeypatch, capsys)
    assert (code, found["broken"]) == (0, [])
    assert said.endswith("all that selfsup needs is there, and works\n")
    assert found["packages"]["torch"] == torch.__version__
    assert found["devices"][0] == {"device": "cpu", "threads": torch.get_num_threads(), "works": True}
    assert found["auto"] in ("cpu", "cuda", "mps")
    assert found["cores"] >= 1
    assert found["shared_memory_bytes"] >= found["shared_memory_free_bytes"]
    assert f"selfsup {found['selfsup']}, Python {found['python']}" in said


def test_what_is_absent_and_not_needed_is_said_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("faiss", "kornia", "tensorboard", "pyarrow", "timm"):
        monkeypatch.setitem(sys.modules, name, None)
    code, found, said = call(monkeypatch, capsys)
    assert (code, found["broken"]) == (0, [])
    assert len(found["packages_missing"]) == 3
    for name in ("faiss-cpu", "kornia", "tensorboard"):
        assert re.search(rf"^{name} is not installed, so .*: pip install {name}$", said, re.MULTILINE)
    assert {"parquet", "timm"} <= found["extras_missing"].keys()
    assert "pip install 'selfsup[parquet]'" in said
    assert "timm" not in found["extras"]
    assert "faiss searches" not in said


def test_what_is_needed_and_absent_ends_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("scipy", "rich"):
        monkeypatch.setitem(sys.modules, name, None)
    code, found, said = call(monkeypatch, capsys)
    assert code == 1
    assert found["broken"] == [f"{name} is not installed: pip install --upgrade {name}" for name in ("rich", "scipy")]
    assert "broken: scipy is not installed: pip install --upgrade scipy\n" in said
    assert "all that selfsup needs" not in said


def test_a_package_that_is_there_and_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def imported(name: str, package: str | None = None) -> object:
        if name in ("numba", "accelerate"):
            raise OSError("libfoo.so.3: cannot open shared object file\nmore lines")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", imported)
    found = examined()
    why = "cannot be imported (OSError: libfoo.so.3: cannot open shared object file)"
    assert found.broken == [f"accelerate {why}: pip install --upgrade accelerate"]
    assert [sentence for sentence in found.said if sentence.startswith(f"numba {why}, so ")]


def test_an_old_package_is_named_with_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        installed.metadata, "requires", lambda name: ["torch>=900", "numpy>=1", "absent>=1; extra == 'dev'"]
    )
    assert examined().broken == [
        f"torch is {installed.metadata.version('torch')}, and selfsup needs torch>=900: pip install 'torch>=900'"
    ]


def test_a_cache_folder_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    code, found, said = call(monkeypatch, capsys)
    assert (code, found["cache_writable"]) == (0, False)
    assert f"the cache folder {tmp_path}/file/cache/selfsup cannot be written" in said
    assert "XDG_CACHE_HOME" in said
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "not" / "there"))
    assert examined().facts["cache_writable"]
    assert not (tmp_path / "not").exists(), "nothing is left behind"


def test_a_gpu_that_does_not_compute_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 80 << 30

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: "Test GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: Properties)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(doctor, "_driver", lambda: "600.1")
    monkeypatch.setattr(doctor, "_faiss", lambda found: None)
    monkeypatch.setattr(doctor, "_computes", lambda device: "RuntimeError: no kernel image is available")
    found = examined()
    assert found.broken == [
        "the GPU Test GPU (cuda:0) does not compute (RuntimeError: no kernel image is available); give --device cpu "
        "meanwhile"
    ]
    monkeypatch.setattr(doctor, "_computes", lambda device: "")
    found = examined()
    assert not found.broken
    assert [
        line for line in found.said if line.startswith("cuda:0 is a Test GPU with 80.0 GiB; it computes; bf16 works")
    ]
    assert found.facts["devices"][1]["memory_bytes"] == 80 << 30
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [line for line in examined().said if "there is an NVIDIA driver, 600.1, and torch" in line]


def test_the_tables_are_those_of_setup_cfg() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options"]["install_requires"].splitlines()
    installed = {re.split(r"[ ;>]", line)[0] for line in lines} - {"", "faiss-gpu"}
    assert {PACKAGES[module] for module in (*NEEDED, *LOST)} == installed
    extras = config["options.extras_require"]
    assert set(EXTRAS) == set(extras) - {"dev", "bench", "docs"}
    for name, (modules, _) in EXTRAS.items():
        listed = {line.split(">")[0].strip() for line in extras[name].splitlines()} - {""}
        assert {PACKAGES.get(module, module) for module in modules} == listed
