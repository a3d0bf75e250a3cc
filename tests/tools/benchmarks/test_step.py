"""The parts of a step: each does its own work and no other's."""

from pathlib import Path

import pytest
import torch

from tools.benchmarks.step import Parts, shares
from tools.gpu.rates import SMALL


def test_each_part_does_its_own_work_alone(tmp_path: Path) -> None:
    parts = Parts(SMALL[0]._replace(batch_size=8, recipe="moco_v2_cifar10_cpu"), tmp_path)
    method, embedded = parts.method, list[torch.nn.Module]()
    for encoder in (method.encoder, method.get_submodule("key_encoder")):
        encoder.register_forward_hook(lambda module, *_: embedded.append(module))

    def written() -> set[str]:
        """Which of the weights, and of the features in the queue, are others than before."""
        state = {name: value for name, value in method.state_dict().items() if value.is_floating_point()}
        changed = {name for name, value in state.items() if not torch.equal(value, before.get(name, value))}
        before.update({name: value.clone() for name, value in state.items()})
        return {name.partition(".")[0] for name in changed}

    before: dict[str, torch.Tensor] = {}
    written()
    method.zero_grad()
    parts.loss()
    assert all(parameter.grad is None for parameter in method.parameters())  # from the embeddings on
    assert method.in_chunks is None
    parts.guard_alone()
    assert (embedded, written()) == ([], set())
    parts.optimize()
    assert written() == {"encoder", "head"}
    parts.memory()
    assert {"key_encoder", "key_head", "queue"} == written()
    assert embedded == []
    parts.whole()
    assert embedded != []


def test_shares_are_of_the_whole_step() -> None:
    seconds = {"whole": [10.0, 20.0, 10.0], "views": [1.0], "loss": [2.0], "guard": [0.5], "optimizer": [0.5]}
    found = shares(seconds | {"memory": [1.0], "bare": [9.0]})
    expected = {"views": 0.1, "loss": 0.2, "guard": 0.05, "optimizer": 0.05, "memory": 0.1, "network": 0.5}
    assert found == pytest.approx(expected)
