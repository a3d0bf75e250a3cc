"""The commands as a user meets them: results on standard output, short messages for what cannot be done."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import selfsup.methods
from selfsup import cli
from selfsup.catalogue import catalogue
from selfsup.config.flags import flag_names
from selfsup.config.recipe_files import load_recipe, recipe_names
from selfsup.data.sampling import TwoDomains
from selfsup.models.timm import Timm
from selfsup.stages import commands
from selfsup.storage import checkpoint

SHORT = "--batch-size 16 --epochs 1 --device cpu --workers 0 --evaluate-every 0".split()
SMALL = ["--encoder.width", "0.25", *SHORT]


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Run a command in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["selfsup", *map(str, words)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The JSON object on the last line of standard output."""
    last: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return last


def photographs(folder: Path, count: int, broken: int = 0) -> Path:
    """`count` JPEG files of many sizes, nested and without labels; the first `broken` are cut short."""
    generator = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"album{number % 3}" / f"day{number % 2}" / f"{number:04}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (40 + number % 9, 60 - number % 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        if number < broken:
            path.write_bytes(path.read_bytes()[:300])
    return folder


@pytest.mark.parametrize("canvas", ["None", "48"])
def test_a_folder_of_photographs_without_labels(
    canvas: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photographs(tmp_path / "photos", 101, broken=1)
    sizes = "--augment.views.0.size 24 --augment.views.1.size 24 --encoder.depth small --data.canvas".split()
    words = ["pretrain", "simclr_folder", "--data.root", root, "--folder", tmp_path / "run", *SMALL, *sizes, canvas]
    assert call(monkeypatch, *words, "--data.labels", "none") == 0
    assert result(capsys)["reason"] == "finished"
    unreadable = json.loads((tmp_path / "run" / "unreadable.json").read_text())
    assert [Path(name).name for name in unreadable] == ["0000.JPG"]
    assert (tmp_path / "run" / "encoder.safetensors").is_file()
    assert call(monkeypatch, "knn", tmp_path / "run") == 2
    assert "needs labels: data.labels is none; give --data.labels auto" in capsys.readouterr().err


def test_pretrain_then_knn_then_linear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = ["pretrain", "moco_v2_cifar10_cpu", "--data.root", "shapes:200", "--data.limit", "None", "--folder", run]
    assert call(monkeypatch, *words, *SMALL) == 0
    finished = result(capsys)
    assert (finished["step"], finished["reason"]) == (12, "finished")
    assert call(monkeypatch, "knn", run, "--k", 20, "--temperature", 0.07) == 0
    knn = result(capsys)
    assert (knn["k"], knn["temperature"], knn["split"]) == (20, 0.07, "train to test")
    kept = json.loads((run / "results" / "knn.json").read_text())["results"]
    assert [knn["knn_top1"]] == [entry["figures"]["knn_top1"] for entry in kept]
    assert call(monkeypatch, "retrieval", run, "--mode", "leave_one_out") == 0
    found = result(capsys)
    assert found["query_images"] == 200
    kept = json.loads((run / "results" / "retrieval.json").read_text())["results"][0]
    assert found == {**kept["figures"], **kept["protocol"], **kept["about"], "reason": "finished", "signal": 0}
    assert call(monkeypatch, "linear", run / "encoder.safetensors", "--data.root", "shapes:200") == 0
    linear = result(capsys)
    assert linear["encoder_sha256"] == knn["encoder_sha256"] == finished["encoder_sha256"]
    for name in ("config.json", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints", "encoder.json"):
        assert (run / name).exists(), name
    boards = list((run / "tensorboard").iterdir())
    assert boards
    assert boards[0].stat().st_size > 10_000  # with a grid of views, not scalars alone


def npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def bad_roots(tmp_path: Path) -> dict[str, tuple[Path | str, str]]:
    """Data that cannot be used: by name, where it is and what the message must say."""
    empty = tmp_path / "empty"
    empty.mkdir()
    hopeless = tmp_path / "hopeless"
    hopeless.mkdir()
    for number in range(20):
        (hopeless / f"{number}.jpg").write_bytes(b"not a picture")
    lonely = photographs(tmp_path / "lonely", 1)
    images = np.zeros((40, 8, 8, 3), dtype=np.uint8)
    npz(tmp_path / "float.npz", x_train=images.astype(np.float32), y_train=np.zeros(40))
    npz(tmp_path / "flat.npz", x_train=images.reshape(40, -1), y_train=np.zeros(40, dtype=int))
    (tmp_path / "nothing.zip").write_bytes(b"PK\5\6" + bytes(18))
    return {
        "unset": ("", "--data.root"),
        "missing": (tmp_path / "absent", "no file or folder"),
        "empty": (empty, "no image in"),
        "unreadable": (hopeless, "readable"),
        "one image": (lonely, "at least 2"),
        "npz of floats": (tmp_path / "float.npz", "float32"),
        "npz of flat rows": (tmp_path / "flat.npz", "(40, 192)"),
        "zip without images": (tmp_path / "nothing.zip", "nothing.zip"),
        "small": ("shapes:10", "larger than the data set"),
    }


def assert_short_message(code: int, error: str, *named: str) -> None:
    assert code == 2, error
    lines = error.partition("selfsup: ")[2].splitlines()  # what was found before is told before
    assert "Traceback" not in error
    assert 1 <= len(lines) <= 3, error
    for name in named:
        assert name in error


@pytest.mark.parametrize(
    "case",
    [
        "unset",
        "missing",
        "empty",
        "unreadable",
        "one image",
        "npz of floats",
        "npz of flat rows",
        "zip without images",
        "small",
    ],
)
def test_bad_data_is_named(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, named = bad_roots(tmp_path)[case]
    words = [
        "pretrain",
        "simclr_cifar10_cpu",
        "--data.root",
        root,
        "--data.limit",
        "None",
        "--folder",
        tmp_path / "run",
    ]
    code = call(monkeypatch, *words, *SMALL)
    assert_short_message(code, capsys.readouterr().err, named)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["pretran"], "did you mean pretrain?"),
        (["pretrain"], "the recipe is missing"),
        (["pretrain", "simclr_cifar"], "did you mean simclr_cifar10"),
        (["pretrain", "absent.py"], "absent.py"),
        (["pretrain", "simclr_cifar10", "--epoch", "3"], "did you mean --epochs?"),
        (["pretrain", "simclr_cifar10", "--epochs", "x"], "--epochs"),
        (["pretrain", "simclr_cifar10", "--epochs", "0"], "epochs is 0"),
        (["pretrain", "simclr_cifar10", "--method.temperature", "-1", "--data.root", "shapes:600"], "temperature"),
        (["pretrain", "moco_v2_cifar10", "--method.queue-size", "64", "--data.root", "shapes:600"], "queue_size is 64"),
        (["knn"], "run folder"),
        (["knn", "absent"], "no encoder at absent"),
        (["linear", "absent", "--protocol", "moko"], "moko"),
        (["recipes", "more"], "more"),
    ],
)
def test_bad_words_are_named(
    words: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_short_message(call(monkeypatch, *words), capsys.readouterr().err, named)
    assert list(tmp_path.iterdir()) == []


def test_no_room_for_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = checkpoint.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    words = ["pretrain", "simclr_cifar10_cpu", "--data.root", "shapes:40", "--data.limit", "None"]
    code = call(monkeypatch, *words, "--folder", tmp_path / "run", *SMALL)
    error = capsys.readouterr().err
    assert code == 2
    assert "bytes needed beside a reserve of 1048576, 1000 free" in error
    assert "Traceback" not in error


def test_an_unexpected_error_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        return int("three")

    monkeypatch.setattr(commands, "_recipes", lambda arguments: broken())
    with pytest.raises(ValueError, match="three"):
        call(monkeypatch, "recipes")


def test_help_answers_at_once() -> None:
    seconds = []
    for _ in range(3):
        start = os.times()
        done = subprocess.run([sys.executable, "-m", "selfsup", "--help"], capture_output=True, text=True, check=True)
        spent = os.times()  # of the processor, so that other work on the machine does not count
        seconds.append(spent.children_user + spent.children_system - start.children_user - start.children_system)
    assert "selfsup pretrain RECIPE" in done.stdout
    assert min(seconds) < 0.5


def test_accelerate_starts_as_many_processes_as_were_asked_for(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
    launcher += ["--main_process_port", "0"]  # a free one: other tests start processes, too
    words = "-m selfsup pretrain simclr_cifar10_cpu --data.root shapes:64 --data.limit None".split()
    command = [*launcher, "--use_fsdp", "--fsdp_version", "2", *words, *SMALL]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # The launcher behind accelerate would take --start for an abbreviation of a flag of its own.
    done = subprocess.run(
        [*command, "--folder", str(tmp_path / "run"), "--start", ""],
        capture_output=True,
        text=True,
        timeout=180,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["reason"] == "finished"
    launches = json.loads((tmp_path / "run" / "environment.json").read_text())["launches"]
    assert [launch["processes"] for launch in launches] == [2]
    assert "weights are divided among 2 processes" in done.stderr
    judge = [*launcher, "-m", "selfsup", "knn", str(tmp_path / "run"), "--k", "5"]
    judged = subprocess.run(judge, capture_output=True, text=True, timeout=180, env=environment)
    assert judged.returncode == 0, judged.stderr
    *before, line = judged.stdout.splitlines()  # both encode their share, one tells
    assert not any(other.startswith("{") for other in before)  # what else stands there is of torch's own libraries
    assert json.loads(line)["bank_images"] == 64


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--clip-norm -1", "clip_norm is -1"),
        ("--optimizer.weight-decay -1", "weight_decay is -1"),
        ("--optimizer.momentum -1", "momentum is -1"),
        ("--knn-k 0", "knn_k is 0"),
        ("--knn-temperature 0", "temperature is 0"),
        ("--data.canvas 0", "data.canvas is 0"),
        ("--data.limit 0", "data.limit is 0"),
        ("--max-steps 0", "max_steps is 0"),
        ("--augment.views.0.crop-scale 0 1", "give"),
        ("--data.root " + 300 * "y", "yyy"),
    ],
)
def test_bad_values_are_named_with_a_remedy(
    flags: str, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = call(monkeypatch, "pretrain", "simclr_cifar10", "--data.root", "shapes:600", *flags.split())
    assert_short_message(code, capsys.readouterr().err, named)
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_the_run_folder_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("")
    words = ["pretrain", "simclr_cifar10", "--data.root", "shapes:600", "--folder", tmp_path / "run"]
    assert_short_message(call(monkeypatch, *words), capsys.readouterr().err, "is a file")


def test_a_path_where_flags_are_wanted_is_taken_for_the_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "pretrain", "simclr_folder", "/photos") == 2
    assert "/photos is no flag; to name the images give --data.root /photos\n" in capsys.readouterr().err
    assert call(monkeypatch, "knn", "runs/none", "/photos") == 2
    assert "give --data.root /photos" in capsys.readouterr().err


def test_unlabelled_test_images_do_not_end_a_labelled_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("train/a/1", "train/a/2", "train/b/1", "train/b/2", "test/1", "test/2"):
        path = tmp_path / "data" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 40, 3), len(name), dtype=np.uint8)).save(path)
    words = ["pretrain", "simclr_folder", "--data.root", tmp_path / "data", "--folder", tmp_path / "run", *SMALL]
    sizes = "--augment.views.0.size 24 --augment.views.1.size 24 --encoder.depth small --batch-size 4".split()
    assert call(monkeypatch, *words, *sizes, "--evaluate-every", 1) == 0
    captured = capsys.readouterr()
    assert "test images have no labels" in captured.err
    assert "knn_top1" in json.loads(captured.out.splitlines()[-1])


