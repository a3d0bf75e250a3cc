"""The sections of a report on a run or an encoder, from the verdict to the configuration."""

from collections.abc import Callable

from selfsup.report import markup
from selfsup.report.charts import number
from selfsup.report.contents import Contents, Example
from selfsup.report.drawing import SERIES, svg
from selfsup.report.markup import details, facts, figure, picture, protocol, table, text
from selfsup.report.page import Section
from selfsup.report.pictures import Album
from selfsup.report.plots import Plot, map_name
from selfsup.report.verdict import judged

_KEYS = 20  # classes in the key of a map
_CLASSES = 200  # rows of a table of classes
_EXPLAINED = {
    "rank_me": ("RankMe", "effective directions of the features, about the origin"),
    "feature_rank": ("directions", "effective directions in which images differ"),
    "feature_std": ("feature std", "0 collapsed, near 1 evenly spread"),
    "alignment": ("alignment", "distance² of two views of an image, 0 to 4; lower is closer"),
    "uniformity": ("uniformity", "0 collapsed, about -4 evenly spread"),
    "clusters": ("clusters", "that have an image"),
    "nmi": ("NMI", "agreement with the classes, 0 to 1"),
    "ari": ("ARI", "agreement with the classes, 0 by chance"),
    "purity": ("purity", "images of their cluster's most frequent class"),
}


def sections(contents: Contents, drawn: dict[str, Plot], album: Album) -> list[Section]:
    """All sections that have something to show."""
    parts: list[tuple[str, str, Callable[[], str]]] = [
        ("verdict", "Verdict", lambda: _verdict(contents, drawn)),
        ("curves", "Curves", lambda: _curves(drawn)),
        ("views", "Views", lambda: _views(contents, album)),
        ("map", "Map of embeddings", lambda: _map(contents, drawn)),
        ("neighbours", "Nearest neighbours", lambda: _neighbours(contents, album)),
        ("clusters", "Clusters", lambda: _clusters(contents, album)),
        ("confusion", "Confusions", lambda: _confusion(contents, drawn, album)),
        ("spread", "Spread of the features", lambda: _spread(contents, drawn)),
        ("results", "Evaluations", lambda: _results(contents)),
        ("data", "Data", lambda: _data(contents)),
        ("run", "Configuration", lambda: _run(contents)),
    ]
    short = {"map": "Map", "neighbours": "Neighbours", "spread": "Spread", "run": "Settings"}
    return [Section(name, title, body, short.get(name, "")) for name, title, made in parts if (body := made())]


def _verdict(contents: Contents, drawn: dict[str, Plot]) -> str:
    found = judged(contents.evidence)
    tones = {"good": "Good: ", "bad": "Bad: ", "unsure": "Unsure: ", "plain": ""}
    said = "".join(
        f"<li class='{tone}'><span class='screen-reader'>{tones[tone]}</span>{_headed(sentence)}</li>"
        for tone, sentence in found.sentences
    )
    advice = "".join(
        f"<li>{text(what, 600)}{f' <code>{text(command, 600)}</code>' if command else ''}</li>"
        for what, command in found.advice
    )
    body = f"<ul class='verdict'>{said}</ul>"
    if advice:
        body += f"<h3>What to do next</h3><ul class='advice'>{advice}</ul>"
    if contents.compared is not None and "compared" in drawn:
        body += f"<div class='beside'>{figure(drawn['compared'].drawing, '', contents.compared.protocol)}</div>"
    if contents.left_out:
        items = "".join(f"<li>{text(word, 600)}</li>" for word in contents.left_out)
        body += f"<h3>What is not on this page</h3><ul class='left-out'>{items}</ul>"
    return body


def _headed(sentence: str) -> str:
    """A finding whose first short sentence stands out."""
    head, _, rest = sentence.partition(". ")
    return f"<strong>{text(head, 600)}.</strong> {text(rest, 600)}" if rest else f"<strong>{text(head, 600)}</strong>"


def _curves(drawn: dict[str, Plot]) -> str:
    first = [figure(drawn[name].drawing, "", curve=name) for name in ("loss", "knn") if name in drawn]
    further = ("accuracy", "rank", "spread", "rate", "seconds")
    names = [name for name in drawn if name in further or name.startswith("log_")]
    body = f"<div class='pair'>{''.join(first)}</div>" if first else ""
    if names:
        rest = "".join(figure(drawn[name].drawing, "", curve=name) for name in names)
        body += details("More curves", f"<div class='pair'>{rest}</div>")
    return body


def _shown(example: Example, album: Album, more: str = "", kind: str = "") -> str:
    told = ", ".join(part for part in (example.label, more, example.name) if part)
    return picture(album.mark(example.picture), told, kind)


def _views(contents: Contents, album: Album) -> str:
    if contents.views is None:
        return ""
    rows = ""
    for image, views in contents.views.rows:
        made = "".join(picture(album.mark(view), f"view {at} of {image.name}") for at, view in enumerate(views, 1))
        rows += f"<div class='row'>{_shown(image, album)}{made}</div>"
    told = (
        "Each image, then its views as the network saw them in the first epoch. What a view no longer shows, the "
        "network cannot learn; what all views of an image share is what it learns."
    )
    return f"<p class='note'>{told}</p><div class='views'>{rows}</div>{protocol(contents.views.protocol)}"


