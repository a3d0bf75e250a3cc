"""Which part of a sample, or column of a table, is read."""

from typing import NamedTuple


class Columns(NamedTuple):
    """The names of the image and of the label within a sample; "" leaves it to what is there."""

    image: str = ""
    label: str = ""


NO_COLUMNS = Columns()
