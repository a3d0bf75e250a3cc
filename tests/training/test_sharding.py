"""Encoders whose weights are divided among processes: the same runs, and each process holds its part alone.

That every method computes what it does with whole weights is among the contracts.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.distributed.fsdp import FSDPModule

import selfsup.training.accelerator
import selfsup.training.checkpoints
import selfsup.training.fitting
from selfsup.data.sources import open_source
from selfsup.distributed import rank
from selfsup.dtensor import clip_grad_norm_, is_part, local_tensors
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.features import extract
from selfsup.methods.base import Method
from selfsup.optim.optimizers import LARS, AdamW
from selfsup.pretraining import Run, build_method, pretrain
from selfsup.stages.distill import run_distill
from selfsup.stages.distill_settings import distill_settings
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.training import sharding
from tests.contracts.case import full
from tests.support.exact import assert_equal_to_rounding, in_double
from tests.support.launching import same_weights
from tests.support.processes import run_processes
from tests.support.tiny import SAMPLING, tiny_run
from tests.training.test_resume import final_state, run_all

CPU = torch.device("cpu")
VERSION_2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def runs(folder: Path) -> dict[str, Run]:
    """Every optimizer, momentum encoders, clipping, chunks, features for clusters and online evaluations."""

    def gentle(name: str, method: str, **changes: Any) -> Run:
        return tiny_run(folder / name, method, root="shapes:64", epochs=1, evaluate_every=0, **changes)

    optimizer = tiny_run(folder).optimizer
    return {
        "clipped": gentle("clipped", "simclr", clip_norm=0.5, optimizer=replace(optimizer, learning_rate=0.03)),
        "moco": gentle("moco", "moco_symmetric", optimizer=AdamW.Config(learning_rate=1e-3)),
        "simclr_v2": gentle("simclr_v2", "simclr_v2", optimizer=LARS.Config(learning_rate=1.0)),
        "chunks": gentle("chunks", "simclr", grad_cache_chunk=4, optimizer=replace(optimizer, learning_rate=0.03)),
        "spcl": gentle("spcl", "spcl", sampling=replace(SAMPLING["spcl"], steps_per_epoch=4)),
        "half": gentle("half", "instdisc", precision="bf16"),
    }


def way(run: Run, name: str, **changes: Any) -> Run:
    return replace(run, folder=f"{run.folder}_{name}", **changes)


def sharded(run: Run, name: str, **changes: Any) -> Run:
    return way(run, name, shard_encoder=True, **changes)


def in_their_precision(runs: list[Run]) -> None:
    """Runs in half precision as they are, all others in double."""
    for run in runs:
        run_all([run]) if run.precision == "bf16" else in_double(run_all, [run])


def all_ways(folder: Path) -> dict[str, Any]:
    """In one of two processes: every run with whole and with sharded weights, interrupted and not."""
    for run in runs(folder).values():
        in_their_precision(
            [way(run, "whole"), sharded(run, "sharded"), sharded(run, "cut", max_steps=2), sharded(run, "cut")]
        )
    run = runs(folder)["clipped"]
    # On in one process, and from whole weights.
    in_their_precision([sharded(run, "then_one", max_steps=3), way(run, "whole_before", max_steps=3)])
    in_their_precision([sharded(run, "whole_before")])
    judged = tiny_run(folder / "judged", "moco", root="shapes:64", epochs=2, evaluate_every=1)
    in_their_precision([way(judged, "whole"), sharded(judged, "sharded")])
    in_double(stages, folder / "judged_whole", folder)
    return {"parts": parts(folder), "norm": clipped(), "unlike_first": unlike_first(), "uneven": uneven()}


def parts(folder: Path) -> dict[str, Any]:
    """What a process holds of the weights, gradients and optimiser state of a run, and of its momentum encoder."""
    held: dict[str, Any] = {}

    class Looking(selfsup.training.checkpoints.Checkpoints):
        def save(self, step: int) -> None:
            super().save(step)
            parameters = list(self.method.parameters())
            state = [value for entry in self.optimizer.state.values() for value in entry.values() if value.ndim]
            held["weights"] = [sum(p.numel() for p in way) for way in (local_tensors(parameters), parameters)]
            held["notes"] = notes(self.method)
            encoder = self.method.encoder
            held["undivided"] = [not isinstance(unit, FSDPModule) for unit in (encoder, *encoder.blocks())]
            held["state"] = [sum(p.numel() for p in way) for way in (local_tensors(state), state)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selfsup.training.fitting, "Checkpoints", Looking)
        pretrain(sharded(runs(folder)["moco"], "parts", max_steps=1))
    return held


def notes(method: Method) -> int:
    """Forward passes that FSDP remembers."""
    groups: list[Any] = [u._get_fsdp_state()._fsdp_param_group for u in method.modules() if isinstance(u, FSDPModule)]
    return sum(len(group.comm_ctx.post_forward_order) + len(group._post_forward_indices) for group in groups)


def unlike_first() -> list[str]:
    """What differs from the first process's, of a method that each process began with weights of its own."""
    ours, first = (
        build_method(tiny_run(Path("nowhere"), "metric_margin", seed=seed), open_source("shapes:32", "train"))
        for seed in (rank(), 0)
    )
    next(ours.buffers()).add_(rank())
    moved: list[torch.device] = []
    ours.to = moved.append  # type: ignore[method-assign]  # takes along what is no submodule, such as a teacher
    sharding.shard(ours, CPU)
    assert moved == [CPU]
    expected = first.state_dict()
    return [name for name, value in ours.state_dict().items() if not torch.equal(full(value), expected[name])]


