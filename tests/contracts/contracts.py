"""What every method keeps: each check takes a case and fails where its method breaks the property."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from selfsup.batch import Batch
from selfsup.distributed import mean_over_processes
from selfsup.memory.queue import FeatureQueue
from selfsup.methods.base import Step
from tests.contracts.case import BATCH, EPOCH, FEW, IMAGES, Case, Run, global_batch
from tests.support.figures import assert_agree
from tests.support.processes import run_processes

EXACT = 1e-9  # relative, in double precision
STEPS = 8  # enough to fill the memories more than once, to an odd place, and to begin a second epoch


def check_loss_is_that_of_plain_loops(case: Case) -> None:
    """The loss, and its gradient with respect to embeddings and parameters, are those of a loop over all pairs.

    With empty and with full memory, and with one that holds more rows than there are images, so that own keys must be
    left out.
    """
    for count in (IMAGES, FEW):
        run = Run(case, count, torch.float64)
        run.losses(range(STEPS))
        compare_with_loops(run, STEPS)
    compare_with_loops(Run(case, IMAGES, torch.float64), 0)


def compare_with_loops(run: Run, step: int) -> None:
    run.begin_epoch(step)
    method, (views, batch) = run.method, run.batch(step)
    embeddings, published = embeddings_of(run, views, batch)
    naive = run.case.naive(method, embeddings, batch, published.update)
    assert_agree(published.loss, naive.detach(), EXACT, "loss")
    # Proxies, margins and the like stand in the loss as well as the embeddings do.
    wanted: dict[str, Tensor] = {name: p for name, p in method.named_parameters() if p.requires_grad}
    wanted |= {f"embedding {number}": embedding for number, embedding in enumerate(embeddings)}
    ours, theirs = (
        torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, materialize_grads=True)
        for loss in (published.loss, naive)
    )
    scale = max(float(gradient.abs().max()) for gradient in theirs)
    assert scale > 0, "the loops' loss does not depend on anything"
    for name, a, b in zip(wanted, ours, theirs, strict=True):
        assert (a - b).abs().max() <= EXACT * scale, f"gradient of {name}"


def embeddings_of(run: Run, views: list[Tensor], batch: Batch) -> tuple[list[Tensor], Step]:
    """The embeddings that the objective gets, as leaves of the graph, and the step that it makes of them."""
    method = run.method
    leaves: list[Tensor] = []
    objective: Callable[..., Step] = method.objective

    def from_leaves(embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        leaves.extend(embedding.detach().requires_grad_() for embedding in embeddings)
        return objective(leaves, views, batch)

    method.objective = from_leaves  # type: ignore[method-assign]
    try:
        step = method(views, batch)
    finally:
        del method.objective
    return leaves, step


def trained(
    cases: list[Case], batch_sizes: list[int] | None = None, sharded: bool = False
) -> dict[str, dict[str, Any]]:
    """By case: losses as means over processes, gradients of the first step and the state after the last."""
    results: dict[str, dict[str, Any]] = {}
    for case, batch_size in zip(cases, batch_sizes or [BATCH] * len(cases), strict=True):
        run = Run(case, dtype=torch.float64, batch_size=batch_size, sharded=sharded)
        losses = []
        for step in range(STEPS):
            run.begin_epoch(step)
            out = run.backward(step)
            if step == 0:
                gradients = run.gradients()
            run.finish(step, out)
            losses.append(mean_over_processes(out.loss.detach()))
        results[case.name] = {"losses": torch.stack(losses), "gradients": gradients, "state": run.state()}
    return results


Replicas = list[dict[str, dict[str, Any]]]


def trained_both_ways(cases: list[Case]) -> dict[str, dict[str, dict[str, Any]]]:
    """What `trained` returns, with whole and with sharded encoders."""
    return {"whole": trained(cases), "sharded": trained(cases, sharded=True)}


def in_two_processes(cases: list[Case]) -> dict[str, Replicas]:
    """What `trained_both_ways` returns in each of two processes that share the batches."""
    found = run_processes(2, trained_both_ways, cases)
    return {way: [replica[way] for replica in found] for way in ("whole", "sharded")}


def check_two_processes_are_one(case: Case, replicas: Replicas | None = None) -> None:
    """Two processes with half a batch each hold the same state, bit for bit; and it is that of one process.

    Losses, the gradients of the first step, weights and memory after several steps.
    """
    first, second = (replica[case.name] for replica in replicas or in_two_processes([case])["whole"])
    for name, value in first["state"].items():
        assert equal(value, second["state"][name]), f"the processes hold different {name}"
    if case.local_batch_norm:
        return
    one = trained([case])[case.name]
    assert_close(first["losses"], one["losses"], "losses")
    for kind in ("gradients", "state"):
        assert first[kind].keys() == one[kind].keys()
        for name, value in one[kind].items():
            assert_close(first[kind][name], value, f"{kind}: {name}")


def check_a_sharded_encoder_is_a_whole_one(case: Case, replicas: dict[str, Replicas] | None = None) -> None:
    """Two processes that divide the weights among them compute what two with whole weights do."""
    found = replicas or in_two_processes([case])
    for one, whole in zip(found["sharded"], found["whole"], strict=True):
        assert_close(one[case.name]["losses"], whole[case.name]["losses"], "losses")
        for kind in ("gradients", "state"):
            assert one[case.name][kind].keys() == whole[case.name][kind].keys()
            for name, value in whole[case.name][kind].items():
                assert_close(one[case.name][kind][name], value, f"{kind}: {name}")


def assert_close(actual: Tensor, expected: Tensor, name: str) -> None:
    """Within 1e-9 of the largest value, or of 1 where all are small; whole numbers are equal."""
    if not expected.is_floating_point():
        assert torch.equal(actual, expected), name
        return
    error = (actual - expected).abs().max()
    assert error <= EXACT * expected.abs().max().clamp(min=1), f"{name}: error {error:.3e}"


def equal(a: Tensor, b: Tensor) -> bool:
    """Bit for bit; what is not a number yet equals itself."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def check_forward_writes_nothing(case: Case) -> None:
    """Forward and backward change the statistics of batch norm and nothing else, in buffers or out of them."""
    run = Run(case)
    statistics = {
        f"{name}.{buffer}"
        for name, module in run.method.named_modules()
        if isinstance(module, _BatchNorm)
        for buffer, _ in module.named_buffers()
    }
    for step in range(STEPS):  # some things are written once, in the first step
        run.begin_epoch(step)
        before = run.state()
        out = run.backward(step)
        changed = {name for name, value in run.state().items() if not equal(value, before[name])}
        assert changed <= statistics, f"forward wrote {sorted(changed - statistics)}"
        again = run.backward(step)
        assert torch.equal(again.loss, out.loss), "a second forward gives another loss"
        run.finish(step, again)


