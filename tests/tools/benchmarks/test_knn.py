"""kNN beside plain searches: all find the same, and the lines say so."""

import json

import pytest
import torch

from tools.benchmarks import knn


def test_all_searches_find_the_nearest() -> None:
    bank, queries = (knn.unit_features(count, 16, seed).features for seed, count in enumerate((300, 20)))
    expected = (queries.double() @ bank.double().T).argsort(dim=1, descending=True)[:, :7]
    for name, search in knn.searches(queries, bank, 7).items():
        assert torch.equal(search(), expected), name


def test_each_search_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    knn.compare(300, 20, 16, 2)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == [
        f"knn/{one}" for one in ("faiss", "torch", "plain_faiss", "plain_torch")
    ]
    for line in lines:
        assert line["agreement"]["plain_faiss"] > 0.99
        assert line["min"] <= line["median"] <= line["max"]
        assert line["ratio_of_ours"] == pytest.approx(lines[0]["median"] / line["median"], rel=1e-2)
