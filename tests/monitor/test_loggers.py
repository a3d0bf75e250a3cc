"""Loggers are told the same of a run, and whatever they do, training goes on as without them."""

import json
import random
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from selfsup.config.flags import parse
from selfsup.config.settings import dump, flat, restore, result_relevant
from selfsup.monitor import in_thread, loggers
from selfsup.monitor.in_thread import InThread
from selfsup.monitor.logger import Ending, Opening, Setting, kept_id
from selfsup.monitor.loggers import LOGGERS, Loggers, Onward
from selfsup.pretraining import Run, pretrain
from selfsup.storage import checkpoint
from selfsup.training import fitting
from tests.support.fake_services import install_mlflow, install_wandb
from tests.support.tiny import tiny_run

NOWHERE = Opening(Path("run"), 0, {})
EDGES = torch.linspace(-1, 1, 3)


class Listing:
    """A logger that lists what it is told, and fails at a call of one kind; it draws random numbers at each."""

    def __init__(self, fails_at: str = "") -> None:
        self.told: list[tuple[str, Any]] = []
        self.fails_at = fails_at
        self.threads: set[int] = set()

    def _note(self, kind: str, what: Any) -> None:
        self.threads.add(threading.get_ident())
        if kind == self.fails_at:
            raise ConnectionError("nobody answers\nand there is more to say")
        self.told.append((kind, what))

    def settings(self, values: dict[str, Setting]) -> None:
        self._note("settings", values)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._note("scalars", (step, values))

    def image(self, name: str, step: int, picture: Tensor) -> None:
        self._note("image", (name, step))

    def histogram(self, name: str, step: int, values: Tensor, edges: Tensor) -> None:
        self._note("histogram", (name, step, values.tolist()))

    def finish(self, ending: Ending) -> None:
        self._note("finish", ending)


def tell(several: Any) -> None:
    """One call of each kind."""
    several.settings({"seed": 0})
    several.scalars(1, {"loss": 0.5}, "train")
    several.image("views", 1, torch.zeros(3, 2, 2))
    several.histogram("spread", 1, torch.tensor([0.5]), EDGES)
    several.finish("finished")


def several_of(monkeypatch: pytest.MonkeyPatch, *kept: Listing) -> Loggers:
    names = list(LOGGERS)[: len(kept)]
    for name, logger in zip(names, kept, strict=True):
        monkeypatch.setitem(loggers.LOGGERS, name, lambda opening, logger=logger: logger)
    return Loggers(names, NOWHERE)


KINDS = ("settings", "scalars", "image", "histogram", "finish")


@pytest.mark.parametrize("kind", KINDS)
def test_one_that_fails_is_told_nothing_more_and_others_are(
    kind: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, failing = Listing(), Listing(fails_at=kind)
    tell(several_of(monkeypatch, failing, whole))
    assert [called for called, _ in whole.told] == list(KINDS)
    assert [called for called, _ in failing.told] == list(KINDS[: KINDS.index(kind)])
    said = capsys.readouterr().err
    reason, remedy = said.splitlines()
    assert reason == "nothing is logged to tensorboard any more: nobody answers"
    assert remedy == "the figures are in metrics.jsonl all the same"


def test_one_that_cannot_be_opened_ends_no_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(opening: Opening) -> Listing:
        raise RuntimeError

    monkeypatch.setitem(loggers.LOGGERS, "tensorboard", refuse)
    assert pretrain(tiny_run(tmp_path / "run", max_steps=1))["step"] == 1
    assert "nothing is logged to tensorboard any more: RuntimeError\n" in capsys.readouterr().err


def test_values_that_are_not_finite_are_in_no_histogram(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Listing()
    several = several_of(monkeypatch, kept)
    several.histogram("spread", 1, torch.tensor([0.5, torch.nan, 1.0000001, -torch.inf]), EDGES)
    several.histogram("spread", 2, torch.tensor([torch.nan]), EDGES)
    assert kept.told == [("histogram", ("spread", 1, [0.5, 1.0]))]


# In a thread


def test_what_is_in_a_thread_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_thread, "WAITING", 3)
    opened, made = threading.Event(), Listing()

    def slow() -> Listing:
        opened.wait()
        return made

    logger = InThread(slow)
    for step in (1, 2, 3):
        logger.scalars(step, {"train/loss": 0.5})
    with pytest.raises(TimeoutError, match="too slow: 3 calls are waiting"):
        logger.scalars(4, {"train/loss": 0.5})
    opened.set()
    while len(made.told) < 3:
        logger._thread.join(0.01)
    logger.finish("stopped")
    assert made.told == [*(("scalars", (step, {"train/loss": 0.5})) for step in (1, 2, 3)), ("finish", "stopped")]
    assert made.threads == {logger._thread.ident}


def test_an_end_that_takes_too_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_thread, "PATIENCE", 0.01)
    never = threading.Event()
    logger = InThread(lambda: never.wait() and Listing())  # type: ignore[arg-type,return-value]  # it is never made
    with pytest.raises(TimeoutError, match="not all was sent within"):
        logger.finish("finished")
    never.set()


