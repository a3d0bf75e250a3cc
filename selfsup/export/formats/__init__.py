"""One file for each format of exported encoders, with a `FORMAT`; a new file is a new line, see docs/export.md."""
