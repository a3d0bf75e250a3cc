"""What a report shows is put together here: each part by itself, so that one that fails costs only itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from selfsup.data.sources import Source
from selfsup.evaluation.features import Features
from selfsup.models.heads import Classifier
from selfsup.output import message
from selfsup.report.contents import Compared, Confusion, Contents, Protocol, Scored
from selfsup.report.curves import ends
from selfsup.report.embedding_map import embedding_map, with_pictures
from selfsup.report.encoding import Deadline, Feeding, drawn, features_within, first, labelled, raw_pixels
from selfsup.report.examples import VIEWED, clustered, neighbours, views_shown
from selfsup.report.figures import BANK, FEW, PAIRS, SPECTRUM, Judging, Seen, classified, confusion, spectrum
from selfsup.report.pictures import Examples
from selfsup.report.subject import Subject, data_facts, facts_of
from selfsup.report.verdict import Evidence, Share

QUERIES = 2_000  # test images that are judged, at most, and no more than half as many as vote where time is short
_MUCH = 60.0  # seconds left, with which nothing has to be hurried
_SHARE = 0.12  # of the time for reading out features of the images that are shown
_PIXELS, _UNTRAINED, _TRAINED, _CLASSIFIER = "raw pixels", "untrained encoder", "this encoder", "its classifier"
_Part = TypeVar("_Part")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How much is done for a report."""

    images: int = 5_000  # of the training part, at most
    seconds: float = 600.0  # in which all should be done; what there is no time for is left out, and said
    tsne: int = 2_000  # images that t-SNE and UMAP place; 0: neither
    tsne_seconds: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Images:
    """The images that an encoder is looked at by."""

    source: Source  # those of training, as they are numbered there
    test: Source | None  # those that kNN asks about; None: images of `source` ask all others
    feeding: Feeding
    place: str = ""  # where they lie


def collect(subject: Subject, images: Images | None, effort: Effort, results: list[Scored]) -> Contents:
    """All that a page shows of a run or an encoder.

    Args:
        subject: it.
        images: None where there are none: then the page shows what the files say.
        effort: how much is done.
        results: of evaluations that were carried out before.
    """
    contents = Contents(
        title=subject.title,
        facts=facts_of(subject),
        evidence=_evidence(subject),
        curves=subject.curves,
        results=results,
        settings=subject.saved or None,
        environment=subject.environment or None,
    )
    if images is None:
        contents.left_out.append("Without images there are only the figures of the log.")
    else:
        _Collecting(subject, images, effort, contents).all()
    return contents


