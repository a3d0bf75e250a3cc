"""Data sets of Hugging Face's hub, by their library `datasets`, which keeps them on this machine as Arrow files."""

from pathlib import Path

from selfsup.data.base import NoTestPart, NoTrainingPart
from selfsup.data.found import named
from selfsup.data.layout import TEST_WORDS, TRAIN_WORDS, Split
from selfsup.data.shards import Shards
from selfsup.storage.untrusted import plain_name


def hub_shards(root: str, split: Split) -> Shards:
    """The Arrow files of a part of `hf:NAME` or `hf:NAME:CONFIGURATION`; NAME is that of the hub, or a folder.

    The training part is the split `train`; the test part the first that there is of `test`, `validation` and the like.

    Raises:
        NoTestPart: there is no split for it.
        NoTrainingPart: there are test splits alone.
        ValueError: the library is missing, or the data cannot be had.
    """
    name, _, configuration = root.removeprefix("hf:").partition(":")
    if not name:
        raise ValueError(f"{root!r} names no data set; give its name on the hub, as hf:uoft-cs/cifar10")
    try:
        import datasets
    except ImportError as error:
        raise ValueError(f"{root} needs Hugging Face's datasets: pip install 'selfsup[datasets]'") from error
    try:
        parts = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # no network, no such name, a broken file: nearly every class there is
        raise ValueError(
            f"{root} cannot be loaded: {type(error).__name__}: {plain_name(str(error), 300)}\n"
            "check its name and the network; of a copy on this machine name the folder"
        ) from error
    words = TRAIN_WORDS if split == "train" else TEST_WORDS
    chosen = next((word for word in words if word in parts), "")
    told = plain_name(", ".join(parts), 200)
    if not chosen and split == "test":
        raise NoTestPart(f"{root} has no test part, its splits are: {told}")
    if not chosen:
        raise NoTrainingPart(
            f"{root} has no split 'train', its splits are: {told}; save the one you mean and name its folder"
        )
    other = TEST_WORDS if split == "train" else TRAIN_WORDS
    beside = [part for part in parts if part not in (*other, chosen)]
    return Shards(
        root=Path(root),
        files=[Path(file["filename"]) for file in parts[chosen].cache_files],
        divided=True,
        notes=(f"the split {chosen}",),
        left_out=(named(beside, "split"),) if beside else (),
    )
