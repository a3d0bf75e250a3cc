"""The checkout that a tool lies in is the one it runs, installed or not: `checkout.use()` comes before the imports.

Programs that the tool starts find the same checkout, by PYTHONPATH. A package that is missing is said in one sentence.
"""

import os
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ROOT / "tools"


def use(*folders: str) -> None:
    """Import selfsup from this checkout, and modules of the tools.

    Args:
        folders: of the checkout whose modules are imported as well: "tests", "tests/contracts".
    """
    places = [str(TOOLS), str(ROOT), *(str(ROOT / folder) for folder in folders)]
    sys.path[:] = [*places, *(place for place in sys.path if place not in places)]
    if TOOLS not in Path(sys.argv[0]).resolve().parents:
        return  # a test has imported the tool: what other processes see is the test's own affair
    inherited = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(ROOT), *map(os.path.abspath, inherited)]))
    sys.excepthook = _say_what_is_missing


def _say_what_is_missing(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:  # what is not a missing package is shown as ever
    from selfsup.packages import missing

    tool = f"tools/{Path(sys.argv[0]).name}"
    sentence = missing(error, tool) if isinstance(error, ModuleNotFoundError) else None
    if sentence is None or os.environ.get("SELFSUP_TRACEBACK"):
        sys.__excepthook__(kind, error, trace)
    else:
        print(sentence, file=sys.stderr)
