"""Sizes of images, without torch: settings and their help need no more."""

from selfsup.config.checks import require

Size = int | tuple[int, int]  # pixels: the side of a square, or height and width
LARGEST = 4096  # pixels of a side that an encoder is fed with


def height_and_width(size: Size) -> tuple[int, int]:
    """Of a size in either form."""
    return (size, size) if isinstance(size, int) else size


def can_be_fed(size: Size) -> bool:
    """Whether an encoder may be fed with images of this size."""
    return all(1 <= side <= LARGEST for side in height_and_width(size))


def check_size(size: Size | None) -> None:
    """Raise ValueError where no encoder can be fed with this size; None is that of training."""
    require(
        size is None or can_be_fed(size), f"size is {size}; give 1 to {LARGEST} pixels: a side, or height and width"
    )
