"""How many channels images are read with: `--data.channels`."""

from typing import Literal, TypeAlias

from selfsup.config.checks import require

# rgb: images become red, green and blue, whatever they are; a number: they have so many channels, which are kept.
Channels: TypeAlias = Literal["rgb"] | int
MOST = 1024


def check_channels(channels: Channels) -> None:
    """Raise ValueError for a number of channels that no image has."""
    require(
        channels == "rgb" or 1 <= int(channels) <= MOST,
        f"data.channels is {channels}; give rgb, or the number of channels of the images, 1 to {MOST}",
    )


def channel_count(channels: Channels) -> int:
    """C of the images (N, C, H, W) that are read so."""
    return 3 if channels == "rgb" else channels


def reading_of(count: int) -> Channels:
    """How images are read for a network that takes so many channels."""
    return "rgb" if count == 3 else count
