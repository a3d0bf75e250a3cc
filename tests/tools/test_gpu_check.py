"""tools.gpu_check: every part tells what it found at once, and none of them stops the others."""

import configparser
import io
import json
import os
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from selfsup.config.recipe_files import load_recipe
from tests.support.places import ROOT
from tests.support.tiny import METHODS
from tools import gpu_check
from tools.gpu import images, learning, needs, tests
from tools.gpu.asked import Asked


def asked(out: Path, seconds: float = 60.0, **changes: Any) -> Any:
    facts = {"part": "tried", "small": True, "data": (), "epochs": 2} | changes
    return Asked(out=out, end=time.monotonic() + seconds, **facts)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "report.jsonl").read_text().splitlines()]


def test_all_of_it_on_a_cpu(tmp_path: Path) -> None:
    words = ["--small", "--minutes", "8", "--out", str(tmp_path / "out"), "--data", str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "SELFSUP_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "tools.gpu_check", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment, cwd=tmp_path)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines == lines_of(tmp_path / "out")
    assert f"CIFAR-10 was not found in {tmp_path}: learning takes generated images" == lines[0]["data"]
    assert {line["check"].partition(":")[0] for line in lines[1:-1]} == set(gpu_check.PARTS)
    assert lines[-1] | {"seconds": 0} == {"check": "end", "ok": True, "failed": [], "seconds": 0}
    methods = {line["method"] for line in lines if "method" in line}
    assert methods == set(METHODS)
    assert [line["bit_equal"] for line in lines if "resume" in line] == [True]
    assert [line["epoch"] for line in lines if "knn_top1" in line and "epoch" in line] == [1, 2]
    assert any("the tests marked gpu are left out" in line.get("left_out", "") for line in lines[1:])


def fails(given: Any) -> bool:
    given.tell(figure=float("nan"))
    return False


def raises(given: Any) -> bool:
    raise RuntimeError("an illegal memory access was encountered")


def dies(given: Any) -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True


def hangs(given: Any) -> bool:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "600"])
    given.tell(child=child.pid)
    time.sleep(600)
    return True


def succeeds(given: Any) -> bool:
    given.tell(epochs=given.epochs)
    return True


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_no_part_stops_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("fails", "raises", "dies", "hangs", "succeeds")
    monkeypatch.setattr(gpu_check, "PARTS", {name: (__name__, name, 0.5) for name in names})
    monkeypatch.setattr(gpu_check, "LEAST", 0.1)
    monkeypatch.setattr(gpu_check, "GRACE", 0.3)
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", "--only", ",".join(names), "--out", str(tmp_path / "out")])
    monkeypatch.setattr(gpu_check, "tell_environment", lambda told: None)
    # The last part has all that is left, so that only the one that hangs is ended.
    with pytest.raises(SystemExit) as end:
        gpu_check.main()
    assert end.value.code == 1
    told = lines_of(tmp_path / "out")
    found = {line["check"]: line for line in told if "child" not in line}
    assert found["fails"]["figure"] == "nan"  # JSON has no number for it
    assert found["raises"]["error"] == "RuntimeError: an illegal memory access was encountered"
    assert found["dies"]["error"] == "its process ended with status -9"
    assert "did not come to its end in time" in found["hangs"]["error"]
    assert found["succeeds"] == {"check": "succeeds", "epochs": 100}
    assert found["end"]["failed"] == ["fails", "raises", "dies", "hangs"]
    (child,) = (line["child"] for line in told if "child" in line)
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_wrong_words_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for words, said in (
        (["--only", "step,speed"], "'step,speed' is not some of first,tests"),
        (["--only", "step,step"], "each once"),
        (["--minutes", "nan"], "nan minutes; give more than 0"),
        (["--data", str(tmp_path / "absent")], "absent; leave it out, or give a folder or file that is there"),
    ):
        monkeypatch.setattr(sys, "argv", ["gpu_check.py", *words])
        with pytest.raises(SystemExit) as end:
            gpu_check.parsed()
        assert end.value.code == 2
        assert said in capsys.readouterr().err


TESTS = {
    "test_a.py": "import no_such_package\ndef test_a(): pass\n",
    "test_b.py": "def test_wrong(): assert 1 == 2, 'one is not two'\ndef test_right(): pass\n",
    "test_c.py": "import pytest\ndef test_left_out(): pytest.importorskip('no_such_package')\ndef test_too(): pass\n",
}


