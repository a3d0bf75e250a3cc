"""The shipped recipes: one short file per run, whose docstring is its lab record."""