def _evidence(subject: Subject) -> Evidence:
    loss, knn, alarm, epoch = (subject.curves.get(name) for name in ("loss", "knn_top1", "collapse_alarm", "epoch"))
    rise = None
    if knn is not None and len(knn.values) >= 4:
        rise = knn.values[-1] - knn.values[len(knn.values) * 3 // 4 - 1]
    return Evidence(
        kind=subject.kind,
        name=subject.name,
        step=subject.step,
        total_steps=subject.total_steps,
        epochs=round(epoch.values[-1]) if epoch else None,
        loss=ends(loss) if loss and len(loss.values) > 1 else None,
        alarm=bool(alarm and loss and alarm.steps[-1] == loss.steps[-1]),
        rise=rise,
        classifier=isinstance(subject.exported.head, Classifier),
    )


class _Collecting:
    """The parts of one report that need images."""

    def __init__(self, subject: Subject, images: Images, effort: Effort, contents: Contents) -> None:
        self.subject, self.images, self.effort, self.contents = subject, images, effort, contents
        self.deadline = Deadline(effort.seconds)
        self.shown = drawn(images.source, effort.images)
        self.examples = Examples(self.shown)
        self.before: Features | None = None  # of the first images of `shown`, by the untrained encoder
        self.protocol: Protocol = {"features": "backbone", **subject.exported.protocol}

    def all(self) -> None:
        """Put together what there is time for, the most telling parts first."""
        self._part("data", lambda: data_facts(self.images.source, self.images.test, self.images.place))
        self._part("views", self._views)
        read = self._try("features", self._features)
        if read is None:
            self._leave_out("all that features tell")
            return
        self._part("spectrum", lambda: self._spectrum(read))
        self._part("compared", lambda: self._compared(read))
        if self.before is None and not self.deadline.passed:
            self.before = self._try(
                "untrained encoder", lambda: self._read(self.subject.untrained(), self._same(read), 0.3)
            )
        before = None if self.before is None else self.before.features
        self._part("neighbours", lambda: neighbours(read, before, self.examples, self.protocol))
        clusters: list[Tensor] = []
        self._part("clusters", lambda: self._clusters(read, clusters))
        self._part("map", lambda: self._map(read, clusters))

    def _part(self, name: str, made: Callable[[], object]) -> None:
        """A part of the contents, unless the time is up."""
        if self.deadline.passed:
            self._leave_out(name)
            return
        found = self._try(name, made)
        if found is not None:
            setattr(self.contents, name, found)

    def _try(self, name: str, made: Callable[[], _Part]) -> _Part | None:
        """What a part is; None, and a word, where it cannot be had."""
        try:
            return made()
        except (ValueError, OSError, RuntimeError, ArithmeticError, LookupError, TypeError) as error:
            why = str(error).partition("\n")[0]
            message(f"the report goes without {_NAMES.get(name, name)}: {why}")
            self.contents.left_out.append(f"Left out: {_NAMES.get(name, name)}, because of an error: {why}")
            return None

    def _leave_out(self, name: str) -> None:
        said = _NAMES.get(name, name)
        self.contents.left_out.append(f"Left out: {said}, for want of time ({self.effort.seconds:.2g} s were given).")

    def _know(self, **found: Any) -> None:
        self.contents.evidence = replace(self.contents.evidence, **found)

    def _read(self, network: nn.Module, source: Source, share: float) -> Features | None:
        """Features of as many images as there is this share of the time left for."""
        return features_within(network, source, self.images.feeding, Deadline(share * self.deadline.left))

    def _features(self) -> Features | None:
        read = self._read(self.subject.exported.encoder, self.shown, _SHARE)
        if read is None:
            return None
        read.require_finite()
        if len(read.labels) < len(self.shown):
            told = f"{len(read.labels):,} of {len(self.shown):,} images were read in the time that was given."
            self.contents.left_out.append(told)
        return read

    def _same(self, read: Features) -> Source:
        """Those of the images that are shown that have been read."""
        return self.shown.select(torch.arange(int(read.indices.max()) + 1))

    def _rows(self, count: int) -> Tensor:
        """Positions in the source, spread evenly."""
        total = len(self.images.source)
        return torch.arange(min(count, total)) * total // min(count, total)

    def _seen(self) -> Seen | None:
        augment = self.subject.augment
        return None if augment is None else Seen(augment, self.subject.seed, self.images.source, self.images.feeding)

    def _views(self) -> object:
        seen = self._seen()
        return seen and views_shown(seen, self._rows(VIEWED), Examples(self.images.source))

    def _spectrum(self, read: Features) -> object:
        most = SPECTRUM if self.deadline.left > _MUCH else FEW
        found = spectrum(read.features, self.protocol, most)
        self._know(feature_std=found.figures["feature_std"], feature_rank=found.figures["feature_rank"])
        seen = self._seen()
        if seen is None:
            return found._replace(protocol=found.protocol | {"alignment": "needs the views of a pretraining run"})
        rows = self._rows(PAIRS)
        pairs = seen.alignment(self.subject.exported.encoder, rows)
        how = f"of the first two views of {len(rows)} images" if pairs else "needs two views of an image"
        aligned = {"alignment": pairs["alignment"]} if pairs else {}
        return found._replace(figures=found.figures | aligned, protocol=found.protocol | {"alignment": how})

    def _compared(self, read: Features) -> Compared | None:
        """kNN of pixels, of the untrained encoder and of the trained one; and which classes are confused."""
        classes = len(labelled(read).labels.unique())
        if classes < 2:
            no_labels = self.images.source.found.no_labels
            self.contents.left_out.append(f"kNN and confusions need labels of two classes: {no_labels}.")
            return None
        self._know(labels=True, classes=classes)
        encoders = {_PIXELS: raw_pixels(self.images.feeding.center), _UNTRAINED: self.subject.untrained()}
        banks = {_TRAINED: read} | self._each(encoders, self._same(read))
        self.before = banks.get(_UNTRAINED)
        banks = _alike({name: labelled(first(bank, BANK)) for name, bank in banks.items()})
        queries: dict[str, Features] = {}
        if self.images.test is not None and int(self.images.test.labels.max()) >= 0:
            known = {_TRAINED: self.subject.exported.encoder} | {
                name: encoders[name] for name in encoders if name in banks
            }
            most = QUERIES if len(read.labels) == len(self.shown) else min(QUERIES, len(read.labels) // 2)
            read_too = self._each(known, drawn(self.images.test, most))
            queries = _alike({name: labelled(found) for name, found in read_too.items()})
            queries = queries if _TRAINED in queries else {}
        judging = Judging(banks[_TRAINED].labels, not queries, self.images.feeding.device)
        asked = {name: bank for name, bank in banks.items() if not queries or name in queries}
        shares = {name: judging.share(bank, queries.get(name)) for name, bank in asked.items()}
        protocol = judging.protocol(banks[_TRAINED], queries.get(_TRAINED)) | self.protocol
        self._know(pixels=shares.get(_PIXELS), untrained=shares.get(_UNTRAINED), trained=shares.get(_TRAINED))
        self._part("confusion", lambda: self._confusion(judging, banks[_TRAINED], queries.get(_TRAINED), protocol))
        classifier = self.contents.evidence.decided
        if classifier is not None:
            shares[_CLASSIFIER] = classifier
        order = [(name, shares[name]) for name in (_PIXELS, _UNTRAINED, _TRAINED, _CLASSIFIER) if name in shares]
        return Compared(order, protocol)

    def _each(self, encoders: dict[str, nn.Module], source: Source) -> dict[str, Features]:
        """Features by each encoder, of equally many images; of none that there was no time for."""
        found = {}
        for place, (name, network) in enumerate(encoders.items()):
            read = self._read(network, source, 0.5 / (len(encoders) - place))
            if read is not None:
                found[name] = read
        return found

    def _confusion(self, judging: Judging, bank: Features, queries: Features | None, protocol: Protocol) -> Confusion:
        asked = bank if queries is None else queries
        source = self.shown if queries is None or self.images.test is None else drawn(self.images.test, QUERIES)
        names = [source.class_name(label) for label in range(int(max(bank.labels.max(), asked.labels.max())) + 1)]
        head = self.subject.exported.head
        if not isinstance(head, Classifier) or list(head.config.class_names) != names:
            chosen, shares = judging.choices(bank, queries)
            return confusion(asked, chosen, shares, names, Examples(source), {"by": "kNN"} | protocol)
        chosen, shares = classified(head, asked.features, self.images.feeding.device)
        self._know(decided=Share(int((chosen == asked.labels).sum()), len(chosen)))
        how = {"by": "the classifier", "images that are judged": len(chosen)} | self.protocol
        if queries is None:
            how["beware"] = "these are training images: it may have learnt from some of them"
        return confusion(asked, chosen, shares, names, Examples(source), how)

    def _clusters(self, read: Features, found: list[Tensor]) -> object:
        sheets, clusters = clustered(read, self.shown, self.examples, self.protocol)
        found.append(clusters)
        return sheets

    def _map(self, read: Features, clusters: list[Tensor]) -> object:
        count = int(read.labels.max()) + 1
        names = [self.shown.class_name(label) for label in range(count)]
        time = min(self.effort.tsne_seconds, 0.6 * self.deadline.left)
        protocol = self.protocol | {"metric": "cosine", "images": len(read.labels)}
        found, left_out = embedding_map(
            read.features, read.labels, names, self.effort.tsne, time, self.deadline, protocol
        )
        self.contents.left_out += left_out
        found = found._replace(clusters=clusters[0] if clusters else None)
        return with_pictures(found, read.indices, self.examples, self.deadline)


_NAMES = {  # of the parts, for people
    "data": "the account of the data",
    "views": "the augmented views",
    "features": "features",
    "untrained encoder": "the untrained encoder",
    "spectrum": "spectrum and spread of features",
    "compared": "kNN beside pixels and the untrained encoder",
    "confusion": "the confusion matrix",
    "neighbours": "nearest neighbours",
    "clusters": "clusters",
    "map": "the map of embeddings",
}


def _alike(found: dict[str, Features]) -> dict[str, Features]:
    """The first rows of each, equally many: all were read in one order, and some perhaps not to the end."""
    count = min((len(features.labels) for features in found.values()), default=0)
    return {name: first(features, count) for name, features in found.items() if count}
