"""Which part of a sample, or column of a table, is read."""

from typing import NamedTuple


class Columns(NamedTuple):
    """The names of the image and of the label within a sample; "" leaves it to what is there.

    And those of a table of labels, where the usual name of a label is `label`.
    """

    image: str = ""
    label: str = ""
    path: str = "path"
    split: str = "split"  # the usual name: used where the table has it; any other name must be there; "": not used


NO_COLUMNS = Columns()