def test_every_failing_test_is_named_and_none_stops_the_others(tmp_path: Path) -> None:
    for name, text in TESTS.items():
        (tmp_path / name).write_text(text)
    with open(tmp_path / "said", "w") as said:
        teller = tests.Teller(asked(tmp_path, stream=said.fileno()))
        code = tests.told(teller, ["-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)])
    assert code == pytest.ExitCode.TESTS_FAILED
    told = lines_of(tmp_path)
    assert [(line["failed"].rpartition("/")[2], line["when"]) for line in told] == [
        ("test_a.py", "collection"),
        ("test_b.py::test_wrong", "call"),
    ]
    assert "No module named 'no_such_package'" in told[0]["error"]
    assert "one is not two" in told[1]["error"]
    assert (teller.passed, teller.failed, sum(teller.skipped.values())) == (2, 2, 1)
    assert "no_such_package" in next(iter(teller.skipped))


def test_only_files_of_tests_have_the_mark() -> None:
    """A mark in a module that others import would not be found by the names of files."""
    for path in (ROOT / "tests").rglob("*.py"):
        if not path.name.startswith("test_"):
            assert tests.MARK not in path.read_text(), path
    assert "tests/contracts/test_on_gpu.py" in tests.files_with_gpu_tests()


def test_the_packs_may_lie_in_two_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFSUP_CACHE", str(tmp_path / "cache"))
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, name in ((first, "cifar10_a.zip"), (second, "cifar10_b.zip")):
        folder.mkdir()
        (folder / name).write_bytes(b"")
    assert images.found_cifar10([first]) == []
    assert images.found_cifar10([first, second]) == [first / "cifar10_a.zip", second / "cifar10_b.zip"]
    assert images.found_cifar10([first / "cifar10_a.zip", second]) == images.found_cifar10([second, first])
    np.savez(second / "cifar10.npz", x=np.zeros(1))
    assert images.found_cifar10([first, second]) == [second / "cifar10.npz"]
    assert images.as_array([second / "cifar10.npz"], tmp_path) == second / "cifar10.npz"


def test_epochs_are_told_once_with_the_targets_that_they_reach(tmp_path: Path) -> None:
    run = load_recipe("simclr_cifar10")
    metrics = tmp_path / "metrics.jsonl"

    def log(*knn: float) -> None:
        """Epochs of 10 steps of 512 images at 1,024 a second: 5 s each."""
        with open(metrics, "a") as file:
            for number, accuracy in enumerate(knn, start=len(metrics.read_text().splitlines()) // 2 + 1):
                file.write(json.dumps({"step": 10 * number, "images_per_second": 1024.0}) + "\n")
                file.write(json.dumps({"step": 10 * number, "knn_top1": accuracy}) + "\n")

    metrics.write_text("")
    log(0.5, 0.81)
    with learning.Epochs(asked(tmp_path), metrics, 10, run) as epochs:
        log(0.79, 0.86, 0.91)
    told = lines_of(tmp_path)
    assert [line["epoch"] for line in told if "knn_top1" in line] == [3, 4, 5]
    assert {line["seconds"] for line in told if "knn_top1" in line} == {5.0}
    reached = [(line["reached"], line["training_seconds"]) for line in told if "reached" in line]
    assert reached == [(0.85, 20.0), (0.9, 25.0)]  # 0.80 was reached in an earlier call
    assert epochs.told == 3


def closure(names: set[str]) -> set[str]:
    """Packages and what they require, by another way than the tool's: of all that is installed, level by level."""
    requires: dict[str, set[str]] = {}
    for found in metadata.distributions():
        wanted = [Requirement(line) for line in found.requires or []]
        kept = [w for w in wanted if not w.marker or w.marker.evaluate({"extra": ""})]
        requires.setdefault(canonicalize_name(found.name), {canonicalize_name(w.name) for w in kept})
    known: set[str] = set()
    level = {str(canonicalize_name(name)) for name in names}
    while level:
        known |= level
        level = set().union(*(requires.get(name, set()) for name in level)) - known
    return known


def test_what_it_needs_is_what_setup_cfg_declares_less_what_torch_and_accelerate_bring() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    text = "\n".join([config["options"]["install_requires"], *config["options.extras_require"].values()])
    wanted = [Requirement(line) for line in text.splitlines() if line.strip()]
    declared = {canonicalize_name(w.name) for w in wanted if not w.marker or w.marker.evaluate()}
    declared -= {"ruff", "mypy", "pytest-xdist", "faiss-gpu", "faiss-cpu", "numba"}
    expected = closure(declared) - closure({"torch", "accelerate"})
    assert needs.needed() == sorted(expected)
    assert {"kornia", "tyro", "pytorch-metric-learning"} <= expected
    assert not {"torch", "accelerate", "numpy", "psutil"} & expected
    # What the machine has is left out, however its list is written.
    lines = needs.table("numpy 2.5.2, scikit_learn==1.9\nSciPy\n").splitlines()
    named = {line.split()[0] for line in lines}
    assert {"scikit-learn", "scipy"} & named == set()
    assert named == expected - {"scikit-learn", "scipy"}
    assert next(line for line in lines if line.startswith("kornia ")).split()[1] == metadata.version("kornia")


def test_the_lines_are_whole_json(tmp_path: Path) -> None:
    with open(tmp_path / "said", "w") as file:
        asked(tmp_path, stream=file.fileno()).tell(text="größer", gap=float("inf"))
    line = json.loads(io.BytesIO((tmp_path / "said").read_bytes()).read())
    assert line == {"check": "tried", "text": "größer", "gap": "inf"}
