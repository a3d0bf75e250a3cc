"""Collectives among processes."""

import torch
from processes import run_processes

from selfsup import distributed


def _ragged() -> list[torch.Tensor]:
    rank = distributed.rank()
    rows = torch.arange(3 * rank, 3 * rank + 1 + rank)[:, None]  # 1 row of rank 0, 2 of rank 1
    values = distributed.gather_json({"rank": rank, "text": "ä" * rank}, torch.device("cpu"))
    assert values == [{"rank": 0, "text": ""}, {"rank": 1, "text": "ä"}]
    return [distributed.gather_ragged(rows), distributed.mean_over_processes(torch.tensor(float(rank)))]


def test_ragged_rows_and_json_values_meet_in_the_order_of_ranks() -> None:
    for rows, mean in run_processes(2, _ragged):
        assert rows.flatten().tolist() == [0, 3, 4]
        assert mean.item() == 0.5


def test_one_process_needs_no_group() -> None:
    rows = torch.ones(2, 3, requires_grad=True)
    assert distributed.gather(rows) is rows
    assert distributed.gather_json([1], torch.device("cpu")) == [[1]]
    assert distributed.world_size() == 1
