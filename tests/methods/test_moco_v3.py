"""MoCo v3 against a training loop that is written out as the paper's Algorithm 1, in double precision."""

import math
from copy import deepcopy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from selfsup.methods.base import RunContext
from selfsup.methods.moco_v3 import MoCoV3
from selfsup.models.heads import PlainHead
from selfsup.models.norm import SyncBatchNorm
from tests.support.figures import assert_agree
from tests.support.toys import global_batch, toy

CONTEXT = RunContext(num_images=1000, batch_size=16, seed=0)
SMALL = PlainHead.Config(hidden_dim=24, output_dim=8)
STEPS = 12


def config(**changes):
    return MoCoV3.Config(**{"momentum": 0.9, "head": SMALL, "predictor": SMALL} | changes)


def perceptron(widths, last_norm):
    """Linear layers without bias, batch norm and ReLU behind each but the last, batch norm of no parameters there."""
    layers = []
    for number, (a, b) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(a, b, bias=False))
        if number < len(widths) - 2:
            layers += [nn.BatchNorm1d(b), nn.ReLU()]
        elif last_norm:
            layers.append(nn.BatchNorm1d(b, affine=False))
    return nn.Sequential(*layers)


def copied(plain, head):
    """The plain layers with the weights of ours, which has two constants more in its last batch norm."""
    theirs = [module for module in plain if list(module.parameters())]
    ours = [module for layer in head.layers for module in layer if list(module.parameters())]
    for mine, yours in zip(theirs, ours, strict=False):
        mine.load_state_dict(yours.state_dict())
    return plain.double()


def contrast(queries, keys, temperature):
    queries, keys = F.normalize(queries, dim=1), F.normalize(keys, dim=1)
    return F.cross_entropy(queries @ keys.T / temperature, torch.arange(len(keys))) * 2 * temperature


@pytest.mark.parametrize(("hidden", "last_norm"), [(1, False), (2, True)])  # ResNet-50, transformers
def test_twelve_steps_are_those_of_a_plain_loop(hidden, last_norm):
    head = PlainHead.Config(hidden_layers=hidden, hidden_dim=24, output_dim=8)
    predictor = PlainHead.Config(hidden_dim=24, output_dim=8, batch_norm="all" if last_norm else "hidden")
    method = config(head=head, predictor=predictor, temperature=0.3, batch_norm="plain").build(toy(True), CONTEXT)
    method = method.double()
    base = nn.Sequential(deepcopy(method.encoder), copied(perceptron([16, *[24] * hidden, 8], True), method.head))
    predict = copied(perceptron([8, 24, 8], last_norm), method.predictor)
    momentum_base = deepcopy(base)
    ours = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1, momentum=0.9)
    theirs = torch.optim.SGD([*base.parameters(), *predict.parameters()], lr=0.1, momentum=0.9)
    for step in range(STEPS):
        views, batch = global_batch(step, 16)
        views = [view.double() for view in views]
        # The plain loop: the momentum encoder first, then keys, both directions, one step.
        m = 1 - (1 - 0.9) * (1 + math.cos(math.pi * max(0, step - 1) / STEPS)) / 2
        with torch.no_grad():
            for old, new in zip(momentum_base.parameters(), base.parameters(), strict=True):
                old.mul_(m).add_((1 - m) * new)
            keys = [momentum_base(view) for view in views]
        queries = [predict(base(view)) for view in views]
        expected = contrast(queries[0], keys[1], 0.3) + contrast(queries[1], keys[0], 0.3)
        theirs.zero_grad()
        expected.backward()
        theirs.step()

        out = method(views, batch)
        ours.zero_grad()
        out.loss.backward()
        ours.step()
        method.after_step(out.update, step / STEPS)
        assert_agree(out.loss, expected, 1e-9, f"loss of step {step}")
    for name, weight in base[0].named_parameters():
        assert_agree(method.encoder.get_parameter(name), weight, 1e-9, name)


def test_batch_norm_is_over_all_processes_and_heads_have_no_bias():
    method = config().build(toy(True), CONTEXT)
    norms = [module for module in method.modules() if isinstance(module, SyncBatchNorm)]
    assert len(norms) == 2 * (1 + 2) + 2  # encoder and head, twice, and the predictor
    for head in (method.head, method.predictor):
        linear = [module for module in head.modules() if isinstance(module, nn.Linear)]
        assert len(linear) == 2
        assert all(module.bias is None for module in linear)
        last = head.layers[-1][1]
        assert not last.weight.requires_grad
        assert not last.bias.requires_grad


def test_only_the_momentum_encoder_is_without_gradient():
    method = config().build(toy(True), CONTEXT)
    method(*global_batch(0, 16)).loss.backward()
    for name, parameter in method.named_parameters():
        moved = parameter.grad is not None
        assert moved == parameter.requires_grad, name
        assert not (name.startswith("key_") and moved), name


def test_linear_layers_are_drawn_as_torch_draws_them():
    torch.manual_seed(0)
    linear = PlainHead.Config(hidden_layers=0, output_dim=64, batch_norm="none").build(400).layers[0][0]
    assert 0.9 / 20 < float(linear.weight.detach().abs().max()) <= 1 / 20  # uniform up to one over the root of 400


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"final_momentum": -1.0}, "final_momentum is -1"),
        ({"predictor": PlainHead.Config(output_dim=9)}, "predictor.output_dim is 9 and head.output_dim 8"),
    ],
)
def test_bad_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        config(**change)


def test_wrong_views_are_refused():
    with pytest.raises(ValueError, match="makes 3"):
        config().build(toy(True), CONTEXT._replace(num_views=3))
