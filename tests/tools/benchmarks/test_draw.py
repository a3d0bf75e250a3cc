"""Drawings of recorded figures."""

import json
from pathlib import Path

import pytest

from tools.benchmarks.draw import draw


def record(folder: Path) -> None:
    spread = {"min": 9.0, "max": 13.0, "unit": "views/s", "size": 32}
    lines = [
        {"name": "augment/fused", "median": 12.0, "ratio_of_ours": 1.0, **spread},
        {"name": "augment/pil", "median": 10.0, "ratio_of_ours": 1.2, **spread},
        {"name": "nt_xent/tiles", "median": 0.1, "extra_mb": 3.0, "images": 64},
        {"name": "knn/faiss", "dim": 512, "threads": 1, "median": 10.0, "ratio_of_ours": 1.0, **spread},
        {"name": "knn/plain_faiss", "dim": 512, "threads": 1, "median": 12.5, "ratio_of_ours": 0.8, **spread},
        *(
            {"name": f"learning/{one}", "seconds": [1, 2], "knn_top1": [0.3, 0.4], "recipe": "some", "images": 1000}
            for one in ("ours", "ours", "lightly")
        ),
        {
            "name": "step_share",
            "encoder": "small",
            "shares": {"views": 0.1, "loss": 0.1, "guard": 0.1, "optimizer": 0.1, "memory": 0.1, "network": 0.5},
        },
        {"name": "nt_xent/dense", "median": 0.2, "extra_mb": 9.0, "images": 64},
    ]
    folder.mkdir()
    (folder / "some.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_is_recorded_is_drawn_and_what_is_not_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record(tmp_path / "records")
    assert draw(tmp_path / "records", tmp_path / "drawn") == [
        "views_32",
        "knn",
        "loss_seconds",
        "loss_memory",
        "learning",
        "step_share",
    ]
    assert "views_224: nothing is recorded" in capsys.readouterr().err
    bars = (tmp_path / "drawn" / "views_32.svg").read_text()
    for word in ("selfsup", "torchvision, PIL", "10  (1.2 x slower)", "views/s"):
        assert word in bars
    assert "12  (1.2 x faster)" in (tmp_path / "drawn" / "knn.svg").read_text()
    curves = (tmp_path / "drawn" / "learning.svg").read_text()
    assert (curves.count(">selfsup<"), curves.count(">lightly<")) == (1, 1)
    assert all(f">{part}<" in (tmp_path / "drawn" / "step_share.svg").read_text() for part in ("views", "memory"))
    draw(tmp_path / "records", tmp_path / "again")
    for name in ("views_32", "loss_seconds", "learning", "step_share"):
        first, second = (tmp_path / folder / f"{name}.svg" for folder in ("drawn", "again"))
        assert first.read_bytes() == second.read_bytes()
