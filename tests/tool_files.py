"""The programs in tools/, as modules."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

TOOLS = Path(__file__).parent.parent / "tools"


def load_tool(name: str) -> ModuleType:
    """tools/<name>.py, as a module of that name."""
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    before = list(sys.path)  # a tool adds to it
    sys.path.insert(0, str(TOOLS))  # as where it is started
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module
