"""What the trainer does besides resuming: precisions, compilation, equality of one process and two."""

import contextlib
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import selfsup.pretraining
from selfsup.augment.views import Augment, Views
from selfsup.batch import Batch
from selfsup.data.base import ArraySource
from selfsup.data.sampler import Sampler
from selfsup.data.sources import open_source
from selfsup.evaluation.encoder import load_encoder
from selfsup.methods.base import Method
from selfsup.methods.moco import MoCo
from selfsup.methods.simclr import SimCLR
from selfsup.optim.optimizers import AdamW
from selfsup.pretraining import Run, build_method, pretrain
from selfsup.storage.checkpoint import load_newest, serialize
from selfsup.training.accelerator import make_accelerator
from selfsup.training.images import make_loader
from selfsup.training.trainer import Trainer
from tests.contracts.learning import VIEW, pictures
from tests.support.exact import ROUNDING, in_double
from tests.support.processes import run_processes
from tests.support.tiny import METHODS, QUICK, tiny_run
from tests.support.waiting import no_waits
from tests.training.test_resume import assert_same, run_all

CUDA = pytest.param("auto", marks=pytest.mark.gpu)


def logged(folder: Path, name: str) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("method", QUICK)
def test_bf16_trains_and_keeps_weights_and_memory_in_fp32(method: str, device: str, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", method, precision="bf16", device=device, log_every=1)
    pretrain(run)
    full = tiny_run(tmp_path / "full", method, device=device, log_every=1)
    pretrain(full)
    half, single = logged(tmp_path / "run", "loss"), logged(tmp_path / "full", "loss")
    assert half != single
    assert half[0] == pytest.approx(single[0], rel=0.03)
    state = build_method(run, open_source("shapes:128", "train")).state_dict()
    assert not {value.dtype for value in state.values()} & {torch.bfloat16, torch.float16}


@pytest.mark.gpu
@pytest.mark.parametrize("method", QUICK)
def test_fp16_trains(method: str, tmp_path: Path) -> None:
    pretrain(tiny_run(tmp_path / "run", method, precision="fp16", device="auto", log_every=1))
    assert all(torch.tensor(logged(tmp_path / "run", "loss")).isfinite())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", QUICK)
def test_resume_is_exact_on_a_gpu(method: str, precision: str, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "whole", method, precision=precision, device="auto")
    pretrain(run)
    cut = replace(run, folder=str(tmp_path / "cut"))
    for step in (1, 5, 8, 16):
        pretrain(replace(cut, max_steps=step))
    assert_same(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.gpu
def test_compilation_changes_little_and_leaves_the_names_alone(tmp_path: Path) -> None:
    plain = tiny_run(tmp_path / "plain", device="auto", log_every=1)
    pretrain(plain)
    pretrain(replace(plain, folder=str(tmp_path / "compiled"), compile=True))
    first = [logged(tmp_path / name, "loss")[0] for name in ("plain", "compiled")]
    assert first[0] == pytest.approx(first[1], abs=1e-3)
    states = [load_encoder(tmp_path / name).encoder.state_dict() for name in ("plain", "compiled")]
    assert states[0].keys() == states[1].keys()


def test_fp16_is_refused_where_it_cannot_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fp16 needs a CUDA device"):
        pretrain(tiny_run(tmp_path / "run", precision="fp16"))


def test_one_process_equals_two(tmp_path: Path) -> None:
    """20 steps of the global batch 64: the same losses to rounding, with batch norm over all processes."""
    methods = {
        "simclr": replace(METHODS["simclr"], temperature=0.5),
        "moco": replace(METHODS["moco"], queue_size=150),
    }
    assert isinstance(methods["simclr"], SimCLR.Config)
    assert isinstance(methods["moco"], MoCo.Config)
    runs = [
        replace(
            tiny_run(tmp_path / "single" / name, batch_size=64, epochs=10, log_every=1, evaluate_every=5),
            method=method,
            max_steps=20,
        )
        for name, method in methods.items()
    ]
    in_double(run_all, runs)
    run_processes(2, in_double, run_all, [replace(run, folder=run.folder.replace("single", "double")) for run in runs])
    for name in methods:
        one, two = logged(tmp_path / "single" / name, "loss"), logged(tmp_path / "double" / name, "loss")
        assert len(one) == 20
        assert two == pytest.approx(one, rel=2 * ROUNDING)  # they are logged in single precision
        judged = [logged(tmp_path / folder / name, "knn_top1") for folder in ("single", "double")]
        assert len(judged[0]) == 2
        assert judged[0] == pytest.approx(judged[1], abs=2 / 128)  # a neighbour may change places by rounding
        for figure in ("accuracy", "alignment"):
            pair = [logged(tmp_path / folder / name, figure) for folder in ("single", "double")]
            assert pair[0] == pytest.approx(pair[1], rel=10 * ROUNDING)


def test_the_loss_falls_and_knn_rises(tmp_path: Path) -> None:
    """By margins that hold for other seeds and processors, too: stripes that lie, and stripes that stand."""
    run = tiny_run(
        tmp_path / "run",
        "supcon",
        root="",
        seed=2,
        epochs=8,
        batch_size=32,
        evaluate_every=1,
        augment=Augment(views=(VIEW, VIEW)),
        optimizer=AdamW.Config(learning_rate=5e-3, scaling="none"),
    )
    seen, held_out = (ArraySource(*pictures(True, held_out)) for held_out in (False, True))
    result = pretrain(run, source=seen, test=held_out)
    losses, accuracy = logged(tmp_path / "run", "loss"), logged(tmp_path / "run", "knn_top1")
    assert losses[-1] < losses[0] - 0.5
    assert len(accuracy) == 8
    assert accuracy[-1] > accuracy[0] + 0.1
    assert result["knn_top1"] == accuracy[-1]


def replica(run: Run) -> str:
    """SHA-256 of everything a process holds at the end of a run: weights, running statistics, queue."""
    held = []

    def keep(method: Method, *rest: object) -> str:
        held.append(hashlib.sha256(serialize(method.state_dict())).hexdigest())
        return ""

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selfsup.pretraining, "export", keep)
        run_all([run])
    return held[0]


def test_replicas_are_identical_to_the_bit(tmp_path: Path) -> None:
    """MoCo's groups of batch norm are each of one process, so running statistics are equal only if they are shared."""
    first, second = run_processes(2, replica, tiny_run(tmp_path / "run", "moco", epochs=1))
    assert first == second


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("method", QUICK)
def test_a_whole_step_never_waits_for_the_device(method: str, device: str, tmp_path: Path) -> None:
    """From the loader's batch to the memory's update; on a GPU every hidden synchronisation is an error."""
    run = tiny_run(tmp_path / "run", method, device=device, precision="bf16")
    accelerator = make_accelerator(run)
    source = open_source("shapes:128", "train")
    views = Views(run.augment, run.seed)
    loader = make_loader(run, run.data, source, views, accelerator)
    built = build_method(run, source).to(accelerator.device).to(memory_format=torch.channels_last)
    optimizer = run.optimizer.build(built.named_parameters(), run.batch_size)
    # Nothing observes: the guard's decision is the one thing in a step that waits.
    trainer = Trainer(
        method=built, optimizer=optimizer, loader=loader, views=views, training=run, accelerator=accelerator
    )
    for step, batch in enumerate(loader.epoch(0)):
        watched = step == 3 and accelerator.device.type == "cuda"  # kernels are loaded, memory is taken
        with no_waits() if watched else contextlib.nullcontext():
            out = trainer.step(step, views(batch, 0, accelerator.device), batch)
        assert out is not None
        assert out.loss.requires_grad
    assert all(value.requires_grad is False for value in out.update.values())


def test_memory_is_written_once_after_every_step(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "moco", epochs=1)
    pretrain(run)
    found, _ = load_newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    state = found.tensors["method"]
    assert int(state["steps"]) == 8
    assert int(state["queue.pointer"]) == 8 * 16 % 40
    assert not torch.equal(state["key_encoder.conv1.weight"], state["encoder.conv1.weight"])
    order = Sampler(128, 16, seed=0)
    newest = torch.cat([order.batch(0, number) for number in range(8)])[-40:]
    assert sorted(state["queue.indices"].tolist()) == sorted(newest.tolist())


def test_views_are_drawn_for_the_epoch_whatever_the_interruptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    draw = Views.__call__

    def noted(self: Views, batch: Batch, epoch: int, device: torch.device) -> list[torch.Tensor]:
        asked.append(epoch)
        return draw(self, batch, epoch, device)

    monkeypatch.setattr(Views, "__call__", noted)
    for step in (3, 8, 11, 16):
        pretrain(tiny_run(tmp_path / "run", max_steps=step))
    assert asked == [0] * 8 + [1] * 8
