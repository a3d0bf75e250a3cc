"""The settings of `selfsup semi`: three or four parts that have to agree."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from selfsup.catalogue import catalogue
from selfsup.config.flags import flags_in, parse, pop_flag, values_of
from selfsup.config.recipe_files import load_recipe, recipe_names
from selfsup.config.settings import execution, restore
from selfsup.data.base import Source
from selfsup.data.identity import Content, content_of, fingerprint_before
from selfsup.data.labelled import Labelled, image_names, names_digest
from selfsup.data.opening import with_labels
from selfsup.data.parts import open_data
from selfsup.data.settings import Data
from selfsup.devices.choice import Device
from selfsup.evaluation.foreign import is_foreign
from selfsup.evaluation.newest import newest_encoder
from selfsup.models.encoder import Encoder
from selfsup.pretraining import Run
from selfsup.run_folder.folder import RunFolder
from selfsup.runtime.arithmetic import Precision
from selfsup.stages.distill_settings import Distill, distill_settings, with_student
from selfsup.stages.finetune_settings import Finetune, finetune_settings
from selfsup.stages.run_data import beside_named_data
from selfsup.stages.supervised import require_labels
from selfsup.stages.teacher import check_student
from selfsup.training.settings import Training

# Flags of the command that stand for those of fields.
SHORT = {
    "--label-fraction": "--labelled.fraction",
    "--labels-per-class": "--labelled.per-class",
    "--labels-file": "--labelled.file",
}


@dataclass(frozen=True, kw_only=True)
class Semi:
    """A classifier from few labels and the encoder of a run. What is shared by all parts is said once, here."""

    stored_as: ClassVar[str] = "semi"
    labelled: Labelled = Labelled()  # which images are used with their label, by every part
    data: Data = Data()
    seed: int = 0
    precision: Precision = "auto"
    device: Device = execution("auto")  # a CUDA GPU, else an Apple GPU (mps), else the CPU
    workers: int = execution(2)  # processes that decode photographs; arrays need none
    folder: str = execution("")  # empty: <name>_semi_<labels>, beside the run, or in runs/ for a recipe
    max_steps: int | None = execution(None)  # stop after so many steps of all parts together
    max_minutes: float | None = execution(None)  # save and stop after this time; the same command goes on
    finetune: Finetune
    supervised: Finetune  # the baseline: the same network drawn anew, the same labels, as many steps
    distill: Distill

    @property
    def parts(self) -> dict[str, Training]:
        """The settings of the parts, by the names of their folders, in their order."""
        return {"finetune": self.finetune, "supervised": self.supervised, "distill": self.distill}


@dataclass(frozen=True, kw_only=True)
class SemiFromRecipe(Semi):
    """A classifier from few labels, pretraining included."""

    stored_as: ClassVar[str] = "semi_from_recipe"
    pretrain: Run

    @property
    def parts(self) -> dict[str, Training]:
        return {"pretrain": self.pretrain, **super().parts}


_SHARED = ("data", "seed", "precision", "device", "workers")


# The settings


def parse_semi(name: str, flags: list[str]) -> Semi:
    """The settings of `selfsup semi NAME flags`.

    What a part's settings follow from (the recipe, the labels, the protocols) may itself be given by flags, so the
    flags are read again with the defaults that follow from what they said.

    Args:
        name: a recipe, a run folder or an encoder.safetensors.
        flags: any field, or one of `SHORT`.

    Raises:
        ValueError: there is no such recipe or run, or a flag is wrong.
    """
    words = [SHORT.get(head, head) + equals + rest for head, equals, rest in (flag.partition("=") for flag in flags)]
    protocols = (
        pop_flag(words, "--finetune.protocol", "simclr_v2")[0],
        pop_flag(words, "--distill.protocol", "self")[0],
    )
    settings = semi_settings(name, *protocols)
    if not isinstance(settings, SemiFromRecipe):
        named = beside_named_data(settings.data, values_of(words, "--data.root"), flags_in(words))
        settings = settle(name, replace(settings, data=named))
    for _ in range(2):  # the baseline follows from fine-tuning, which follows from the labels
        settings = settle(name, parse(settings, words, f"selfsup semi {name}"))
    return parse(settings, words, f"selfsup semi {name}")


def semi_settings(name: str, finetune: str = "simclr_v2", distill: str = "self") -> Semi:
    """The default settings for a recipe or a run and the protocols of two parts; see `settle`."""
    saved, encoder = _origin(name)
    tuned = finetune_settings(finetune, Data())
    parts: dict[str, Any] = {
        "finetune": tuned,
        "supervised": replace(tuned, start="random"),
        "distill": distill_settings(distill, Data(), encoder),
    }
    if isinstance(saved, Run):
        shared = {field: getattr(saved, field) for field in (*_SHARED, "max_steps", "max_minutes")}
        run = replace(saved, max_steps=None, max_minutes=None)
        return settle(name, SemiFromRecipe(pretrain=run, **shared, **parts))
    kept = {field: saved[field] for field in ("seed", "precision", "workers") if field in saved}
    data: Data = restore(saved["data"], Data) if "data" in saved else Data()
    return settle(name, Semi(data=data, **kept, **parts))


def _origin(name: str) -> tuple[Run | dict[str, Any], Encoder.Config]:
    """A recipe, or what a run folder says of its run; and the encoder's settings."""
    if _is_run(name):
        folder = RunFolder(Path(name))
        known = folder.saved_run() if folder.holds_run and not is_foreign(folder.path) else {}
        return known, newest_encoder(Path(name), told=False).config
    recipe = load_recipe(name)
    if not isinstance(recipe, Run):
        raise ValueError(f"recipe {name} must be a selfsup.pretraining.Run, not a {type(recipe).__name__}")
    return recipe, recipe.encoder


