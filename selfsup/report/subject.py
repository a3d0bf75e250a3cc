"""What a report is about: a run folder of pretraining or of a stage, or an encoder, and what its files say."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from selfsup.augment.views import Augment
from selfsup.catalogue import import_methods
from selfsup.config.settings import restore
from selfsup.data.sources import Source
from selfsup.evaluation.encoder import Exported
from selfsup.evaluation.foreign import is_foreign
from selfsup.models.encoder import Encoder
from selfsup.report.contents import DataFacts
from selfsup.report.curves import Curve, read_curves
from selfsup.report.verdict import Kind
from selfsup.run_folder.folder import RunFolder

_PRETRAINING = "pretrain"  # what a pretraining run is stored as
_LOOKED_AT = 64  # images whose sizes are looked at


class Subject(NamedTuple):
    """A run or an encoder, without its images."""

    name: str  # as it is called in commands
    kind: Kind
    exported: Exported
    saved: dict[str, Any]  # the run's settings as they were dumped; {} of weights alone
    environment: dict[str, Any]  # of the run's last launch
    curves: dict[str, Curve]
    step: int | None
    total_steps: int | None

    @property
    def seed(self) -> int:
        """Of the run; 0 where there is none."""
        found = self.saved.get("seed", self.exported.made_by.get("seed"))
        return found if type(found) is int else 0

    @property
    def augment(self) -> Augment | None:
        """The views that the run was trained on; None where its files do not say them."""
        if "augment" not in self.saved:
            return None
        import_methods()
        found: Augment = restore(self.saved["augment"], Augment)
        return found

    def untrained(self) -> Encoder:
        """The encoder as it was before training, of the same seed; torch's random state stays as it is."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self.exported.config.build().eval()

    @property
    def title(self) -> str:
        """Method or stage, and encoder, in a few words."""
        how = self.exported.made_by.get("method") or self.saved.get("class") or "encoder"
        return f"{how}, {self.exported.config.title}"


def subject_of(path: Path, exported: Exported, total_steps: int | None = None) -> Subject:
    """What the files of a run folder, or of an encoder, say.

    Args:
        path: a run folder, an encoder.safetensors, or a file of another project's weights.
        exported: the encoder there.
        total_steps: of the run, where it is known; else what the log and the encoder tell.

    Raises:
        ValueError, OSError: a file of the run cannot be read.
    """
    folder = RunFolder(path)
    if is_foreign(path) or not folder.holds_run:
        return Subject(str(path), "weights", exported, {}, {}, {}, None, None)
    saved = folder.saved_run()
    launches = folder.read_json("environment.json").get("launches", [])
    launch = launches[-1] if launches and isinstance(launches[-1], dict) else {}
    kind: Kind = "pretraining" if saved.get("class") == _PRETRAINING else "stage"
    curves = read_curves(folder.metrics)
    done = exported.made_by.get("steps") if exported.step is None else exported.step
    if total_steps is None:
        total_steps = done if exported.step is None else _foreseen(saved, folder.facts(), exported.step)
    return Subject(str(path), kind, exported, saved, launch, curves, done, total_steps)


def _foreseen(saved: dict[str, Any], facts: dict[str, Any], step: int) -> int:
    """Steps of an unfinished run, by its epochs and images; at least one more than there are."""
    count = facts.get("images")
    count = count.get("count") if isinstance(count, dict) else count
    epochs, batch = saved.get("epochs"), saved.get("batch_size")
    if type(count) is int and type(epochs) is int and type(batch) is int and batch > 0:
        return max(step + 1, count // batch * epochs)
    return step + 1


def facts_of(subject: Subject) -> list[tuple[str, str]]:
    """What the subject is, each in a few words."""
    exported, saved = subject.exported, subject.saved
    method = exported.made_by.get("method") or saved.get("class")
    facts = [("method", str(method))] if method else []
    facts.append(("encoder", f"{exported.config.title}, {exported.encoder.feature_dim} features"))
    facts.append(("fed with", exported.feed.transform))
    if subject.step is not None:
        of = f" of {subject.total_steps:,}" if subject.total_steps and subject.total_steps > subject.step else ""
        facts.append(("steps", f"{subject.step:,}{of}"))
    for name, label in (("epochs", "epochs"), ("batch_size", "batch size"), ("seed", "seed")):
        if saved.get(name) is not None:
            facts.append((label, f"{saved[name]:,}" if type(saved[name]) is int else str(saved[name])))
    if "layout" in exported.made_by:
        facts.append(("imported from", f"{exported.made_by['layout']}: {exported.made_by.get('source', '')}"))
    if subject.environment.get("device"):
        facts.append(("trained on", str(subject.environment["device"])))
    rate = subject.curves.get("images_per_second")
    if rate:
        middle = sorted(rate.values)[len(rate.values) // 2]
        facts.append(("speed", f"{middle:,.0f} images/s"))
    facts.append(("weights", f"SHA-256 {exported.sha256[:16]}"))
    return facts


def data_facts(source: Source, test: Source | None, place: str) -> DataFacts:
    """What is known of the images: how many, of which sizes and classes, and what was left out."""
    known = source.labels[source.labels >= 0]
    facts = [("images", f"{len(source):,}")]
    if place:
        facts.insert(0, ("where", place))
    if test is not None:
        facts.append(("test images", f"{len(test):,}"))
    facts.append(("sizes", _sizes(source)))
    facts.append(("channels", str(source.channels)))
    facts.append(("labels", f"{len(known):,} of {len(source):,} images" if len(known) else source.found.no_labels))
    facts += [("read as", text) for text in source.found.read_as]
    facts += [("left out", text) for text in source.found.left_out]
    if not len(known):
        return DataFacts(facts, [])
    labels, counts = known.unique(return_counts=True)
    classes = [(source.class_name(label), count) for label, count in zip(labels.tolist(), counts.tolist(), strict=True)]
    facts.append(("classes", f"{len(classes):,}"))
    return DataFacts(facts, sorted(classes, key=lambda pair: -pair[1]))


def _sizes(source: Source) -> str:
    """Width x height of images that are spread evenly over the data."""
    count = min(_LOOKED_AT, len(source))
    sizes = []
    for number in range(count):
        try:
            _, (height, width) = source.load_for_canvas(number * len(source) // count, 32)
        except ValueError:  # it cannot be read
            continue
        sizes.append((width, height))
    if not sizes:
        return "none can be read"
    smallest, largest = min(sizes, key=lambda size: size[0] * size[1]), max(sizes, key=lambda size: size[0] * size[1])
    if smallest == largest:
        return f"{smallest[0]} x {smallest[1]}"
    told = f"{smallest[0]} x {smallest[1]} to {largest[0]} x {largest[1]}"
    return told if count == len(source) else f"{told}, in {count} looked at"
