"""What is set on a GPU, tried without one: torch keeps its flags on any machine."""

import contextlib

import pytest
import torch

from selfsup.runtime import arithmetic

CUDA = torch.device("cuda")


def flags() -> tuple[object, ...]:
    return (
        *arithmetic.in_force().values(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


@pytest.mark.parametrize(
    ("asked", "capability", "expected"),
    [
        ("auto", None, "fp32"),
        ("auto", (7, 5), "fp32"),
        ("auto", (8, 0), "bf16"),
        ("auto", (9, 0), "bf16"),
        ("auto", (12, 0), "bf16"),
        ("fp32", (9, 0), "fp32"),
        ("tf32", (9, 0), "tf32"),
        ("bf16", None, "bf16"),
    ],
)
def test_auto_is_what_the_device_has(asked, capability, expected) -> None:
    assert arithmetic.resolve(asked, capability) == expected


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("bf16", False), ("tf32", True)])
def test_products_are_as_the_precision_says(precision, allowed) -> None:
    before = flags()
    with arithmetic.of_run(precision, True, torch.device("cpu")):
        assert arithmetic.in_force()["tf32_products"] is allowed
        assert arithmetic.in_force()["tf32_convolutions"] is allowed
        with arithmetic.full_precision():
            assert not arithmetic.in_force()["tf32_products"]
            assert not arithmetic.in_force()["tf32_convolutions"]
        assert arithmetic.in_force()["tf32_products"] is allowed
    assert flags() == before


@pytest.mark.parametrize("deterministic", [True, False])
def test_kernels_are_chosen_for_the_run_alone(deterministic) -> None:
    before = flags()
    with contextlib.suppress(RuntimeError), arithmetic.of_run("fp32", deterministic, CUDA):
        assert arithmetic.in_force()["deterministic"] is deterministic
        assert torch.backends.cudnn.deterministic is deterministic
        assert torch.backends.cudnn.benchmark is not deterministic
        raise RuntimeError("a run that fails leaves nothing behind either")
    assert flags() == before


def test_the_cpu_has_no_other_kernels() -> None:
    before = flags()
    with arithmetic.kernels(True, torch.device("cpu")):
        assert flags() == before
