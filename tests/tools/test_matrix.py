"""The tool that runs the suite under other settings: which settings its rows cover, and what it makes of a report."""

import json
import sys
from pathlib import Path

import pytest

from tools import matrix

REPORT = """<testsuites><testsuite>
<testcase classname="tests.test_a" name="test_one"/>
<testcase classname="tests.test_a" name="test_two"><failure message="1 != 2"/></testcase>
<testcase classname="tests.test_a" name="test_three"><error message="no fixture"/></testcase>
<testcase classname="tests.test_a" name="test_four"><skipped message="needs a CUDA device"/></testcase>
</testsuite></testsuites>"""


def test_six_rows_have_every_setting_and_most_pairs() -> None:
    assert len(matrix.ROWS) == 6
    for name, levels in matrix.LEVELS.items():
        assert {getattr(row, name) for row in matrix.ROWS} == set(levels)
    missing = matrix.uncovered(list(matrix.ROWS))
    assert len(missing) == 13  # of 67, and six rows must leave out 9
    assert (("ATEN_CPU_CAPABILITY", "default"), ("ONEDNN_MAX_CPU_ISA", "AVX2")) in missing
    assert (("ATEN_CPU_CAPABILITY", "default"), ("ONEDNN_MAX_CPU_ISA", "SSE41")) not in missing


def test_a_report_is_counted(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert matrix.counted(tmp_path / "report.xml") == {
        "passed": 1,
        "skipped": 1,
        "failed": ["tests.test_a::test_two", "tests.test_a::test_three"],
    }


def test_a_row_is_run_under_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a stand-in for the interpreter, which tells what it was given."""
    monkeypatch.setenv("MKL_CBWR", "AVX")  # of the shell: a row without it has none
    python = tmp_path / "python"
    python.write_text(f"""#!{sys.executable}
import json, os, sys
if sys.argv[1] == "-c":
    print(json.dumps({{"torch": "2.10", "python": "3.11", "processor": "some, AVX2"}}))
else:
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR", "TEST_THREADS")
    print(*[os.environ.get(name) for name in names], *sys.argv[-1:], file=open({str(tmp_path / "told")!r}, "a"))
    (report,) = [word.partition("=")[2] for word in sys.argv if word.startswith("--junit-xml=")]
    open(report, "w").write({REPORT!r})
""")
    python.chmod(0o755)
    out = tmp_path / "matrix"
    words = [f"--python={name}={python}" for name in ("oldest", "newest")]
    assert matrix.main([*words, "--rows", "2,6", "--out", str(out), "--", "tests/x"]) == 1  # a test failed
    told = (tmp_path / "told").read_text().splitlines()
    assert told == ["default SSE41 COMPATIBLE 1 tests/x", "avx2 SSE41 None 2 tests/x"]
    assert list(json.loads(out.with_suffix(".json").read_text())) == ["2", "6"]
    text = out.with_suffix(".md").read_text()
    assert "| 2 | default | SSE41 | COMPATIBLE | 1 | 2.10 | 3.11 | some, AVX2 | 4 | 1 | 2 | 1 |" in text
    assert "- ATEN_CPU_CAPABILITY unset with ONEDNN_MAX_CPU_ISA AVX2\n" in text
    assert str(tmp_path) not in text + out.with_suffix(".json").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rows", "7"], "'7'; give some of 1, 2, 3, 4, 5, 6"),
        (["--rows", "1"], "row 1 is for the newest torch; give --python newest=PATH"),
        (["--python", "new=/bin/sh"], "give oldest or middle or newest=PATH"),
        (["--python", "newest=/nowhere"], "of an interpreter"),
    ],
)
def test_what_it_cannot_run_is_said(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert matrix.main(words) == 2
    assert said in capsys.readouterr().err