def check_resumes_bit_for_bit(case: Case) -> None:
    """The state dictionary holds all there is: a method built anew, from other weights, goes on as the first would."""
    straight, first, second = Run(case), Run(case), Run(case, seed=1)
    middle, end = EPOCH - 2, EPOCH + 3  # the epoch that is broken off is not begun again; the next one is
    outside = tensors_outside_the_state(straight)
    losses = straight.losses(range(end))
    for name, value in tensors_outside_the_state(straight).items():
        assert name in outside
        assert equal(value, outside[name]), f"{name} changes and is not in the state dictionary"
    first.losses(range(middle))
    second.method.load_state_dict(first.state())
    assert torch.equal(second.losses(range(middle, end)), losses[middle:]), "the resumed losses differ"
    resumed = second.state()
    for name, value in straight.state().items():
        assert equal(resumed[name], value), f"the resumed {name} differs"


def tensors_outside_the_state(run: Run) -> dict[str, Tensor]:
    """Copies of the tensors that a method holds beside those of its state dictionary."""
    held = dict(run.method.named_buffers())
    for prefix, module in run.method.named_modules():
        held |= {f"{prefix}.{name}": value for name, value in vars(module).items() if isinstance(value, Tensor)}
    kept = run.state()
    return {name: value.clone() for name, value in held.items() if name not in kept}


def check_every_parameter_learns(case: Case) -> None:
    """Trainable parameters get a gradient in every step, and one that is not zero in some; others never do."""
    run = Run(case, dtype=torch.float64)
    largest = {name: 0.0 for name, p in run.method.named_parameters() if p.requires_grad}
    for step in range(STEPS):
        run.begin_epoch(step)
        out = run.backward(step)
        gradients = run.gradients()
        assert gradients.keys() == largest.keys(), sorted(gradients.keys() ^ largest.keys())
        for name, gradient in gradients.items():
            largest[name] = max(largest[name], float(gradient.abs().max()))
        run.finish(step, out)
    still = [name for name, size in largest.items() if size < 1e-10]  # what rounding leaves of a zero is smaller
    assert not still, f"no gradient for {still}"


def check_queues_wrap_exactly(case: Case) -> None:
    """A queue holds the last K rows in the places that a list filled in turn would give them, images and labels too."""
    run = Run(case)
    queues = {name: module for name, module in run.method.named_modules() if isinstance(module, FeatureQueue)}
    features = {name: list(queue.features.clone()) for name, queue in queues.items()}
    images = {name: [-1] * len(queue.features) for name, queue in queues.items()}
    classes = {name: [-1] * len(queue.features) for name, queue in queues.items()}
    written = dict.fromkeys(queues, 0)
    for step in range(STEPS):
        pushed: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for name, queue in queues.items():
            queue.push = spy(queue.push, pushed, name)  # type: ignore[method-assign]
        run.step(step)
        _, batch = global_batch(case, step, IMAGES)
        for name, queue in queues.items():
            del queue.push
            if name not in pushed:
                continue
            times = len(pushed[name][0]) // BATCH
            assert pushed[name][1].tolist() == batch.indices.tolist() * times, "pushed images are not the batch's"
            assert pushed[name][2].tolist() == batch.labels.tolist() * times, "pushed labels are not the batch's"
            for feature, image, label in zip(*pushed[name], strict=True):
                place = written[name] % len(features[name])
                features[name][place], images[name][place], classes[name][place] = feature, int(image), int(label)
                written[name] += 1
            if int(queue.filled) == 0:  # a warm-up: what was written does not count
                written[name] = 0
            assert torch.equal(queue.features, torch.stack(features[name])), f"step {step}: {name}"
            assert queue.indices.tolist() == images[name]
            assert queue.labels.tolist() == classes[name]
            assert int(queue.pointer) == written[name] % len(features[name])
            assert int(queue.filled) == min(written[name], len(features[name]))
    for name, queue in queues.items():
        assert written[name] > len(queue.features), f"{name} was never full; the case needs a smaller one"
        assert len(queue.features) % BATCH, f"{name} holds whole batches; the case needs a size that does not divide"