# What makes a recipe small enough for a test, where it has such a field.
NARROW = {
    "--encoder.width": 0.25,
    "--encoder.depth": "small",
    "--encoder.sk-ratio": 0,  # selective kernels need bottleneck blocks
}
NARROW_TRANSFORMER = {
    "--encoder.image-size": 24,
    "--encoder.patch-size": 8,
    "--encoder.embed-dim": 32,
    "--encoder.depth": 1,
    "--encoder.num-heads": 2,
}
SMALLER = {
    "--data.limit": "None",
    "--data.canvas": "None",
    "--augment.views.0.size": 24,
    "--augment.views.1.size": 24,
    "--sampling.steps-per-epoch": 6,
    "--sampling.per-class": 4,
    "--method.queue-size": 64,
    "--method.memory-size": 64,
    "--method.hardest": 16,
    "--method.pairs": 8,
    "--method.with-query": 4,
    "--method.num-negatives": 16,
    "--method.k1": 10,
}


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_takes_five_steps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(name)
    known = flag_names(recipe)
    words = ["pretrain", name, "--data.root", "shapes:96", "--folder", tmp_path / "run", "--max-steps", 5, *SHORT]
    if isinstance(recipe.encoder, Timm.Config):
        pytest.importorskip("timm")
    narrow = NARROW_TRANSFORMER if isinstance(recipe.encoder, Timm.Config) else NARROW
    words += [word for flag, value in (narrow | SMALLER).items() if flag in known for word in (flag, value)]
    if isinstance(recipe.sampling, TwoDomains):
        words += ["--data.labelled-root", "shapes:64"]
    assert call(monkeypatch, *words) == 0
    finished = result(capsys)
    assert (finished["step"], finished["reason"]) == (5, "max-steps")


def test_the_table_of_methods_names_every_recipe_and_every_method(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "methods") == 0
    table = capsys.readouterr().out
    files = {path.stem for path in (Path(selfsup.methods.__file__).parent).glob("*.py")}
    for module in files - {"__init__", "base", "pair_loss", "pair_losses"}:
        assert f"selfsup.methods.{module}." in table
    assert all(entry.about.title and entry.about.papers for entry in catalogue())
    for name in recipe_names():
        assert len(re.findall(rf"\b{name}\b", table)) == 1
