"""`selfsup pretrain RECIPE --size N`: all that follows from the size of the views, changed together."""

from collections.abc import Iterator
from dataclasses import replace

from selfsup.augment.parameters import View
from selfsup.augment.size import Size, height_and_width
from selfsup.config.checks import require
from selfsup.pretraining import Run

_SMALL_MAP = 2  # pixels of a side of the last feature map, below which it is said


def resized(run: Run, size: Size) -> Run:
    """A run whose first view has another size, and with it all that is given in pixels of the views.

    Views of other sizes, such as the small ones of multi-crop, are scaled by the same ratio, and shifts with them. A
    transformer is built for the first view. Blurs with a zero border, which are SimCLR's, have its number of taps for
    the new size, 2 (S // 10 // 2) + 1, where they had it for the old one; others have no more taps than their border
    holds. Widths of blurs stay, as in published code.
    All of it are settings of the run, and in its config.json.

    Args:
        run: as its recipe has it.
        size: in pixels: the side of a square, or height and width.

    Raises:
        ValueError: no image has this size, one side is given where views are no squares, or a view cannot have it.
    """
    new, old = height_and_width(size), run.augment.views[0].shape
    require(min(new) >= 1, f"size is {size}; give a side, or height and width, of at least 1 pixel")
    if isinstance(size, int) and old[0] != old[1]:
        raise ValueError(
            f"size is {size}, and views are {old[0]} x {old[1]}; give height and width, such as --size {size} "
            f"{max(1, round(size * old[1] / old[0]))}"
        )
    views = tuple(_scaled(view, old, new) for view in run.augment.views)
    return replace(run, augment=replace(run.augment, views=views), encoder=run.encoder.for_size(new))


def _scaled(view: View, old: tuple[int, int], new: tuple[int, int]) -> View:
    height, width = (max(1, round(side * to / of)) for side, to, of in zip(view.shape, new, old, strict=True))
    size: Size = height if height == width else (height, width)
    blur = view.blur
    if blur.border == "zero" and blur.kernel_size == _taps(min(view.shape)):
        blur = replace(blur, kernel_size=_taps(min(height, width)))
    elif blur.border == "reflect" and blur.probability > 0:  # a border holds no more
        blur = replace(blur, kernel_size=min(blur.kernel_size, 2 * min(height, width) - 1))
    shift = round(view.shift * min(height, width) / min(view.shape))
    return replace(view, size=size, shift=min(shift, min(height, width) - 1), blur=blur)


def _taps(side: int) -> int:
    """Of SimCLR's blur (`selfsup.augment.presets.simclr`)."""
    return 2 * (side // 10 // 2) + 1


def told(before: Run, sized: Run, after: Run) -> Iterator[str]:
    """What the size has changed, and what it does not go well with, line by line.

    Args:
        before: as the recipe has it.
        sized: what `resized` made of it.
        after: with further flags.
    """
    changes = list(_changes(before, sized))
    yield f"--size: {', '.join(changes)}" if changes else "--size: as in the recipe, nothing is changed"
    canvas, side = after.data.canvas, min(after.augment.views[0].shape)
    if canvas is not None and canvas < max(after.augment.views[0].shape):
        yield f"images are squeezed to a canvas of {canvas} pixels, smaller than the views; give a larger --data.canvas"
    if side < _SMALL_MAP * after.encoder.stride:
        hint = "; --encoder.stem cifar keeps it larger" if hasattr(after.encoder, "stem") else ""
        yield f"the encoder makes images {after.encoder.stride} times smaller, and views have {side} pixels{hint}"


def _changes(before: Run, after: Run) -> Iterator[str]:
    for number, (old, new) in enumerate(zip(before.augment.views, after.augment.views, strict=True)):
        pairs = {
            "size": (old.size, new.size),
            "shift": (old.shift, new.shift),
            "blur.kernel_size": (old.blur.kernel_size, new.blur.kernel_size),
        }
        yield from (f"augment.views.{number}.{name} {a} -> {b}" for name, (a, b) in pairs.items() if a != b)
    old_side, new_side = (getattr(run.encoder, "image_size", None) for run in (before, after))
    if old_side != new_side:
        yield f"encoder.image_size {old_side} -> {new_side}"