def uneven() -> dict[str, Any]:
    """Features by a sharded encoder of 9 images, of which one process has 4 and the other 5, and by a whole one."""
    run, source = tiny_run(Path("nowhere"), batch_size=8), open_source("shapes:9", "train")
    method = build_method(run, source)
    found = {}
    for way in ("whole", "sharded"):
        found[way] = extract(method.encoder, source, run.feed.center(), CPU, batch_size=1).features
        if way == "whole":
            sharding.shard(method, CPU)
    return found | {"divided": all(map(is_part, method.encoder.parameters()))}


def clipped() -> list[float]:
    """Norms of a gradient of which one tensor is divided and one is not, and its largest number after."""
    run = tiny_run(Path("nowhere"))
    method = build_method(run, open_source("shapes:32", "train"))
    sharding.shard(method, CPU)
    first, *rest = method.encoder.parameters()
    loose = torch.nn.Parameter(torch.zeros(3))
    loose.grad = torch.full((3,), 2.0)
    first.grad = torch.ones_like(first)
    norm = clip_grad_norm_([first, loose, *rest], 1.0)
    return [
        float(norm),
        float((first.numel() + 12) ** 0.5),
        float(loose.grad[0]),
        float(local_tensors([first.grad])[0].max()),
    ]


def stages(run: Path, folder: Path) -> None:
    """Fine-tuning and distillation, whole and sharded."""
    data = replace(tiny_run(folder).data, root="shapes:64")
    small: dict[str, Any] = {"epochs": 1, "batch_size": 16, "device": "cpu", "workers": 0}
    tuned = replace(finetune_settings("sgd", data), **small)
    taught = replace(distill_settings("features", data, load_encoder(run).config), **small)
    for shard in (False, True):
        name = "sharded" if shard else "whole"
        run_finetune(run, replace(tuned, folder=str(folder / f"tuned_{name}"), shard_encoder=shard))
        run_distill(run, replace(taught, folder=str(folder / f"taught_{name}"), shard_encoder=shard))


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("sharded")
    return folder, run_processes(2, all_ways, folder)


Found = tuple[Path, list[dict[str, Any]]]


def assert_alike(one: Path, other: Path) -> None:
    """Equal to rounding, all that a checkpoint holds."""
    for group, tensors in final_state(one).items():
        assert_equal_to_rounding(final_state(other)[group], tensors)


