"""Every property, of every method."""

import pytest

from tests.contracts import traces
from tests.contracts.case import Case
from tests.contracts.cases import CASES
from tests.contracts.contracts import (
    Replicas,
    check_a_sharded_encoder_is_a_whole_one,
    check_a_step_is_well_formed,
    check_every_parameter_learns,
    check_forward_writes_nothing,
    check_half_precision_stays_in_the_encoder,
    check_loss_is_that_of_plain_loops,
    check_queues_wrap_exactly,
    check_resumes_bit_for_bit,
    check_single_precision_is_near_double,
    check_two_processes_are_one,
    in_two_processes,
)
from tests.contracts.learning import check_learns

every_case = pytest.mark.parametrize("case", CASES, ids=str)


@every_case
@pytest.mark.parametrize(
    "check",
    [
        check_loss_is_that_of_plain_loops,
        check_forward_writes_nothing,
        check_resumes_bit_for_bit,
        check_every_parameter_learns,
        check_queues_wrap_exactly,
        check_half_precision_stays_in_the_encoder,
        check_single_precision_is_near_double,
        check_a_step_is_well_formed,
    ],
    ids=lambda check: check.__name__,
)
def test_contract(check, case: Case) -> None:
    check(case)


@pytest.mark.parametrize("case", [case for case in CASES if case.learner], ids=str)
def test_learns(case: Case) -> None:
    check_learns(case)


@pytest.fixture(scope="module")
def replicas(request: pytest.FixtureRequest) -> dict[str, Replicas]:
    """One group of processes for all cases whose tests are run."""
    run = {str(item.callspec.params["case"]) for item in request.session.items if _compares_replicas(item)}
    return in_two_processes([case for case in CASES if case.name in run])


def _compares_replicas(item: pytest.Item) -> bool:
    return isinstance(item, pytest.Function) and "replicas" in item.fixturenames


@every_case
def test_two_processes_are_one(case: Case, replicas: dict[str, Replicas]) -> None:
    check_two_processes_are_one(case, replicas["whole"])


@every_case
def test_a_sharded_encoder_is_a_whole_one(case: Case, replicas: dict[str, Replicas]) -> None:
    check_a_sharded_encoder_is_a_whole_one(case, replicas)


@every_case
def test_trace(case: Case) -> None:
    """The losses as they were when the trace was written: where they change, a refactoring was none."""
    expected = traces.read()[case.name]
    assert len(expected.losses) >= 8, "memory is not full yet, and no second epoch has begun"
    assert expected.moved * traces.MARGIN <= traces.TOLERANCE
    assert traces.losses(case, len(expected.losses)).tolist() == pytest.approx(expected.losses, rel=traces.TOLERANCE)


def test_every_trace_has_a_case() -> None:
    assert list(traces.read()) == [case.name for case in CASES]
