"""Contents of a report that nothing had to be computed for, and a page read back."""

from html.parser import HTMLParser
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selfsup.report.contents import (
    Clusters,
    ClusterSheet,
    Compared,
    Confusion,
    Contents,
    DataFacts,
    EmbeddingMap,
    Example,
    Layout,
    Mistake,
    Neighbourhood,
    Neighbours,
    Scored,
    Spectrum,
    ViewRows,
)
from selfsup.report.curves import Curve
from selfsup.report.verdict import Evidence, Share

POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
_EMPTY = ("meta", "img", "br", "wbr", "link", "input")  # elements without an end


def noise(seed: int, edge: int = 64) -> Image.Image:
    """A picture that no format makes small."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (edge, edge, 3), dtype=np.uint8))


def random_map(points: int, thumbs: int, names: list[str]) -> EmbeddingMap:
    """Points anywhere, of any class and cluster; pictures of noise for the first of them."""
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int, least: int = 0) -> Tensor:
        return torch.randint(least, count, (points,), generator=generator)

    layouts = [
        Layout("PCA", None, torch.rand(points, 2, generator=generator), "two axes"),
        Layout("t-SNE", torch.arange(min(points, 5000)), torch.rand(min(points, 5000), 2, generator=generator), "some"),
    ]
    pictured = [(row, Example(noise(row, 40), names[row % len(names)], names[0])) for row in range(thumbs)]
    return EmbeddingMap(layouts, drawn(len(names), -1), names, drawn(10), pictured, {"images": points})


def contents(word: str = "cat", points: int = 60, thumbs: int = 5, examples: int = 4) -> Contents:
    """Something in every part; `word` stands wherever a word comes from files, names or settings."""
    names = [word, f"{word}2", "dog"]
    shown = [Example(noise(seed), f"/data/{word}/{seed}.png", word) for seed in range(examples)]
    near = [(example, 0.5) for example in shown]
    how = {"k": 5, word: word}
    return Contents(
        title=f"SimCLR, {word}",
        facts=[("method", word), (word, "x")],
        evidence=Evidence(
            kind="pretraining",
            name=f"runs/{word}",
            step=10,
            total_steps=10,
            loss=(5.0, 4.0),
            feature_std=0.5,
            feature_rank=20.0,
            labels=True,
            classes=3,
            pixels=Share(300, 1000),
            untrained=Share(250, 1000),
            trained=Share(500, 1000),
        ),
        curves={name: Curve([1, 2, 3], [3.0, 2.0, 1.5]) for name in ("loss", "knn_top1", "feature_std", word)},
        results=[Scored(word, {"knn_top1": 0.5, word: 0.25}, how)],
        compared=Compared([("raw pixels", Share(300, 1000)), ("this encoder", Share(500, 1000))], how),
        views=ViewRows([(shown[0], [noise(90), noise(91)])], how),
        map=random_map(points, thumbs, names),
        neighbours=Neighbours([Neighbourhood(shown[0], near, near)], how),
        clusters=Clusters([ClusterSheet(9, shown, 0.5, word)], {"clusters": 2, "nmi": 0.5}, how),
        confusion=Confusion(
            [[5, 1, 0], [2, 3, 1], [0, 0, 4]], names, [Mistake(shown[1], word, 0.9)], [(word, 0.5, 6)], how
        ),
        spectrum=Spectrum([0.5, 0.3, 0.2], {"rank_me": 2.5}, how),
        data=DataFacts([("where", word)], [(word, 10)]),
        settings={"class": "pretrain", "name": word, word: [1, 2]},
        environment={"command": word},
        left_out=[f"No {word}."],
    )


class Read(HTMLParser):
    """A page read back, which fails where elements are not closed in the order in which they were opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.opened, f"never closed: {self.opened}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _EMPTY:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.opened, f"{tag} ends, and was not begun"
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.opened and self.opened[-1] == "script":
            self.scripts.append(data)
        elif not self.opened or self.opened[-1] != "style":
            self.text += data

    def of(self, tag: str) -> list[dict[str, Any]]:
        """The attributes of all elements of a kind."""
        return [attributes for name, attributes in self.tags if name == tag]
