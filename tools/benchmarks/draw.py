"""Draw the recorded figures: `python -m tools.benchmarks.draw`.

Reads the lines in docs/benchmarks/*.jsonl, which the other benchmarks print, and writes the drawings that
docs/performance.md shows: rates beside those of others, as bars on a logarithmic axis, with the range of their runs;
what grows with the size of a batch, and what is learnt with time, as lines; and the parts of a step. What has not been
recorded is left out and said.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import json
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from selfsup.output import message, print_figures, program
from tools.checkout import ROOT

Lines = list[dict[str, Any]]
_OURS, _OTHERS, _INK = "#1f6feb", "#9aa4b2", "#30363d"
_NAMES = {
    "fused": "selfsup",
    "streaming": "selfsup",
    "ours": "selfsup",
    "kornia_pipeline": "kornia, batched",
    "kornia_reference": "kornia, image by image",
    "torchvision_v2": "torchvision v2, tensors",
    "pil": "torchvision, PIL",
    "torch_dataloader": "DataLoader, PIL, v2",
    "dali": "NVIDIA DALI, on the CPU",
    "faiss": "selfsup, by faiss",
    "torch": "selfsup, by torch",
    "plain_faiss": "faiss.knn",
    "plain_torch": "torch, a plain loop",
}
_SHARES = ("#1f6feb", "#8250df", "#bf8700", "#cf222e", "#1a7f37")  # of the parts of a step beside the network


def recorded(folder: Path) -> Lines:
    """Every line of every record."""
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def rates(lines: Lines, title: str, path: Path) -> None:
    """A bar for each contestant, as long as its median rate; a line from its lowest to its highest run."""
    lines = sorted(lines, key=lambda line: float(line["median"]))
    figure = Figure(figsize=(6.4, 0.8 + 0.36 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    for place, line in enumerate(lines):
        contestant = line["name"].partition("/")[2]
        ours = _NAMES.get(contestant, "").startswith("selfsup")
        axes.barh(place, line["median"], color=_OURS if ours else _OTHERS, height=0.62)
        axes.plot([line["min"], line["max"]], [place, place], color=_INK, linewidth=1.2)
        ratio = line["ratio_of_ours"]
        times = "" if ours else f"  ({ratio:.2g} x slower)" if ratio >= 1 else f"  ({1 / ratio:.2g} x faster)"
        axes.text(line["max"] * 1.06, place, f"{line['median']:,.0f}{times}", va="center", fontsize=8, color=_INK)
    names = [str(line["name"]).partition("/")[2] for line in lines]
    axes.set_yticks(range(len(lines)), [_NAMES.get(name, name) for name in names])
    axes.set_xscale("log")
    axes.set_xlim(min(line["min"] for line in lines) / 2, max(line["max"] for line in lines) * 4)
    axes.set_xlabel(lines[0]["unit"], fontsize=8)
    axes.tick_params(which="both", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=9, loc="left")
    _save(figure, path)


def growth(lines: Lines, figure_name: str, unit: str, scale: float, title: str, path: Path) -> None:
    """A figure of the tiled and the dense loss over the number of images, both axes logarithmic."""
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.add_subplot()
    for contestant, colour, name in (("tiles", _OURS, "selfsup, tiles"), ("dense", _OTHERS, "the whole matrix")):
        found = sorted(
            (line["images"], float(line[figure_name]) * scale)
            for line in lines
            if line["name"] == f"nt_xent/{contestant}"
        )
        if found:
            axes.plot(*zip(*found, strict=True), color=colour, marker="o", markersize=4, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("images in a batch", fontsize=8)
    axes.set_ylabel(unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="#d0d7de", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    axes.set_title(title, fontsize=9, loc="left")
    _save(figure, path)


def learning(lines: Lines, path: Path) -> None:
    """kNN after every epoch over the seconds of the whole process, a line for each seed."""
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.add_subplot()
    named: set[str] = set()
    for line in lines:
        contestant = line["name"].partition("/")[2]
        name, colour = ("selfsup", _OURS) if contestant == "ours" else (contestant, _OTHERS)
        label = None if name in named else name
        axes.plot(line["seconds"], line["knn_top1"], color=colour, marker="o", markersize=3, label=label)
        named.add(name)
    axes.set_xlim(left=0)
    axes.set_xlabel("seconds since the start of the process", fontsize=8)
    axes.set_ylabel("kNN on test images", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(color="#d0d7de", linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    first = lines[0]
    axes.set_title(f"{first['recipe']}, {first['images']:,} images, each seed", fontsize=9, loc="left")
    _save(figure, path)


def shares(lines: Lines, path: Path) -> None:
    """What of a step the parts beside the network take, in percent, a bar for each recipe."""
    figure = Figure(figsize=(6.4, 1.0 + 0.4 * len(lines)), layout="constrained")
    axes = figure.add_subplot()
    for place, line in enumerate(lines):
        begin = 0.0
        parts = {part: share for part, share in line["shares"].items() if part != "network"}
        for colour, (part, share) in zip(_SHARES, parts.items(), strict=True):
            label = part if place == 0 else None
            axes.barh(place, 100 * share, left=100 * begin, color=colour, height=0.6, label=label)
            begin += share
    axes.set_yticks(range(len(lines)), [line["encoder"] for line in lines])
    axes.set_xlabel("percent of the whole step; the network takes the rest", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, ncols=len(_SHARES), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """The same bytes for the same figures; letters are text."""
    with mpl.rc_context({"svg.hashsalt": "selfsup", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def draw(records: Path, out: Path) -> list[str]:
    """All drawings that there are figures for; their names."""
    lines, written = recorded(records), []
    out.mkdir(parents=True, exist_ok=True)
    groups: dict[str, tuple[str, dict[str, object], str]] = {
        "views_32": ("augment", {"size": 32}, "Views of 32 px, one core"),
        "views_224": ("augment", {"size": 224}, "Views of 224 px from 256 px, one core"),
        "crops": ("crops", {"view": 224, "workers": 0, "interpolation": "bilinear"}, "Two crops of a photograph"),
        "pairs": ("pairs", {"size": 224}, "Pairs of views of 224 px from JPEG files, two cores"),
        "knn": ("knn", {"dim": 512, "threads": 1}, "kNN: queries a second, one thread"),
    }
    for name, (kind, wanted, title) in groups.items():
        found = [line for line in lines if line["name"].startswith(f"{kind}/") and wanted.items() <= line.items()]
        if not found:
            message(f"{name}: nothing is recorded; run tools.benchmarks and keep its lines in {records}")
            continue
        rates(found, title, out / f"{name}.svg")
        written.append(name)
    losses = [line for line in lines if line["name"] in ("nt_xent/tiles", "nt_xent/dense")]
    if losses:
        growth(losses, "median", "seconds of one core", 1.0, "NT-Xent, forward and backward", out / "loss_seconds.svg")
        growth(losses, "extra_mb", "MB", 1.0, "NT-Xent, extra memory", out / "loss_memory.svg")
        written += ["loss_seconds", "loss_memory"]
    for name, kind, work in (("learning", "learning/", learning), ("step_share", "step_share", shares)):
        if found := [line for line in lines if line["name"].startswith(kind) and "failed" not in line]:
            work(found, out / f"{name}.svg")
            written.append(name)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=Path, default=ROOT / "docs" / "benchmarks", help="folder of recorded lines")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "drawn", help="for the drawings")
    asked = parser.parse_args()
    print_figures({"drawn": draw(asked.records, asked.out)})


if __name__ == "__main__":
    with program():
        main()
