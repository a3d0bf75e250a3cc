"""What a person runs from a checkout, each program as a module: `python -m tools.prepare_data --help` in its root.

So started, a program and the processes that it starts run the selfsup of this checkout, installed or not.
"""

import sys

from tools import checkout

if sys.argv[0] == "-m":  # a program is being started; nothing is done where a test imports one
    checkout.begin()
