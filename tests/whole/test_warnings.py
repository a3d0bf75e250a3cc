"""Which warnings fail a test: those that are ours to mend, whatever a newer version of a dependency says of itself."""

import builtins
import types
from collections.abc import Callable

import pytest

from tests.conftest import AGEING

KINDS = [getattr(builtins, kind) for kind in AGEING]


def module(name: str) -> Callable[[type[Warning], int], None]:
    """A function of a module of this name, that warns at a `stacklevel`."""
    made = types.ModuleType(name)
    exec("import warnings\ndef warn(kind, level): warnings.warn('it is old', kind, stacklevel=level)", made.__dict__)
    return made.__dict__["warn"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["stranger", "stranger.part", "selfsupport", "toolshed", "testing"])
def test_what_another_package_does_is_its_own_affair(name: str, kind: type[Warning]) -> None:
    module(name)(kind, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_says_of_its_caller_is_ours(kind: type[Warning]) -> None:
    with pytest.raises(kind, match="it is old"):
        module("stranger")(kind, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name",
    ["selfsup", "selfsup.methods.moco", "selfsup.recipes.x", "tests.x", "tests.x.y", "tools.x", "recipes", "__main__"],
)
def test_what_we_do_is_ours(name: str, kind: type[Warning]) -> None:
    with pytest.raises(kind, match="it is old"):
        module(name)(kind, 1)


@pytest.mark.parametrize("kind", [UserWarning, RuntimeWarning, ResourceWarning])
def test_all_other_warnings_are_errors_wherever_they_arise(kind: type[Warning]) -> None:
    with pytest.raises(kind, match="it is old"):
        module("stranger")(kind, 1)
