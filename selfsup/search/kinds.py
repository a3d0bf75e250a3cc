"""How rows can be searched, without torch."""

from typing import Literal

Kind = Literal["auto", "flat", "ivf", "hnsw"]
EXACT_VALUES = 2**27  # numbers of an index up to which auto searches all of it: 10^6 rows of 128, 262,144 of 512