@pytest.mark.parametrize("name", runs(Path()))
def test_a_run_is_that_with_whole_weights_and_resumes_exactly(name: str, found: Found) -> None:
    folder, _ = found
    assert_alike(folder / f"{name}_whole", folder / f"{name}_sharded")
    assert (
        final_state(folder / f"{name}_cut")["method"].keys() == final_state(folder / f"{name}_whole")["method"].keys()
    )
    for group, tensors in final_state(folder / f"{name}_sharded").items():
        for key, value in tensors.items():
            assert value.equal(final_state(folder / f"{name}_cut")[group][key]), f"{group}: {key}"


def test_a_run_goes_on_with_whole_weights_and_the_other_way_round(found: Found) -> None:
    folder, _ = found
    run = runs(folder)["clipped"]
    in_their_precision([way(run, "then_one")])
    for name in ("then_one", "whole_before"):
        assert_alike(folder / "clipped_whole", folder / f"clipped_{name}")


def test_each_process_holds_its_part(found: Found) -> None:
    for process in found[1]:
        for kind in ("weights", "state"):
            held, all_of_it = process["parts"][kind]
            assert held < 0.52 * all_of_it, kind  # tensors of odd sizes have a larger half
        assert process["parts"]["undivided"] == [False] * 4  # the encoder and each of its blocks by itself
        assert process["parts"]["notes"] == 0  # of a momentum encoder they would pile up


def test_evaluations_and_the_export_have_whole_weights(found: Found) -> None:
    folder, _ = found
    whole, divided = (load_encoder(folder / f"judged_{name}").encoder for name in ("whole", "sharded"))
    source = open_source("shapes:32", "train")
    feed = load_encoder(folder / "judged_whole").feed
    features = [extract(encoder, source, feed.center(), CPU).features for encoder in (whole, divided)]
    torch.testing.assert_close(*features)


def test_evaluations_may_take_unlike_numbers_of_batches(found: Found) -> None:
    for process in found[1]:
        torch.testing.assert_close(process["uneven"]["sharded"], process["uneven"]["whole"])
        assert process["uneven"]["divided"]  # again


def test_first_weights_are_those_of_the_first_process(found: Found) -> None:
    assert [process["unlike_first"] for process in found[1]] == [[], []]


def test_gradients_are_clipped_by_the_norm_of_all_parts(found: Found) -> None:
    for process in found[1]:
        norm, expected, loose, divided = process["norm"]
        assert norm == pytest.approx(expected)
        assert loose == pytest.approx(2 / expected)
        assert divided == pytest.approx(1 / expected)


@pytest.mark.parametrize("stage", ["tuned", "taught"])
def test_stages_train_alike(stage: str, found: Found) -> None:
    folder, _ = found
    assert_alike(folder / f"{stage}_whole", folder / f"{stage}_sharded")


def test_in_one_process_there_is_nothing_to_divide(tmp_path: Path) -> None:
    whole = tiny_run(tmp_path / "run", epochs=1)
    pretrain(sharded(whole, "sharded"))
    pretrain(way(whole, "whole"))
    assert same_weights(tmp_path / "run_sharded", tmp_path / "run_whole")


@pytest.mark.parametrize(
    ("settings", "changes", "said"),
    [
        ({}, {"shard_encoder": True, "precision": "fp16"}, "fp32 or bf16"),
        ({}, {"shard_encoder": True, "compile": True}, "leave out one of the two"),
        ({"ACCELERATE_USE_FSDP": "true"}, {}, "launch with --fsdp_version 2"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            {},
            "fsdp_offload_params",
        ),
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, {}, "launch without --use_deepspeed"),
    ],
)
def test_what_cannot_work_is_refused(
    settings: dict[str, str], changes: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in (settings | {"WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        pretrain(tiny_run(tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_accelerate_is_understood_and_left_aside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run")
    for name, value in VERSION_2.items():
        monkeypatch.setenv(name, value)
    assert not sharding.sharding_requested(run)  # there is nothing to divide
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert sharding.sharding_requested(run)
    monkeypatch.delenv("WORLD_SIZE")
    seen: list[bool] = []

    def made(**settings: Any) -> Accelerator:
        seen.append("ACCELERATE_USE_FSDP" in os.environ)
        return Accelerator(**settings)

    monkeypatch.setattr(selfsup.training.accelerator, "Accelerator", made)
    selfsup.training.accelerator.make_accelerator(run)
    assert seen == [False]
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
