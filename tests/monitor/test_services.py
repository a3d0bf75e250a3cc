"""Weights & Biases and MLflow themselves, with nothing sent: what of a run that went on is on the disk."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from selfsup.monitor.logger import LoggerName, Opening
from selfsup.monitor.mlflow import MLflow
from selfsup.pretraining import pretrain
from tests.support.fake_services import install_mlflow
from tests.support.tiny import tiny_run

STEPS = [2, 4]  # that are reported, in one launch each


def launched_twice(folder: Path, log_to: LoggerName) -> None:
    for last in (2, 4):
        pretrain(
            tiny_run(
                folder, root="shapes:64", epochs=1, max_steps=last, log_every=2, evaluate_every=1, log_to=(log_to,)
            )
        )


def test_mlflow_holds_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    folder = tmp_path / "run"
    launched_twice(folder, "mlflow")
    client = mlflow.MlflowClient(tracking_uri=(folder / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("selfsup")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert (run.data.params["method"], run.data.params["method.temperature"]) == ("simclr", "0.2")
    for name, steps in (("train/loss", STEPS), ("eval/knn_top1", [4])):
        assert [metric.step for metric in client.get_metric_history(run.info.run_id, name)] == steps
    kept = {path.name.partition("+timestamp")[0] for path in (folder / "mlflow").rglob("*.png")}
    assert kept == {"views+step+1", "views+step+3"}
    assert len(list((folder / "mlflow").rglob("positive/step_*.json"))) == len(STEPS)


def test_a_store_from_a_stranger_gets_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files may name any place for what belongs to a run."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stranger = "0" * 32
    for place in (
        "file:///elsewhere",
        f"{(tmp_path / 'run' / 'mlflow').as_uri()}/../../elsewhere",
        "http://127.0.0.1:9",
    ):
        client = install_mlflow(monkeypatch, place)
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run" / "mlflow.json").write_text(f'{{"id": "{stranger}"}}')
        with pytest.raises(ValueError, match=r"mlflow/ names another place, .*; remove it and"):
            MLflow(Opening(tmp_path / "run", 0, {}))
        assert {name for name, _, _ in client.calls} == {"get_run"}


_BLOCK, _HEAD = 32_768, 7  # of the log format of LevelDB, in which wandb keeps a run
_WHOLE, _LAST = 1, 4  # kinds of its parts


def records(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file, without a look at their checksums."""
    content, place, found = file.read_bytes(), _HEAD, b""
    while place + _HEAD <= len(content):
        if _BLOCK - place % _BLOCK < _HEAD:
            place += _BLOCK - place % _BLOCK  # the rest of a block is empty
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + _HEAD])
        found += content[place + _HEAD : place + _HEAD + length]
        place += _HEAD + length
        if kind in (_WHOLE, _LAST):
            yield found
            found = b""


def test_wandb_keeps_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    launched_twice(folder, "wandb")
    files = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))  # by the second, within which none began
    history: dict[str, list[int]] = {}
    ids, settings = set(), set[str]()
    for record in (Record.FromString(data) for file in files for data in records(file)):
        if record.HasField("run"):
            ids.add(record.run.run_id)
            settings |= {item.key for item in record.run.config.update}
        settings |= {item.key for item in record.config.update}
        for item in record.history.item:
            history.setdefault(item.key or ".".join(item.nested_key), []).append(record.history.step.num)
    assert len(ids) == 1
    assert "method.temperature" in settings
    assert history["train/loss"] == STEPS
    assert history["eval/knn_top1"] == [4]
    assert history["views.sha256"] == [1, 3]
    assert history["similarity/positive.values"] == STEPS
