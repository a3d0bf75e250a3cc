"""Collectives among processes."""

import torch

from selfsup import distributed
from selfsup.models.norm import average_running_statistics, convert
from tests.support.processes import run_processes


def _ragged() -> list[torch.Tensor]:
    rank = distributed.rank()
    rows = torch.arange(3 * rank, 3 * rank + 1 + rank)[:, None]  # 1 row of rank 0, 2 of rank 1
    values = distributed.gather_json({"rank": rank, "text": "ä" * rank}, torch.device("cpu"))
    assert values == [{"rank": 0, "text": ""}, {"rank": 1, "text": "ä"}]
    return [distributed.gather_ragged(rows), distributed.mean_over_processes(torch.tensor(float(rank)))]


def _running_means() -> torch.Tensor:
    """Running means after averaging: of a norm in training, of a frozen one, of one over all processes."""
    norms = [torch.nn.BatchNorm2d(1), torch.nn.BatchNorm2d(1).eval(), convert(torch.nn.BatchNorm2d(1), "sync")]
    for norm in norms:
        norm.get_buffer("running_mean").fill_(float(distributed.rank()))
    average_running_statistics(torch.nn.Sequential(*norms))
    return torch.cat([norm.get_buffer("running_mean") for norm in norms])


def test_only_local_norms_in_training_share_their_statistics() -> None:
    first, second = run_processes(2, _running_means)
    assert first.tolist() == [0.5, 0.0, 0.0]
    assert second.tolist() == [0.5, 1.0, 1.0]


def test_ragged_rows_and_json_values_meet_in_the_order_of_ranks() -> None:
    for rows, mean in run_processes(2, _ragged):
        assert rows.flatten().tolist() == [0, 3, 4]
        assert mean.item() == 0.5


def test_one_process_needs_no_group() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    assert distributed.gather(rows) is rows
    assert distributed.gather_json([1], torch.device("cpu")) == [[1]]
    assert distributed.world_size() == 1