def settle(name: str, settings: Semi) -> Semi:
    """The defaults that follow from settings: what is shared in all parts, and the presets of their protocols.

    As published, fine-tuning takes 60 epochs, 30 from a tenth of the labels on, and stands on the features where it has
    all labels. The baseline is what `settings.finetune` is. The student has the batches of pretraining, and its epochs
    where these are fewer.
    """
    shared: dict[str, Any] = {field: getattr(settings, field) for field in _SHARED}
    changes: dict[str, Any] = {}
    if isinstance(settings, SemiFromRecipe):
        changes["pretrain"] = replace(settings.pretrain, **shared)
        encoder, epochs, batch_size = settings.pretrain.encoder, settings.pretrain.epochs, settings.pretrain.batch_size
    else:
        saved, encoder = _origin(name)
        assert isinstance(saved, dict)
        epochs, batch_size = saved.get("epochs", 400), saved.get("batch_size", 4096)
    labelled = settings.labelled
    tuned = finetune_settings(settings.finetune.protocol, settings.data)
    if tuned.protocol != "sgd" and labelled.fraction is not None and labelled.fraction >= 0.1:
        tuned = replace(tuned, epochs=30, layer=0 if labelled.fraction == 1 else tuned.layer)
    student = distill_settings(settings.distill.protocol, settings.data, encoder)
    epochs, batch_size = min(epochs, student.epochs), min(batch_size, student.batch_size)
    return replace(
        settings,
        finetune=replace(tuned, labelled=labelled, **shared),
        supervised=replace(settings.finetune, labelled=labelled, start="random", **shared),
        distill=replace(student, epochs=epochs, batch_size=batch_size, **shared),
        **changes,
    )


def _is_run(name: str) -> bool:
    if name.endswith(".py") or name in recipe_names():
        return False
    return name.endswith(".safetensors") or Path(name).is_dir() or is_foreign(Path(name))


# What cannot be done


class Images(NamedTuple):
    """What the parts have in common."""

    train: Source
    test: Source
    labelled: Source

    def contents(self, settings: Semi) -> dict[str, Content]:
        """Of the data, which must be the same when the whole goes on. All processes must call it."""
        labelled = names_digest(image_names(self.labelled))
        before = {"images": fingerprint_before(self.train), "labelled": labelled}
        return {
            "images": content_of(self.train, settings.data.verify, before),
            "test": content_of(self.test, settings.data.verify, {"test": fingerprint_before(self.test)}),
        }


def check(name: str, settings: Semi) -> Images:
    """The images that the parts are about.

    Raises ValueError for what would fail after hours, or mean something else.
    """
    if replace(settings.labelled, seed=0, balanced=True) == Labelled():
        raise ValueError("no labels are named: give --label-fraction 0.01 (1: all), or --labels-per-class 10")
    for part, training in settings.parts.items():
        _check_shared(part, training, settings)
    tuned, scratch, student = settings.finetune, settings.supervised, with_student(settings.distill)
    if (tuned.start, scratch.start) != ("pretrained", "random"):
        raise ValueError("finetune.start is pretrained and supervised.start is random here; leave both as they are")
    if (tuned.epochs, tuned.batch_size) != (scratch.epochs, scratch.batch_size):
        raise ValueError(
            f"the baseline has {scratch.epochs} epochs in batches of {scratch.batch_size}, fine-tuning has "
            f"{tuned.epochs} in batches of {tuned.batch_size}; give both the same, by --finetune.epochs and "
            "--finetune.batch-size alone"
        )
    if tuned.protocol != scratch.protocol:
        raise ValueError(f"supervised.protocol is {scratch.protocol}; the baseline has that of fine-tuning")
    if student.protocol == "features":
        raise ValueError("distill.protocol features learns no classes; take self or smaller")
    if isinstance(settings, SemiFromRecipe):
        _check_method(settings.pretrain)
        check_student(student, settings.pretrain.encoder, settings.pretrain.feed)
    else:
        exported = newest_encoder(Path(name))
        _check_maker(name, str(exported.made_by.get("method", "")))
        check_student(student, exported.config, exported.feed)
    train = open_data(settings.data, "train")
    images = train.select(settings.labelled.choose(train))
    test = open_data(settings.data, "test")
    require_labels(images, with_labels(test))
    return Images(train, test, images)


def _check_shared(part: str, training: Training, settings: Semi) -> None:
    """Raise ValueError where a part has a value of its own for what is of the whole."""
    for name in (*_SHARED, "folder", "max_steps", "max_minutes", "labelled"):
        if not hasattr(training, name):
            continue
        own, default = getattr(training, name), Training.__dataclass_fields__.get(name)
        free = name in ("folder", "max_steps", "max_minutes")
        allowed = [default.default] if free and default else [getattr(settings, name)]
        if name == "labelled" and part == "distill":
            allowed.append(Labelled())
        if own not in allowed:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{part}.{name} is {own}, but all parts have one {name} here; give {flag} for all of them")


def _check_maker(name: str, maker: str) -> None:
    """Raise ValueError for an encoder that has seen labels."""
    with_labels = [entry.method.__name__ for entry in catalogue() if entry.about.labels == "needed"]
    if maker in (*with_labels, "finetune", "supervised"):
        raise ValueError(
            f"the encoder of {name} was trained on labels ({maker}), and few are to be used here; take a run of a "
            "method without labels, or fine-tune by selfsup finetune"
        )


def _check_method(run: Run) -> None:
    for entry in catalogue():
        if entry.method.Config is type(run.method) and entry.about.labels == "needed":
            raise ValueError(
                f"{entry.about.title} learns from the labels of all images, and few are to be used here; take a recipe "
                "of a method without labels (selfsup methods lists them)"
            )