def _map(contents: Contents, drawn: dict[str, Plot]) -> str:
    found = contents.map
    if found is None:
        return ""
    layout = found.shown_first
    key = "".join(
        f"<li><svg viewBox='0 0 10 10' aria-hidden='true'><circle class='fill {SERIES[at % 10]}' cx='5' cy='5' r='5'/>"
        f"</svg>{text(name, 40)}</li>"
        for at, name in enumerate(found.names[:_KEYS])
    )
    more = f"<li>and {len(found.names) - _KEYS} more; colours repeat</li>" if len(found.names) > _KEYS else ""
    drawing = svg(drawn[map_name(layout)].drawing)
    told = f"{len(found.labels):,} images; points that lie near each other have alike features."
    return (
        f"<p class='note'>{text(told, 600)}</p><div class='map'><div>{drawing}</div></div>"
        f"<p class='note map-note'>{text(f'{layout.name}: {layout.note}', 600)}</p>"
        + (f"<ul class='key' aria-label='Classes by colour'>{key}{more}</ul>" if key else "")
        + protocol(found.protocol | {one.name: one.note for one in found.layouts})
    )


def _neighbours(contents: Contents, album: Album) -> str:
    if contents.neighbours is None:
        return ""
    hoods = ""
    for query, before, after in contents.neighbours.found:

        def row(found: list[tuple[Example, float]], label: str = query.label) -> str:
            def kind(example: Example) -> str:
                return "" if not label or not example.label else "right" if example.label == label else "wrong"

            shown = (_shown(example, album, f"cosine {cosine:.2f}", kind(example)) for example, cosine in found)
            return f"<div class='row'>{''.join(shown)}</div>"

        earlier = f"<div><span>before training</span>{row(before)}</div>" if before else ""
        hoods += (
            f"<div class='hood'><div class='query'><span>{text(query.label or 'image', 40)}</span>"
            f"{_shown(query, album)}</div>{earlier}<div><span>after training</span>{row(after)}</div></div>"
        )
    told = "The most alike images by the cosine of their features, before training (same encoder, same seed) and after."
    if any(query.label for query, _, _ in contents.neighbours.found):
        told += " Green: of the same class; red: of another."
    return f"<p class='note'>{told}</p><div class='hoods'>{hoods}</div>{protocol(contents.neighbours.protocol)}"


def _tiles(figures: dict[str, float]) -> str:
    tiles = ""
    for name, value in figures.items():
        title, told = _EXPLAINED.get(name, (name.replace("_", " "), ""))
        tiles += f"<li><b>{number(value)}</b><span>{text(title)}{f': {told}' if told else ''}</span></li>"
    return f"<ul class='tiles'>{tiles}</ul>"


def _clusters(contents: Contents, album: Album) -> str:
    if contents.clusters is None:
        return ""
    sheets = ""
    for at, (size, examples, share, label) in enumerate(contents.clusters.sheets, 1):
        of = f"; {share:.0%} {text(label, 40)}" if share is not None else ""
        shown = "".join(_shown(example, album) for example in examples)
        sheets += f"<div class='sheet'><span>{at}: {size:,} images{of}</span><div class='row'>{shown}</div></div>"
    told = "The largest clusters by k-means, each by its most central images."
    how = protocol(contents.clusters.protocol)
    return f"<p class='note'>{told}</p>{_tiles(contents.clusters.figures)}<div class='sheets'>{sheets}</div>{how}"


def _confusion(contents: Contents, drawn: dict[str, Plot], album: Album) -> str:
    found = contents.confusion
    if found is None:
        return ""
    rows = [[name, f"{recall:.1%}", f"{images:,}"] for name, recall, images in found.per_class[:_CLASSES]]
    per_class = table(("class", "found", "images"), rows, "Share of each class that is found")
    mistakes = "".join(
        f"<div class='mistake'>{_shown(example, album)}<span>{text(example.label, 40)}<br><small>taken for "
        f"{text(taken, 40)}, {share:.0%} sure</small></span></div>"
        for example, taken, share in found.mistakes
    )
    told = "Rows are classes, columns what their images were taken for; green is right, orange is wrong."
    drawing = figure(drawn["confusion"].drawing, told, found.protocol, wide=True)
    body = f"<div class='pair'>{drawing}<div>{per_class}</div></div>"
    return body + (f"<h3>Worst mistakes</h3><div class='mistakes'>{mistakes}</div>" if mistakes else "")


def _spread(contents: Contents, drawn: dict[str, Plot]) -> str:
    found = contents.spectrum
    if found is None:
        return ""
    told = (
        "As shares of their sum, the largest first. A steep fall at the beginning means that few directions hold all."
    )
    drawing = figure(drawn["spectrum"].drawing, told, found.protocol) if "spectrum" in drawn else ""
    return _tiles(found.figures) + drawing


def _results(contents: Contents) -> str:
    rows = [
        [result.stage, name.removeprefix(f"{result.stage.partition('_')[0]}_"), number(value), _brief(result.protocol)]
        for result in contents.results
        for name, value in result.figures.items()
    ]
    return table(("evaluation", "figure", "value", "protocol"), rows, "Evaluations") if rows else ""


def _brief(found: dict[str, object]) -> str:
    return ", ".join(f"{name} {markup.shown(value)}" for name, value in found.items() if name not in ("data",))


def _data(contents: Contents) -> str:
    if contents.data is None:
        return ""
    rows = [[name, f"{count:,}"] for name, count in contents.data.classes]
    more = f"<p class='note'>and {len(rows) - _CLASSES:,} more classes</p>" if len(rows) > _CLASSES else ""
    classes = table(("class", "images"), rows[:_CLASSES], "Images of each class") + more if rows else ""
    return f"<div class='pair'><div>{facts(contents.data.facts)}</div><div>{classes}</div></div>"


def _run(contents: Contents) -> str:
    body = facts(contents.facts)
    for title, found in (("All settings", contents.settings), ("Environment", contents.environment)):
        if found:
            body += details(title, table(("setting", "value"), markup.flattened(found), title))
    return body
