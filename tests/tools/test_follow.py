"""The pages that say what to do, done: the tutorial, the pages with programs, and the notebook."""

import csv
import json
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

from tests.support.followed import follow
from tests.support.places import ROOT
from tools.docs import FOLLOWED, script
from tools.documents import Block

DOCS = ROOT / "docs"


# What makes the tutorial shorter: its commands stay as they are but for these words.
SHORTER = {"--epochs 20": "--epochs 2", "report runs/photos": "report runs/photos --tsne 0 --images 100"}


def test_the_tutorial_leads_from_photographs_to_a_search_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command, with fewer epochs; `python -m tools.docs --follow` carries it out as it stands."""
    page = tmp_path / "tutorial.md"
    text = (DOCS / "tutorial.md").read_text()
    for words, shorter in SHORTER.items():
        assert words in text
        text = text.replace(words, shorter)
    page.write_text(text)
    assert follow(page, tmp_path, monkeypatch) >= 9
    out, told = capsys.readouterr()
    assert "2 images in 1 group look alike" in told
    assert "photos/checks/broken.jpg: it is cut short" in told
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert [line["knn_top1"] for line in lines if "knn_top1" in line]
    rows = list(csv.DictReader((tmp_path / "duplicates.csv").read_text().splitlines()))
    group = {row["group"] for row in rows if row["path"].endswith(("checks/0000.jpg", "copy_of_0000.jpg"))}
    assert len(group) == 1
    found = [line for line in out.splitlines() if re.match(r"\d\.\d{3} photos", line)]
    assert len(found) == 5
    assert found[0].startswith("1.000 ")
    for written in ("photos.html", "found.html", "keep.txt", "photos.pt2", "runs/photos/report.html"):
        assert (tmp_path / written).stat().st_size > 1000, written


@pytest.mark.parametrize("page", [page for page in FOLLOWED if page != "tutorial.md"])
def test_programs_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert follow(DOCS / page, tmp_path, monkeypatch) >= 1


def test_a_collapsed_encoder_has_the_loss_that_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    follow(DOCS / "collapse.md", tmp_path, monkeypatch)
    collapsed, spread, chance = capsys.readouterr().out.splitlines()
    at_chance = float(chance.split()[-1])
    assert float(collapsed.split()[1]) == pytest.approx(at_chance, abs=1e-3)
    assert "accuracy 0.00" in collapsed
    assert float(spread.split()[1]) != pytest.approx(at_chance, rel=0.01)


def test_the_notebook_runs_from_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, with fewer epochs; `python -m tools.docs --follow` runs it in a kernel."""
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((DOCS / "first_look.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "strip the outputs before it is committed"
    text = "\n".join(cells)
    assert "epochs=16" in text
    exec(compile(text.replace("epochs=16", "epochs=3"), "first_look.ipynb", "exec"), {"__name__": "__main__"})
    plt.close("all")
    told = capsys.readouterr().out
    figures = {line.rsplit(maxsplit=1)[0].strip(): float(line.split()[-1]) for line in told.splitlines()[-3:]}
    assert figures["trained"] > figures["raw pixels"] + 0.2  # 0.6 and 0.2; the untrained encoder has 0.5


def test_a_page_becomes_a_script(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\n# a.py\nprint(1)\n```\n\n```sh\npython a.py\n```\n\n```python\nprint(2)\n```\n```\nno\n```\n"
    )
    told = script(page)
    assert (
        told.index("cat >a.py")
        < told.index("python a.py")
        < told.index("cat >block_2.py")
        < told.index("python block_2.py")
    )
    assert "no" not in told.split()


def test_other_commands_are_not_carried_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\nrm -r photos\n```\n")
    with pytest.raises(AssertionError, match="only selfsup and python"):
        follow(page, tmp_path, monkeypatch)
    assert Block("sh", "a \\\n b  # c\n", 1).code
