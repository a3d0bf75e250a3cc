"""Documents that hold a table which a tool writes."""

_BEGIN, _END = "<!-- table -->\n", "<!-- end of table -->\n"


def with_table(text: str, table: str) -> str:
    """The document with the table between its marks."""
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}{table}{_END}{after}"
