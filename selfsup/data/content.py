"""The bytes of an image as they lie in a file, or in an array."""

from pathlib import Path

from selfsup.data.base import ArraySource, Source, UnreadableImage
from selfsup.data.encoded import EncodedSource
from selfsup.data.files import FileSource
from selfsup.data.joined import OfParts
from selfsup.storage.untrusted import read_bytes


def file_content(source: Source, index: int) -> bytes:
    """All bytes of the file of image `index`, or of its entry in an archive; none where there is no such file."""
    try:
        if isinstance(source, OfParts):
            number, row = source.place(index)
            return file_content(source.parts[number], row)
        if isinstance(source, EncodedSource):
            return source.content(index)
        return read_bytes(Path(source.name(index))) if isinstance(source, FileSource) else b""
    except (OSError, ValueError, UnreadableImage):
        return b""


def image_content(source: Source, index: int) -> bytes:
    """All bytes of a file, an entry or an array's image; none where it cannot be read any more."""
    if isinstance(source, OfParts):
        number, row = source.place(index)
        return image_content(source.parts[number], row)
    if isinstance(source, ArraySource):
        pixels: bytes = source.pixels(index).contiguous().numpy().tobytes()
        return pixels
    return file_content(source, index)
