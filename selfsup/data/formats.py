"""Which files are images: by the end of their name, and where that says nothing, by their first bytes."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

from PIL import features

from selfsup.storage.untrusted import require_file

_FAMILIES = {  # Pillow's name -> the suffixes of files of that family
    "JPEG": ".jpg .jpeg .jpe .jfif",
    "PNG": ".png .apng",
    "WEBP": ".webp",
    "BMP": ".bmp .dib",
    "GIF": ".gif",
    "TIFF": ".tif .tiff",
    "PPM": ".ppm .pgm .pbm .pnm .pfm",
    "AVIF": ".avif .avifs",
    "JPEG2000": ".jp2 .j2k .j2c .jpc .jpx .jpf",
}
_OPTIONAL = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp", "TIFF": "libtiff"}  # not in every Pillow
_BARE = ("TIFF",)  # read without its library, too

# Named, because Pillow would otherwise try every decoder it has, Ghostscript for an EPS file named .jpg included.
FORMATS = tuple(name for name in _FAMILIES if name not in _OPTIONAL or name in _BARE or features.check(_OPTIONAL[name]))
SUFFIXES = frozenset(suffix for name in FORMATS for suffix in _FAMILIES[name].split())
LACKING = frozenset(suffix for name in _FAMILIES if name not in FORMATS for suffix in _FAMILIES[name].split())

_FIRST = {
    "JPEG": rb"\xff\xd8\xff",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "WEBP": rb"RIFF....WEBP",
    "BMP": rb"BM....\0\0\0\0",
    "GIF": rb"GIF8[79]a",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "PPM": rb"P[1-6]\s+[\d#]|P[Ff]\s+\d",
    "AVIF": rb"....ftypavi[fs]",
    "JPEG2000": rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51",
}
_BEGINNING = re.compile(b"|".join(_FIRST[name] for name in FORMATS), re.DOTALL)
_HEAD = 16  # bytes that tell

# Never opened to see what is in them: no images, copies that a program left behind, and raw photographs, which begin as
# a TIFF does and hold a thumbnail.
_OTHERS = frozenset(
    ".txt .md .rst .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .html .htm .pdf .doc .docx .xls .xlsx .py "
    ".ipynb .sh .log .npy .npz .mat .h5 .hdf5 .pkl .pickle .pt .pth .ckpt .safetensors .parquet .arrow .feather "
    ".tfrecord .tar .gz .tgz .bz2 .xz .zst .7z .rar .zip .db .sqlite .lmdb .mdb .mp4 .avi .mov .mkv .webm .mpg .mpeg "
    ".wav .mp3 .ogg .flac .svg .eps .ps .bak .old .orig .tmp .part .crdownload .download .swp .lock .sha1 .sha256 .md5 "
    ".cr2 .cr3 .nef .arw .dng .orf .rw2 .raf .raw .pef .srw .svs .ndpi .scn".split()
)
_SAMPLE = 32  # files of an unknown suffix that are opened before all of them are


def suffix(name: str) -> str:
    """The end of a file's name in small letters, with its dot; "" where there is none that could name a kind of file.

    Of `photo.jpg?w=800` and `scan.0001` it is "".
    """
    end = name.rpartition("/")[2].rpartition(".")
    found = end[2].lower()
    word = found.isascii() and found.isalnum() and len(found) <= 11 and not found.isdigit()
    return f".{found}" if end[0] and word else ""


def form_by_content(head: bytes) -> str:
    """Pillow's name of the format in which a file of these first 16 bytes begins; "" where it is none of FORMATS."""
    return next((name for name in FORMATS if re.match(_FIRST[name], head, re.DOTALL)), "")


def named_form(name: str) -> str:
    """Pillow's name of the format that a file is called by; "" where its name says none."""
    end = suffix(name)
    return next((form for form, ends in _FAMILIES.items() if end and end in ends.split()), "")


def images_by_content(names: Iterable[str], head: Callable[[str], bytes]) -> list[str]:
    """Those of `names`, files whose suffix names no image, that begin as an image does.

    Of each unknown suffix at most 32 files, spread evenly, are opened; where one of them is an image all the others
    are, too. Text, arrays, archives and the like are not opened at all.

    Args:
        names: relative POSIX paths.
        head: name -> the first 16 bytes of that file; b"" where it cannot be read.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if (end := suffix(name)) not in _OTHERS and not name.endswith("~"):
            groups[end].append(name)
    found = []
    for group in groups.values():
        group.sort()
        count = min(_SAMPLE, len(group))
        sample = [group[number * len(group) // count] for number in range(count)]
        if any(_BEGINNING.match(head(name)) for name in sample):
            found += [name for name in group if _BEGINNING.match(head(name))]
    return found


def first_bytes(path: Path) -> bytes:
    """What `images_by_content` wants to know of a file; nothing of a pipe, a device or what cannot be read."""
    try:
        require_file(path)
        with open(path, "rb") as file:
            return file.read(_HEAD)
    except (OSError, ValueError):
        return b""