def spy(push: Callable[..., None], seen: dict[str, Any], name: str) -> Callable[..., None]:
    def spied(features: Tensor, indices: Tensor, labels: Tensor) -> None:
        assert name not in seen, "memory is written once per step"
        seen[name] = (features.clone(), indices.clone(), labels.clone())
        push(features, indices, labels)

    return spied


def check_half_precision_stays_in_the_encoder(case: Case) -> None:
    """Under bf16 autocast losses are finite, in single precision and near the usual ones; memory keeps its types."""
    half, single = Run(case), Run(case)
    before = {name: value.dtype for name, value in half.state().items()}
    for step in range(STEPS):
        for run in (half, single):
            run.begin_epoch(step)
        with torch.autocast("cpu", torch.bfloat16):
            out = half.method(*half.batch(step))
        usual = single.step(step).loss.detach()
        assert out.loss.dtype == torch.float32
        for name, value in out.update.items():
            assert value.dtype in (torch.float32, torch.int64, torch.bool), f"{name} is {value.dtype}"
        assert all(value.isfinite().all() for value in out.metrics.values())
        assert (out.loss - usual).abs() <= 0.1 * usual.abs().clamp(min=0.5), f"step {step}: {out.loss:.4f}, {usual:.4f}"
        half.optimizer.zero_grad()
        out.loss.backward()
        assert all(gradient.isfinite().all() for gradient in half.gradients().values())
        half.finish(step, out)
        after = half.state()
        assert {name: value.dtype for name, value in after.items()} == before
        for name, value in after.items():
            unset = single.state()[name].isnan()
            assert (value.isfinite() | unset).all(), name
        half.method.load_state_dict(single.state())  # compare single steps, not runs that drift apart
    # What comes after the encoders is in single precision: the loops give the same from the same embeddings.
    half.begin_epoch(STEPS)
    views, batch = half.batch(STEPS)
    with torch.autocast("cpu", torch.bfloat16):
        embeddings, out = embeddings_of(half, views, batch)
    naive = case.naive(half.method, [part.detach().float() for part in embeddings], batch, out.update)
    assert (out.loss - naive).abs() <= 1e-4 * naive.abs().clamp(min=0.1), f"{out.loss:.5f} is not {naive:.5f}"


def check_a_step_is_well_formed(case: Case) -> None:
    """The loss alone carries a gradient; metrics are scalars; what is written has one row for each image."""
    run = Run(case)
    for step in range(EPOCH + 2):
        run.begin_epoch(step)
        out = run.backward(step)
        assert out.loss.shape == ()
        assert out.loss.isfinite()
        for name, metric in out.metrics.items():
            assert metric.shape == (), name
            assert metric.isfinite(), name
            assert not metric.requires_grad, name
        assert "loss" not in out.metrics  # it is logged by the trainer
        for name, value in out.update.items():
            assert not value.requires_grad, name
            assert len(value) == BATCH, name
        assert out.shown is not None, "no figures of its embeddings are shown"
        rows, partners = out.shown
        assert not rows.requires_grad
        assert not partners.requires_grad
        assert rows.shape == partners.shape
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows), dtype=rows.dtype))
        run.finish(step, out)
    assert not any(value.requires_grad for name, value in run.method.named_buffers())
    assert all(value.grad_fn is None for value in run.method.buffers()), "memory holds on to a graph"


def check_single_precision_is_near_double(case: Case) -> None:
    """One step from the same state, in which rounding has no time to grow, with empty and with full memory."""
    double, single = Run(case, dtype=torch.float64), Run(case)
    for step in range(STEPS + 1):
        double.begin_epoch(step)
        if step in (0, STEPS):
            single.method.load_state_dict(double.state())
            single.optimizer.zero_grad()
            expected, found = double.backward(step).loss, single.backward(step).loss
            assert found.dtype == torch.float32
            assert (found - expected).abs() <= 1e-4 * expected.abs(), f"step {step}: {found:.6f}, not {expected:.6f}"
            double.method.load_state_dict(double.state())
        double.step(step)
