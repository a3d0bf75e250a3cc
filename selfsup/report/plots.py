"""The drawings of a run's report, by name: for the page, for its scripts, and for PNG files."""

from typing import Any, NamedTuple

from selfsup.report.charts import Bar, Series, bars, decay, heat_map, lines, scatter
from selfsup.report.contents import Contents, EmbeddingMap, Layout
from selfsup.report.curves import Curve, thinned
from selfsup.report.drawing import SERIES, Drawing

_STILL = 2_000  # points of a map that is drawn without scripts
_TITLES = {"loss": "Loss", "knn": "kNN and linear probe during training", "accuracy": "Accuracy of the training task"}
_TITLES |= {"rank": "Directions of the embeddings", "spread": "Spread of the embeddings", "rate": "Learning rate"}
_TITLES |= {"seconds": "Seconds of training, and of the evaluation after it"}
# What is drawn in one chart, by the names in the log.
_TOGETHER = {
    "loss": {"loss": "loss"},
    "knn": {"knn_top1": "kNN", "linear_top1": "linear probe"},
    "accuracy": {"accuracy": "accuracy", "top1": "top-1"},
    "rank": {"rank_me": "RankMe", "feature_rank": "about the mean"},
    "spread": {"feature_std": "feature std", "alignment": "alignment", "uniformity": "uniformity"},
    "rate": {"learning_rate": "learning rate"},
    "seconds": {"seconds_training": "training", "seconds_evaluation": "evaluation"},
}
_DRAWN_OTHERWISE = {name for group in _TOGETHER.values() for name in group} | {"epoch", "skipped_steps"}
_MOST = 12  # further figures of the log that are drawn


class Plot(NamedTuple):
    """A drawing, and its data for the scripts where these draw it anew."""

    drawing: Drawing
    data: dict[str, Any] | None = None


def plots(contents: Contents) -> dict[str, Plot]:
    """All drawings that there are figures for."""
    found = {}
    for name, group in _TOGETHER.items():
        series = [
            _series(label, contents.curves[key], SERIES[place])
            for place, (key, label) in enumerate(group.items())
            if key in contents.curves
        ]
        if series:
            found[name] = curve_plot([*series, *(_baselines(contents) if name == "knn" else [])], _TITLES[name])
    for name in [name for name in contents.curves if name not in _DRAWN_OTHERWISE][:_MOST]:
        said = name.replace("_", " ")
        found[f"log_{name}"] = curve_plot([_series(said, contents.curves[name], SERIES[0])], said)
    if contents.compared is not None:
        colours = {
            "raw pixels": SERIES[8],
            "untrained encoder": SERIES[1],
            "this encoder": SERIES[0],
            "its classifier": SERIES[2],
        }
        shares = [Bar(name, share.value, colours.get(name, SERIES[2])) for name, share in contents.compared.shares]
        found["compared"] = Plot(bars(shares, "Images whose class kNN finds"))
    if contents.map is not None:
        for layout in contents.map.layouts:
            found[map_name(layout)] = Plot(still_map(contents.map, layout))
    if contents.confusion is not None:
        found["confusion"] = Plot(heat_map(contents.confusion.matrix, contents.confusion.names, "Confusion matrix"))
    if contents.spectrum is not None and max(contents.spectrum.shares) > 0:
        found["spectrum"] = Plot(decay(contents.spectrum.shares, "Singular values of the features", "number"))
    return found


def map_name(layout: Layout) -> str:
    """What the drawing of a map goes by."""
    return "map_" + layout.name.lower().replace("-", "")


def _series(name: str, curve: Curve, colour: str) -> Series:
    few = thinned(curve)
    return Series(name, few.steps, few.values, colour)


def _baselines(contents: Contents) -> list[Series]:
    """Level lines for what training is to surpass; their images may be others than those of the log."""
    steps = contents.curves["knn_top1"].steps if "knn_top1" in contents.curves else []
    if contents.compared is None or len(steps) < 2:
        return []
    shares = dict(contents.compared.shares)
    given = [(name, colour) for name, colour in (("raw pixels", SERIES[8]), ("untrained encoder", SERIES[4]))]
    ends = [steps[0], steps[-1]]
    return [Series(name, ends, [shares[name].value] * 2, colour, True) for name, colour in given if name in shares]


def curve_plot(series: list[Series], title: str) -> Plot:
    """Lines over steps, with their values for the scripts; a series may lack steps of others."""
    x = sorted({step for one in series for step in one.x})
    values = [dict(zip(one.x, one.y, strict=True)) for one in series]
    data = {
        "x_name": "step",
        "x": x,
        "series": [
            {"name": one.name, "colour": one.colour, "dashed": one.dashed, "y": [_short(own.get(step)) for step in x]}
            for one, own in zip(series, values, strict=True)
        ],
    }
    return Plot(lines(series, title), data)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def still_map(found: EmbeddingMap, layout: Layout) -> Drawing:
    """A map of at most 2,000 of its points, which are in random order."""
    count = min(_STILL, len(layout.places))
    rows = range(count) if layout.rows is None else layout.rows[:count].tolist()
    groups = found.labels
    by = "class"
    if int(groups.max()) < 0 and found.clusters is not None:
        groups, by = found.clusters, "cluster"
    points = [(x, y) for x, y in layout.places[:count].tolist()]
    colours = [int(groups[row]) for row in rows]
    kinds = len(set(colours) - {-1})
    told = f"{count:,} images as points; their colour is their {by}, of {kinds}; {layout.note}."
    return scatter(points, colours, f"Map of embeddings by {layout.name}", told)
