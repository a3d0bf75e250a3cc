"""Whether a captured step is one: the folder may come from anyone, and its numbers are used as sizes and places."""

from typing import Any, get_args

from selfsup.memory.saved import Limits, Saved
from selfsup.runtime.arithmetic import Precision
from selfsup.storage.checkpoint import Checkpoint
from selfsup.storage.untrusted import plain_name

_MOST_PROCESSES = 1 << 20


def limits_of(found: Checkpoint) -> Limits:
    """What bounds the numbers of the state that was captured."""
    return Limits(found.step, len(found.tensors["batch"]["all_labels"]), len(found.state["classes"]))


_FACTS: dict[str, type] = {
    "wrong": list,
    "seed": int,
    "processes": int,
    "resolved": dict,
    "classes": list,
    "images": list,
}


def check_captured(found: Checkpoint) -> None:
    """Raise ValueError, by file and field, for what no run can have captured."""
    for name, kind in _FACTS.items():
        value: Any = found.state.get(name)
        if type(value) is not kind:
            raise ValueError(f"{found.path}: state.json: {name} is {plain_name(value, 80)}; it is no captured step")
    if not 1 <= found.state["processes"] <= _MOST_PROCESSES:
        raise ValueError(f"{found.path}: state.json: processes is {found.state['processes']}; wanted 1 or more")
    if found.state.get("precision") not in get_args(Precision):
        raise ValueError(f"{found.path}: state.json: precision is {plain_name(found.state.get('precision'), 80)}")
    batch = found.tensors.get("batch", {})
    views = [name for name in batch if name.startswith("view_")]
    count = len(found.state["images"])
    wanted = {f"view_{number}" for number in range(len(views))} | {"labels", "indices", "all_labels"}
    if not views or set(batch) != wanted or "method" not in found.tensors:
        raise ValueError(f"{found.path}: batch.safetensors does not hold views, labels and indices of a batch")
    for name, value in batch.items():
        whole, shape = name not in views, tuple(value.shape)
        fitting = len(shape) == 1 if whole else len(shape) == 4 and shape[1] == 3
        if not fitting or whole == value.is_floating_point() or (name != "all_labels" and shape[0] != count):
            raise ValueError(f"{found.path}: batch.safetensors: {name} is {value.dtype} of shape {shape}")
    saved = Saved(batch, "", limits_of(found))
    try:
        saved.require("indices", 0, saved.limits.images - 1, "images of the data")
        for name in ("labels", "all_labels"):
            saved.require(name, -1, saved.limits.classes - 1, "classes of the data, or -1 for none")
    except ValueError as error:
        raise ValueError(f"{found.path}: batch.safetensors: {error}") from error
