"""One file for each layout of weights, with a `LAYOUT`; a new file is a new line of the table, see docs/weights.md."""
