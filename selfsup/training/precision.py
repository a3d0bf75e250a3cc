"""Which precision a run has, and what gradient caching: they are chosen when the run begins, and kept afterwards."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

from selfsup.run_folder.folder import RunFolder
from selfsup.runtime import arithmetic
from selfsup.runtime.arithmetic import Precision
from selfsup.runtime.device import device_for

T = TypeVar("T")


def settled(training: T, folder: RunFolder) -> T:
    """The settings of a run with what is "auto" resolved, as they are stored with it.

    The precision is that of the run in the folder, where there is one, on whatever device it began; else what the
    device of these settings has. The chunks of gradient caching are those of the run in the folder; where there is
    none, they stay "auto" until `chunk_choice.chosen` has found what fits. To be called before the folder is checked.

    Args:
        training: with the fields `precision` and `device`.
        folder: of the run.
    """
    settings: Any = training
    changes: dict[str, Any] = {}
    if settings.precision == "auto":
        changes["precision"] = _kept(folder) or _usual(settings)
    if getattr(settings, "grad_cache_chunk", None) == "auto" and folder.holds_run:
        changes["grad_cache_chunk"] = chunk = folder.saved_run().get("grad_cache_chunk")
        if chunk is None:
            changes["grad_cache_batch_norm"] = "chunk"  # of which there are none
    changed: T = replace(settings, **changes) if changes else settings
    return changed


def described(asked: Precision, settings: Any) -> str:
    """The precision of settled settings in words, and why it is that where it was not asked for."""
    usual = _usual(settings)
    if asked == "auto" and settings.precision != usual:
        return f"precision {settings.precision}, with which the run began (a new one would have {usual} here)"
    return f"precision {settings.precision}"


def chunks_kept(asked: Any, settings: Any) -> Iterator[str]:
    """Which gradient caching settled settings have kept, in words, where a choice was asked for."""
    chunk = settings.grad_cache_chunk
    if asked.grad_cache_chunk == "auto" and chunk != "auto":
        caching = "no gradient caching" if chunk is None else f"gradient caching in chunks of {chunk} images"
        yield f"{caching}, with which the run began"


def _kept(folder: RunFolder) -> Precision | None:
    saved: Precision | None = folder.saved_run().get("precision") if folder.holds_run else None
    return saved


def _usual(settings: Any) -> Precision:
    return arithmetic.resolve("auto", arithmetic.capability(device_for(settings.device)))
