"""Why an image cannot be read, in words: what a decoder says is for those who write decoders."""

import errno
import os
import re

from selfsup.data.base import Source, UnreadableImage
from selfsup.data.encoded import EncodedSource
from selfsup.data.files import FileSource
from selfsup.data.formats import first_bytes, form_by_content
from selfsup.data.joined import OfParts

_HEAD = 16  # bytes of a file that are looked at
_NONE = "it is none of "  # begins what is said of a file that no decoder takes

# What files begin with that are often called as images.
_OTHERS: tuple[tuple[bytes, str], ...] = (
    (rb"\s*<(!doctype|html|head|body)", "it is a web page, such as a server gives in place of an image"),
    (rb"\s*<svg", "it is an SVG drawing, which has no pixels"),
    (rb"\s*<\?xml", "it is XML, perhaps an SVG drawing, which has no pixels"),
    (rb"\xff\xd8", "it begins as JPEG does, and its header is damaged or cut short"),
    (rb"%PDF", "it is a PDF document"),
    (rb"%!PS", "it is PostScript (EPS), which would have to be carried out as a program"),
    (rb"PK\x03\x04|PK\x05\x06", "it is a zip archive, or an office document"),
    (rb"\x1f\x8b", "it is compressed by gzip"),
    (rb"....ftyp(heic|heix|heif|mif1|msf1)", "it is a HEIC photograph, which is not read here: save it as JPEG"),
    (rb"....ftyp", "it is a video"),
    (rb"8BPS", "it is a Photoshop document"),
    (rb"version https://git", "it is a pointer of Git LFS, whose file was not fetched: git lfs pull"),
    (rb"\x00{16}", "it begins with zeros, as files do that were not copied whole"),
    (rb"[\t\n\r\x20-\x7e]+$", "it is text"),
)

# What decoders say, and what it means; the first that fits is taken.
_MEANINGS: tuple[tuple[str, str], ...] = (
    (
        r"image file is truncated|Truncated File Read|not enough image data|unexpected end of|EOF|too short",
        "it is cut short",
    ),
    (r"bomb|Image size \(", "it claims to have more pixels than are read"),
    (r"Decompressed data too large", "its text unpacks to far more than it should"),
    (
        r"broken data stream|decoder object|decoder error|unrecognized data|corrupt|bad checksum|CRC",
        "its content is damaged",
    ),
    (r"invalid literal|unpack requires|struct|header|cannot identify|index out of|KeyError", "its header is damaged"),
)
_OWN = re.compile(
    r"^(ValueError|OSError): (?=\d+ x \d+ pixels|\d+ scans|pixels are |it has |its \d+ pages|unpacks to )"
)
_NO_FILE = {
    os.strerror(errno.EISDIR): "it is a folder",
    os.strerror(errno.ENOENT): "there is no such file, or a link leads nowhere",
    os.strerror(errno.EACCES): "it may not be read: change its permissions",
    os.strerror(errno.ELOOP): "it is a link that leads to itself",
}


def in_words(reason: str, head: bytes | None) -> str:
    """What is wrong with an image.

    Args:
        reason: as `UnreadableImage` has it.
        head: the first bytes of the file; None where they are not known.
    """
    if reason in _NO_FILE:
        return _NO_FILE[reason]
    if reason.startswith(_NONE):
        return _by_content(head)
    if "is a pipe, a socket or a device" in reason:
        return "it is a pipe, a socket or a device, and no file"
    if _OWN.match(reason):
        return _OWN.sub("", reason)
    said = re.sub(r"^\w+: ", "", reason)
    meaning = next((words for pattern, words in _MEANINGS if re.search(pattern, reason)), "it cannot be decoded")
    return f"{meaning}: {said}" if said else meaning


def _by_content(head: bytes | None) -> str:
    """What a file is that no decoder takes, as far as its first bytes tell."""
    if head is None:
        return "it is no image of a known format"
    if not head:
        return "it is empty"
    if form := form_by_content(head):
        return f"it begins as {form} does, and its header is damaged or cut short"
    other = next((words for pattern, words in _OTHERS if re.match(pattern, head, re.IGNORECASE | re.DOTALL)), "")
    return other or "it begins as no image of a known format does"


def why(source: Source, error: UnreadableImage, row: int) -> str:
    """Why image `row` of a source cannot be read, in words."""
    return in_words(error.reason, _head(source, row) if error.reason.startswith(_NONE) else None)


def _head(source: Source, row: int) -> bytes | None:
    if isinstance(source, OfParts):
        number, place = source.place(row)
        return _head(source.parts[number], place)
    if isinstance(source, FileSource):
        return first_bytes(source.root / os.fsdecode(source.paths[row]))
    return source.content(row)[:_HEAD] if isinstance(source, EncodedSource) else None