def test_what_fails_in_a_thread_is_raised_by_a_later_call() -> None:
    logger = InThread(lambda: Listing(fails_at="scalars"))
    logger.scalars(1, {})
    logger._thread.join()
    with pytest.raises(ConnectionError, match="nobody answers"):
        logger.scalars(2, {})
    last = InThread(lambda: Listing(fails_at="finish"))
    with pytest.raises(ConnectionError, match="nobody answers"):
        last.finish("finished")


# Steps that are taken again


def test_what_was_logged_before_is_not_logged_again() -> None:
    kept = Listing()
    logger = Onward(kept, {"loss": 8, "knn_top1": 4})
    logger.scalars(8, {"train/loss": 0.5, "eval/knn_top1": 0.5, "train/mine": 1.0})
    logger.scalars(4, {"train/loss": 0.5, "eval/knn_top1": 0.5})
    logger.scalars(9, {"train/loss": 0.25})
    for step in (8, 9):
        logger.image("views", step, torch.zeros(3, 2, 2))
        logger.histogram("spread", step, torch.zeros(1), EDGES)
    assert kept.told == [
        ("scalars", (8, {"eval/knn_top1": 0.5, "train/mine": 1.0})),
        ("scalars", (9, {"train/loss": 0.25})),
        ("image", ("views", 9)),
        ("histogram", ("spread", 9, [0.0])),
    ]


# Settings


def test_settings_are_one_level_of_names(tmp_path: Path) -> None:
    found = flat(result_relevant(tiny_run(tmp_path, "simclr")))
    assert found["kind"] == "pretrain"
    assert (found["method"], found["method.temperature"]) == ("simclr", 0.2)
    assert found["augment.views.1.mean"].split() == [str(value) for value in tiny_run(tmp_path).augment.views[1].mean]
    assert found["clip_norm"] == "None"
    assert "folder" not in found
    assert all(isinstance(value, int | float | str) for value in found.values())


def test_loggers_are_chosen_by_a_flag(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    assert run.log_to == ("tensorboard",)
    chosen = parse(run, ["--log-to", "wandb", "mlflow"], "x")
    assert chosen.log_to == ("wandb", "mlflow")
    assert restore(json.loads(json.dumps(dump(chosen))), Run) == chosen
    assert parse(run, ["--log-to"], "x").log_to == ()
    with pytest.raises(ValueError, match="log_to is wandb wandb; wanted each at most once, and of tensorboard, wandb"):
        parse(run, ["--log-to", "wandb", "wandb"], "x")
    with pytest.raises(ValueError, match="--log-to"):
        parse(run, ["--log-to", "comet"], "x")


@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("mlflow", "mlflow-skinny")])
def test_a_package_that_is_missing_is_said_before_anything_is_done(
    name: Any, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ValueError, match=f"--log-to {name} needs the package {package}, .*: pip install {package}$"):
        pretrain(tiny_run(tmp_path / "run", root="nowhere", log_to=(name,)))
    assert not (tmp_path / "run").exists()


def test_an_id_that_is_none_is_refused(tmp_path: Path) -> None:
    assert kept_id(tmp_path / "wandb.json") is None
    for content in ('{"id": "../x"}', '{"id": 3}', "{}"):
        (tmp_path / "wandb.json").write_text(content)
        with pytest.raises(ValueError, match="holds no id of a run; remove it"):
            kept_id(tmp_path / "wandb.json")


