"""The proofs of docs/reliability.md: each module measures some figures, which it lists in FIGURES.

`python -m tests.reliability NAME` measures one; `python -m tools.reliability` measures all and writes the record.
"""
