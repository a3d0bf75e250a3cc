"""`python -m selfsup`, for launchers."""

from selfsup.cli import main

main()
