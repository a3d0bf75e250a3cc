"""The processes that decode photographs, when signals come and when one of them is lost."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.utils.data._utils as loading
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from selfsup.batch import Key
from selfsup.data import worker_pool
from selfsup.data.loader import Loader
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.data.streaming import Crop, Streaming
from selfsup.data.worker_pool import WorkerPool
from selfsup.pretraining import pretrain
from selfsup.training.trainer import Trainer
from tests.support.tiny import photographs, tiny_run

KEYS = [Key(0, torch.arange(4)), Key(0, torch.arange(4, 8))]


def zeros(images: list, indices: torch.Tensor, epoch: object) -> tuple[torch.Tensor]:
    return (torch.zeros(len(images), 3, 4, 4, dtype=torch.uint8),)


def streaming(folder: Path, crop: Crop) -> Streaming:
    """Of 8 photographs, by two processes."""
    source = open_source(str(photographs(folder / "photos", 8)), "train")
    return Streaming(source, crop, WorkerPool(2, torch.device("cpu")), substitute=True)


def test_a_signal_before_a_worker_is_ready_does_not_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = worker_pool.leave_signals_to_parent

    def signalled(worker: int) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
            signal.raise_signal(number)
        ready(worker)

    monkeypatch.setattr(worker_pool, "leave_signals_to_parent", signalled)
    data = streaming(tmp_path, zeros)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert [len(batch.indices) for batch in data.batches(KEYS)] == [4, 4]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_more_workers_than_cores_are_said_once_in_our_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch warns where a loader is made and again where its workers start; its warning is an error in these tests."""
    monkeypatch.setattr(worker_pool, "cores", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    worker_pool.say_where_too_many.cache_clear()
    data = streaming(tmp_path, zeros)
    for _ in range(2):
        assert [len(batch.indices) for batch in data.batches(KEYS)] == [4, 4]
    assert capsys.readouterr().err.count("2 workers share 1 cores") == 1


def test_a_lost_worker_ends_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MP_STATUS_CHECK_INTERVAL", 0.2)
    is_stuck = multiprocessing.get_context("fork").Event()

    def lost_or_stuck(images: list, indices: torch.Tensor, epoch: object) -> tuple[torch.Tensor]:
        if int(indices[0]) == 0:
            is_stuck.wait(60)
            signal.raise_signal(signal.SIGKILL)  # as a system does that is out of memory
        is_stuck.set()
        while True:
            time.sleep(1)  # in a worker, which only its end can end

    items = streaming(tmp_path, lost_or_stuck).pool._started([(0, key) for key in KEYS])
    assert isinstance(items, _MultiProcessingDataLoaderIter)
    workers = list(items._workers)
    with pytest.raises(RuntimeError, match="worker"):
        next(items)
    items._shutdown_workers()  # what happens when the error has been reported
    for worker in workers:
        worker.join(5)
        assert worker.exitcode == -signal.SIGKILL


def processes(images: list, indices: torch.Tensor, epoch: int) -> tuple[torch.Tensor]:
    """Which process made each image, in which epoch, of which image."""
    return (torch.tensor([[os.getpid(), epoch, int(index)] for index in indices]),)


def lasting(folder: Path, count: int = 24) -> Loader:
    source = open_source(str(photographs(folder / "photos", count)), "train")
    return Loader(source, batch_size=4, seed=2, device=torch.device("cpu"), workers=2, crop=processes)


def alive(number: int) -> bool:
    return psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE


def made_by(batches: list) -> set[int]:
    return {int(row[0]) for batch in batches for row in batch.images[0]}


def what(batches: list) -> list[list[int]]:
    return [row[1:].tolist() for batch in batches for row in batch.images[0]]


def test_workers_stay_over_epochs_and_go_on_in_the_middle_of_one(tmp_path: Path) -> None:
    loader = lasting(tmp_path)
    epochs = [list(loader.epoch(number)) for number in range(3)]
    own = made_by(epochs[0])
    assert len(own) == 2
    assert [made_by(epoch) for epoch in epochs] == [own] * 3
    for number, epoch in enumerate(epochs):
        rows = [int(row) for step in range(len(epoch)) for row in loader.sampler.batch(number, step)]
        assert what(epoch) == [[number, row] for row in rows]
    assert what(list(loader.epoch(1, start=2))) == what(epochs[1][2:])
    assert made_by(list(loader.epoch(0))) == own
    loader.close()
    assert not [number for number in own if alive(number)]
    assert what(list(loader.epoch(2))) == what(epochs[2])
    loader.close()


def test_an_epoch_that_is_left_does_not_reach_into_the_next(tmp_path: Path) -> None:
    loader = lasting(tmp_path)
    whole = list(loader.epoch(1))
    own = made_by(whole)
    left = loader.epoch(0)
    next(left)
    beside = list(loader.epoch(1))  # while another is under way: by processes of its own
    assert what(beside) == what(whole)
    assert not made_by(beside) & own
    left.close()
    assert not [number for number in own if alive(number)]
    assert what(list(loader.epoch(1))) == what(whole)
    loader.close()


def test_others_read_between_epochs_by_the_same_processes(tmp_path: Path) -> None:
    loader = lasting(tmp_path)
    assert loader.pool is not None
    beside = Streaming(loader.source.select(torch.arange(10, 20)), processes, loader.pool, substitute=False)
    keys = [Key(7, torch.arange(5)), Key(7, torch.arange(5, 10))]
    epoch = loader.epoch(0)
    batches = [next(epoch) for _ in range(loader.steps_per_epoch)]  # as training has them where an epoch is judged
    own = made_by(batches)
    for _ in range(2):
        read = list(beside.batches(keys))
        assert what(read) == [[7, row] for row in range(10)]
        assert torch.equal(torch.cat([batch.labels for batch in read]), loader.source.labels[10:20])
        assert made_by(read) == own
    assert next(epoch, None) is None
    assert made_by(list(loader.epoch(1))) == own
    left = beside.batches(keys)
    next(left)
    left.close()
    assert not [number for number in own if alive(number)]
    assert what(list(loader.epoch(0))) == what(batches)
    loader.close()


def test_processes_know_what_is_added_after_they_were_started(tmp_path: Path) -> None:
    loader = lasting(tmp_path)
    assert loader.pool is not None
    own = made_by(list(loader.epoch(0)))
    beside = Streaming(loader.source, processes, loader.pool, substitute=False)
    assert not [number for number in own if alive(number)]
    assert what(list(beside.batches(KEYS))) == [[0, row] for row in range(8)]
    loader.close()


def test_a_run_starts_its_workers_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    class Counted(DataLoader):
        def __init__(self, *given: Any, **named: Any) -> None:
            started.append(self)
            super().__init__(*given, **named)

    monkeypatch.setattr(worker_pool, "DataLoader", Counted)
    data = Data(root=str(photographs(tmp_path / "photos", 64)), holdout=0.25)
    run = tiny_run(tmp_path / "run", "spcl", data=data, workers=2, evaluate_every=1)
    before = set(psutil.Process().children())
    assert "knn_top1" in pretrain(run)
    assert len(started) == 1, "for two epochs, two extractions and two evaluations of two parts"
    assert set(psutil.Process().children()) <= before


def test_training_ends_its_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photographs(tmp_path / "photos", 32)
    before = set(psutil.Process().children())
    run = tiny_run(tmp_path / "run", root=str(photos), workers=2, epochs=2, batch_size=8)
    pretrain(replace(run, max_steps=3))
    assert set(psutil.Process().children()) <= before

    begin = Trainer.begin_epoch

    def broken(trainer: Trainer, step: int, epoch: int, position: int) -> None:
        if epoch:  # between two, when the workers wait
            assert len(set(psutil.Process().children()) - before) == 2
            raise ValueError("no epoch")
        begin(trainer, step, epoch, position)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "begin_epoch", broken)
        with pytest.raises(ValueError, match="no epoch") as caught:
            pretrain(run)
    assert set(psutil.Process().children()) <= before, f"'{caught.value}' is held, and so is the loader"
    pretrain(run)  # the workers before hold the lock of the folder no more
    assert set(psutil.Process().children()) <= before
