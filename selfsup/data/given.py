"""Images that are given as objects, or else named by settings."""

from selfsup.data.channels import channel_count, reading_of
from selfsup.data.datasets import Dataset, as_source
from selfsup.data.opening import open_test_part, open_training
from selfsup.data.settings import Data
from selfsup.data.sources import Source, subset


def training_images(data: Data, given: Source | Dataset | None) -> Source:
    """The images to train on: those that are given, or those that the settings name.

    Raises:
        ValueError: both are there, or the images do not fit.
    """
    if given is None:
        return open_training(data)
    if named := data.place or data.labelled_root or data.test_root or data.table:
        raise ValueError(f"images are given and data.root names {named}; leave one out")
    if data.holdout is not None:
        raise ValueError(f"images are given, of which data.holdout {data.holdout} keeps none; give test images")
    source = _fitting(given, data)
    if data.labels == "none":
        source = source.without_labels()
    return source if data.limit is None else subset(source, data.limit)


def _fitting(given: Source | Dataset, data: Data) -> Source:
    """The images that are given, with the channels that the settings say."""
    source, wanted = as_source(given, data.channels), channel_count(data.channels)
    if source.channels != wanted:
        raise ValueError(
            f"images are given with {source.channels} channels and data.channels is {data.channels}; give "
            f"Data(channels={reading_of(source.channels)!r})"
        )
    return source


def held_out_images(data: Data, alone: bool, test: Source | Dataset | None) -> Source | None:
    """The images that online evaluations ask about; None where training images are, each left out in turn.

    Args:
        data: the settings.
        alone: whether the training images were given, so that the settings name none.
        test: those that were given.
    """
    if test is not None:
        return _fitting(test, data)
    return None if alone else open_test_part(data)
