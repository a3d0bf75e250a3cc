"""R2: the comparison of R1 notices every item of state that a checkpoint might have lost."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from selfsup.data.opening import open_training
from selfsup.methods.base import Method
from selfsup.pretraining import Run, build_method, pretrain
from selfsup.storage import checkpoint
from tests.contracts.contracts import equal
from tests.reliability.figure import Figure, Measured
from tests.reliability.watched import Seen, differing, watched
from tests.support.tiny import METHODS, QUICK, array_file, tiny_run

# The end of the first epoch is near, so that images come again whose features are in the queues, and clusters are
# formed anew; and no queue of the tiny runs has its pointer at 0.
STEP, LAST = 7, 11
# How an omission shows. refused: what is left contradicts itself, and is not loaded. trained: in views, losses or
# weights. exported: in running statistics of the encoder. state: in something else that is saved later. itself: in the
# item alone. nothing: not at all. constant: the item is as in a new run, so that nothing was omitted.
Notice = Literal["refused", "trained", "exported", "state", "itself", "nothing", "constant"]
# Items that are constant by intention, in methods that have them for the sake of others.
CONSTANT = {
    ("instdisc_softmax", "log_normaliser"): "the softmax has no normaliser",
}


class Trained(NamedTuple):
    """A run that was not interrupted, with a checkpoint of every step."""

    run: Run
    seen: list[Seen]
    fresh: Method


def train(folder: Path, method: str, images: Path) -> Trained:
    run = tiny_run(folder, method, root=str(images), log_every=1, keep_last=LAST, save_steps=1, max_steps=LAST)
    with watched() as seen:
        pretrain(run)
    return Trained(run, seen, build_method(run, open_training(run.data)))


def items(method: Method, optimizer: dict[str, Tensor]) -> dict[str, tuple[str, list[str]]]:
    """What a checkpoint holds, by kind: name -> its file and the names of its tensors there."""
    parameters = {name for name, _ in method.named_parameters()}
    norms = {name for name, module in method.named_modules() if isinstance(module, _BatchNorm)}
    found: dict[str, tuple[str, list[str]]] = {}
    for name in method.state_dict():
        part = name.partition(".")[0]
        owner, _, last = name.rpartition(".")
        if name in parameters:
            kind = f"{part}: weights" if part != "loss" else name
        elif owner in norms:
            counts = last == "num_batches_tracked"
            kind = f"{part}: {'batches counted' if counts else 'running statistics'}"
        else:
            kind = name
        found.setdefault(kind, ("method", []))[1].append(name)
    for name in optimizer:
        kind = f"{name.partition('.')[0]}: {name.rpartition('/')[2]}"
        found.setdefault(kind, ("optimizer", []))[1].append(name)
    return found


def lost(trained: Trained, folder: Path, group: str, names: list[str]) -> bool:
    """Make `folder` the run at STEP without these tensors; False where they are still as at the start."""
    saved = checkpoint.load(Path(trained.run.folder) / "checkpoints" / f"step_{STEP:08d}")
    tensors = saved.tensors
    if group == "optimizer":
        tensors["optimizer"] = {name: value for name, value in tensors["optimizer"].items() if name not in names}
        changed = True
    else:
        fresh = {name: value for name, value in trained.fresh.state_dict().items() if name in names}
        changed = any(not equal(value, tensors["method"][name]) for name, value in fresh.items())
        tensors["method"] |= fresh
    _as_run(trained, folder)
    checkpoint.save(folder / "checkpoints", STEP, tensors, saved.state, keep_last=LAST)
    return changed


def _as_run(trained: Trained, folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_bytes((Path(trained.run.folder) / "config.json").read_bytes())


def noticed(trained: Trained, folder: Path, own: list[str], step: int = STEP) -> Notice:
    """Go on in `folder`, which lacks the tensors `own`, and say what R1's comparison finds."""
    try:
        with watched() as seen:
            pretrain(replace(trained.run, folder=str(folder)))
    except ValueError as error:
        if "senseless" not in str(error):
            raise
        return "refused"
    found = differing(Path(trained.run.folder), folder)
    found.pop(step, None)  # what was saved there is what was dropped
    names = {name for names in found.values() for name in names}
    weights = {f"method: {name}" for name, _ in trained.fresh.named_parameters()}
    if seen != trained.seen[step:] or "logged loss" in names or names & weights - {f"method: {name}" for name in own}:
        return "trained"
    if any(name.startswith("method: encoder.") for name in names):
        return "exported"
    if any(name.partition(": ")[2] not in own for name in names):
        return "state"
    return "itself" if names else "nothing"


