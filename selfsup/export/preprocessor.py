"""preprocessor_config.json of Hugging Face: how images are made ready, as far as its processors can do it."""

from typing import Any, NamedTuple

from selfsup.export.outgoing import Outgoing

_RESAMPLE = {"bilinear": 2, "bicubic": 3, "bicubic_aliased": 3}  # PIL's numbers


class Preprocessor(NamedTuple):
    """The content of the file, and in what it is not what the encoder was judged with."""

    content: dict[str, Any]
    notes: list[str]


def preprocessor(outgoing: Outgoing) -> Preprocessor:
    """What the file says of an encoder's images.

    The short side is resized and the centre cut out; or the whole image is squeezed, where training saw it so.
    """
    feed, (height, width) = outgoing.exported.feed, outgoing.shape
    content: dict[str, Any] = {
        "do_resize": True,
        "resample": _RESAMPLE[feed.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(feed.mean),
        "image_std": list(feed.std),
        "do_convert_rgb": True,
    }
    notes = []
    if feed.fit == "whole" and feed.fraction == 1:
        content |= {"image_processor_type": "ViTImageProcessor", "size": {"height": height, "width": width}}
    else:
        short = round(min(height, width) / feed.fraction)
        content |= {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": short},
            "do_center_crop": True,
            "crop_size": {"height": height, "width": width},
            "crop_pct": feed.fraction,  # exactly, for `selfsup import`; the resize is to whole pixels
        }
        if feed.fit == "whole" or height != width:
            notes.append("its processors cut another box out of images whose sides are not of the encoder's ratio")
    if feed.interpolation == "bicubic_aliased":
        notes.append("its processors smooth images before they make them smaller, and this encoder was fed without it")
    if feed.range != "type":
        notes.append(f"gray levels were read by data.range {feed.range}; its processors take pixels from 0 to 255")
    return Preprocessor(content, notes)