# Whole runs


def weights(folder: Path) -> dict[str, Tensor]:
    found, _ = checkpoint.load_newest(folder / "checkpoints")
    assert found is not None
    return found.tensors["method"]


def test_services_are_told_of_a_run_that_goes_on_as_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training is the same to the bit, and so are the program's random numbers."""
    pretrain(tiny_run(tmp_path / "plain", log_to=(), evaluate_every=1))
    assert not (tmp_path / "plain" / "tensorboard").exists()
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_NAME", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    module, run = install_wandb(monkeypatch)
    folder = tmp_path / "run"
    client = install_mlflow(monkeypatch, (folder / "mlflow").as_uri())
    wanted: dict[str, Any] = {"log_to": ("wandb", "mlflow"), "log_every": 1, "evaluate_every": 1}
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002  # the global one is looked at
    pretrain(tiny_run(folder, max_steps=5, **wanted))
    pretrain(tiny_run(folder, **wanted))
    assert before == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    for name, value in weights(tmp_path / "plain").items():
        assert torch.equal(weights(folder)[name], value), name
    _wandb_was_told(module, run, folder)
    _mlflow_was_told(client, folder)
    said = capsys.readouterr().err
    assert said.count("Weights & Biases: nothing is sent; later: wandb sync") == 1
    assert said.count(f"MLflow: run {'f' * 32} in file://") == 1
    assert "any more" not in said


def _wandb_was_told(module: Any, run: Any, folder: Path) -> None:
    first, second = (named for _, named in module.started.named("init"))
    assert (first["id"], first["resume"], first["mode"]) == (None, None, "offline")
    assert (first["project"], first["name"], first["dir"]) == ("selfsup", "run", str(folder))
    assert (second["id"], second["resume"]) == ("abc123", "allow")
    assert json.loads((folder / "wandb.json").read_text()) == {"id": "abc123"}
    assert run.config[0]["method.temperature"] == 0.2
    logged = [(values, named["step"]) for (values,), named in run.named("log")]
    assert [step for values, step in logged if "train/loss" in values] == list(range(1, 17))
    assert [step for values, step in logged if "eval/knn_top1" in values] == [8, 16]
    views = [values["views"][1] for values, _ in logged if "views" in values]
    assert len(views) == 3
    assert all(pixels.shape == (32, 128, 3) and pixels.dtype == np.uint8 for pixels in views)
    kind, counts, edges = next(values["similarity/negative"] for values, _ in logged if "similarity/negative" in values)
    assert (kind, counts.sum(), len(edges) - len(counts)) == ("histogram", 16 * 15, 1)
    assert [named["exit_code"] for _, named in run.named("finish")] == [0, 0]


def _mlflow_was_told(client: Any, folder: Path) -> None:
    assert [named["run_name"] for _, named in client.named("create_run")] == ["run"]
    assert client.named("update_run") == [(("f" * 32,), {"status": "RUNNING"})]
    batches = [named for (_,), named in client.named("log_batch")]
    parameters = [pair for named in batches for pair in named.get("params", ())]
    assert ("method.temperature", "0.2") in parameters
    assert len(dict(parameters)) == len(parameters)
    assert max(len(named.get("params", ())) for named in batches) <= 100
    metrics = [metric for named in batches for metric in named.get("metrics", ())]
    assert [step for name, _, _, step in metrics if name == "train/loss"] == list(range(1, 17))
    assert all(words[0] == "f" * 32 for called, words, _ in client.calls if called.startswith("log"))
    assert [named["step"] for _, named in client.named("log_image")] == [1, 6, 9]
    (_, content, place), _ = client.named("log_dict")[1]
    assert (place, sum(content["counts"])) == ("histograms/similarity/negative/step_00000001.json", 16 * 15)
    assert [named["status"] for _, named in client.named("set_terminated")] == ["KILLED", "FINISHED"]


def test_other_processes_than_the_main_one_log_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "distributed", SimpleNamespace(rank=lambda: 1))
    pretrain(tiny_run(tmp_path / "run", max_steps=1))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "tensorboard").exists()
