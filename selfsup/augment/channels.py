"""What views need to know of the channels of images: whether they are colours, and how each is normalised."""

from collections.abc import Iterator
from dataclasses import replace

from selfsup.augment.parameters import View
from selfsup.augment.views import Augment

_COLOURS = 3


def meaningless(augment: Augment, channels: int) -> Iterator[str]:
    """The settings of views that have no meaning for images of so many channels, by name, and what to give instead."""
    if channels == _COLOURS:
        return
    if augment.backend == "kornia":
        yield 'augment.backend "kornia" makes views of three channels; give --augment.backend fused'
    changing = [named for number, view in enumerate(augment.applied) if (named := _of_colours(number, view))]
    if changing:
        first, *more = changing
        others = f" (and of {len(more)} more view{'s'[: len(more) > 1]})" if more else ""
        kind = "gray already" if channels == 1 else "no red, green and blue"
        yield (
            f"{', '.join(first)}{others} change{'s' if len(first) == 1 else ''} colours, and these images are {kind}; "
            "give --augment.no-colour, which leaves saturation, hue and grayscale out of every view"
        )


def _of_colours(number: int, view: View) -> list[str]:
    """What a view does to red, green and blue alone."""
    settings = {"jitter.saturation": view.jitter.saturation, "jitter.hue": view.jitter.hue, "grayscale": view.grayscale}
    return [f"augment.views.{number}.{name} {value:g}" for name, value in settings.items() if value]


def told_for_colours(augment: Augment, channels: int) -> bool:
    """Whether mean and std of the views are of red, green and blue, and images are not."""
    return channels != _COLOURS and any(len(view.mean) == _COLOURS for view in augment.views)


def normalised_by(augment: Augment, mean: tuple[float, ...], std: tuple[float, ...]) -> Augment:
    """The same views, normalised by these values, one for each channel."""
    return replace(augment, views=tuple(replace(view, mean=mean, std=std) for view in augment.views))


def same_of_all(augment: Augment, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and std for so many channels where the views have the same for red, green and blue; None where not."""
    view = augment.views[0]
    if any(len({*values}) > 1 for each in augment.views for values in (each.mean, each.std)):
        return None
    return view.mean[:1] * channels, view.std[:1] * channels
