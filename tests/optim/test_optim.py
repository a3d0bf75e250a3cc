import pytest
import torch
from torch import nn

from selfsup.optim.optimizers import LARS, SGD, AdamW
from tests.support.figures import assert_agree, golden, golden_text


def parameters(g, names):
    return {name: nn.Parameter(g["w0__" + name.replace("/", "__")].clone()) for name in names}


@pytest.mark.parametrize("variant", ["a", "b"])
def test_lars_golden(variant):
    g, names = golden("lars"), golden_text("lars", "names")
    weights = parameters(g, names)
    config = LARS.Config(
        learning_rate=1.0,
        scaling="none",
        momentum=float(g["momentum"]),
        eta=float(g["eta"]),
        weight_decay=float(g[f"weight_decay_{variant}"]),
    )
    optimizer = config.build(weights.items(), batch_size=1)
    excluded = golden_text("lars", "excluded_names")
    assert {id(p) for group in optimizer.param_groups if not group["adapt"] for p in group["params"]} == {
        id(weights[name]) for name in excluded
    }
    for step, rate in enumerate(g["lr"].tolist()):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, weight in weights.items():
            weight.grad = g["grad__" + name.replace("/", "__")][step].clone()
        optimizer.step()
        for name, weight in weights.items():
            key = f"{variant}__" + name.replace("/", "__")
            assert_agree(weight, g[f"w_{key}"][step], 2e-6, name)
            buffer = optimizer.state[weight]["momentum_buffer"]
            assert_agree(buffer, g[f"momentum_buffer_{key}"][step], 2e-6, name)


def test_lars_state_round_trip():
    def run(optimizer, weights, steps):
        for step in steps:
            for number, weight in enumerate(weights):
                weight.grad = torch.full_like(weight, 0.1 * (step + number + 1))
            optimizer.step()

    def make():
        torch.manual_seed(0)
        weights = [nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(4))]
        return LARS.Config().build(zip(("a.weight", "a.bias"), weights, strict=True), 256), weights

    straight, weights = make()
    run(straight, weights, range(6))
    first, part = make()
    run(first, part, range(3))
    second, rest = make()
    with torch.no_grad():
        for new, old in zip(rest, part, strict=True):
            new.copy_(old)
    second.load_state_dict(first.state_dict())
    run(second, rest, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(weights, rest, strict=True))


def test_lars_forms_differ_only_when_the_rate_changes():
    def run(rate_in_buffer, rates):
        weight = nn.Parameter(torch.ones(2, 2))
        optimizer = LARS.Config(rate_in_buffer=rate_in_buffer).build([("w", weight)], 256)
        for rate in rates:
            optimizer.param_groups[0]["lr"] = rate
            weight.grad = torch.ones(2, 2)
            optimizer.step()
        return weight.detach()

    assert_agree(run(True, [2, 2, 2]), run(False, [2, 2, 2]), 1e-6)
    assert (run(True, [2, 1, 1]) - run(False, [2, 1, 1])).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("config", "decays"),
    [
        (SGD.Config(), [1e-4]),
        (SGD.Config(decay_norm_and_bias=False), [1e-4, 0]),
        (AdamW.Config(), [0.01, 0]),
        (LARS.Config(), [1e-6, 0]),
    ],
)
def test_groups(config, decays):
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    net[2].requires_grad_(False)
    optimizer = config.build(net.named_parameters(), batch_size=512)
    assert [group["weight_decay"] for group in optimizer.param_groups] == decays
    peak = config.learning_rate * (2 if config.scaling == "linear" else 1)
    assert all(group["peak_lr"] == group["lr"] == pytest.approx(peak) for group in optimizer.param_groups)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4  # nothing of the frozen layer


class Learnt(nn.Module):
    """A net, and a loss with a boundary for each of 3 classes and with proxies."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 4)
        self.beta = nn.Parameter(torch.ones(3))
        self.proxies = nn.Parameter(torch.ones(3, 4))


@pytest.mark.parametrize("config", [SGD.Config(), AdamW.Config(), LARS.Config()])
def test_rates_of_their_own(config):
    model = Learnt()
    rates = {"beta": 3.0, "prox": 50.0, "proxies": 100.0, "net.bias": 1.0}
    optimizer = config.build(model.named_parameters(), 256, rates)
    groups = {
        name: next(group for group in optimizer.param_groups if any(p is parameter for p in group["params"]))
        for name, parameter in model.named_parameters()
    }
    peak = config.peak(256)
    for name, factor in (("net.weight", 1), ("net.bias", 1), ("beta", 3), ("proxies", 100)):
        assert groups[name]["peak_lr"] == groups[name]["lr"] == pytest.approx(factor * peak), name
    decay = config.weight_decay
    wanted = {"net.weight": decay, "net.bias": 0, "beta": 0, "proxies": 0 if isinstance(config, LARS.Config) else decay}
    assert {name: group["weight_decay"] for name, group in groups.items()} == wanted
    assert optimizer.param_groups[0] is groups["net.weight"]  # its rate is the one that is logged
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4
    if isinstance(config, LARS.Config):
        assert {name for name, group in groups.items() if group["adapt"]} == {"net.weight"}


def test_a_factor_is_that_of_the_step():
    """Plain descent: the step of a parameter is its rate times its gradient."""
    model = Learnt()
    optimizer = SGD.Config(learning_rate=0.1, scaling="none", momentum=0.0, weight_decay=0.0).build(
        model.named_parameters(), 1, {"beta": 3.0}
    )
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert_agree(model.beta, torch.full((3,), 0.7), 1e-6)
    assert_agree(model.proxies, torch.full((3, 4), 0.9), 1e-6)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="a rate is given for 'bta'"):
        SGD.Config().build(Learnt().named_parameters(), 8, {"bta": 2.0})
    with pytest.raises(ValueError, match="the rate of 'beta' is 0 times"):
        SGD.Config().build(Learnt().named_parameters(), 8, {"beta": 0})
    with pytest.raises(ValueError, match="no trainable parameter"):
        SGD.Config().build(nn.Linear(2, 2).requires_grad_(False).named_parameters(), 8)
    for config in (SGD.Config, AdamW.Config, LARS.Config):
        with pytest.raises(ValueError, match="learning_rate is -1"):
            config(learning_rate=-1)