def drop_each(folder: Path, method: str, images: Path) -> dict[str, Notice]:
    """By item of the method's checkpoint, how the comparison notices that it was lost."""
    trained = train(folder / "whole", method, images)
    optimizer = checkpoint.load(Path(trained.run.folder) / "checkpoints" / f"step_{STEP:08d}").tensors["optimizer"]
    found: dict[str, Notice] = {}
    for number, (item, (group, names)) in enumerate(items(trained.fresh, optimizer).items()):
        place = folder / str(number)
        changed = lost(trained, place, group, names)
        found[item] = noticed(trained, place, names) if changed else "constant"
    found["step"] = _wrong_step(trained, folder / "step")
    return found


def _wrong_step(trained: Trained, folder: Path) -> Notice:
    """The state of STEP under another number: with none at all nothing would be loaded."""
    saved = checkpoint.load(Path(trained.run.folder) / "checkpoints" / f"step_{STEP:08d}")
    _as_run(trained, folder)
    checkpoint.save(folder / "checkpoints", STEP - 1, saved.tensors, saved.state, keep_last=LAST)
    return noticed(trained, folder, [], step=STEP - 1)


def measure(folder: Path, quick: bool) -> Measured:
    methods = QUICK[:2] if quick else tuple(METHODS)
    images = array_file(folder / "shapes.npz", 128)
    found = {}
    for method in methods:
        (folder / method).mkdir()
        found[method] = drop_each(folder / method, method, images)
    return judged(found)


def judged(found: dict[str, dict[str, Notice]]) -> Measured:
    cells = {(method, item): what for method, row in found.items() for item, what in row.items()}
    constant = {cell for cell, what in cells.items() if what == "constant"}
    missed = {cell for cell, what in cells.items() if what == "nothing"} | (constant - CONSTANT.keys())
    omitted, by_itself = len(cells) - len(constant), sum(what == "itself" for what in cells.values())
    return Measured(
        figure=f"{omitted - len(missed - constant)} of {omitted} omissions caught ({by_itself} of them show in nothing "
        f"but the item itself); {len(constant)} constant",
        good=not missed,
        reason=", ".join(f"{method}: {item} {cells[method, item]}" for method, item in sorted(missed)),
        details={"noticed": found, "not_saved": unsaved(tuple(found))},
        table=table(found),
    )


def unsaved(methods: tuple[str, ...]) -> dict[str, list[str]]:
    """By method, buffers that checkpoints leave out: they are made from the data and the settings alone."""
    kept: dict[str, list[str]] = {}
    for method in methods:
        run = tiny_run(Path(), method)
        built = build_method(run, open_training(run.data))
        names = [name for name, _ in built.named_buffers() if name not in built.state_dict()]
        kept |= {method: names} if names else {}
    return kept


def table(found: dict[str, dict[str, Notice]]) -> str:
    """Methods as rows; each row lists its items by what gave their loss away."""
    columns: tuple[Notice, ...] = ("refused", "trained", "exported", "state", "itself", "nothing", "constant")
    lines = [
        f"A run goes on from step {STEP} to {LAST} with one item of the checkpoint as in a new run (the step: as "
        f"{STEP - 1}). What the comparison of R1 then found to differ. Refused: what is left contradicts itself and is "
        "not loaded. Trained: views, losses or weights. Exported: "
        "running statistics of the encoder, no weights. State: something else in a later checkpoint. Itself: the item "
        "alone, which is carried along, and which nothing in this training reads. Nothing: the omission is not "
        "noticed. Constant: the item is as in a new run.",
        "",
        "| method | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for method, row in found.items():
        cells = [", ".join(item for item, what in row.items() if what == column) or "-" for column in columns]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    notes = [f"- {method}, {item}: {why}." for (method, item), why in CONSTANT.items() if method in found]
    notes += [
        f"- {method} does not save {', '.join(names)}, made from the data and the settings alone."
        for method, names in unsaved(tuple(found)).items()
    ]
    return "\n".join([*lines, *([""] if notes else []), *notes])


FIGURE = Figure(
    name="R2",
    goal="R1 fails for every omitted item of state",
    minutes=5,
    measure=measure,
)
