import pytest
import torch
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode

from selfsup.losses import nce as module
from selfsup.losses.nce import bank_scores, batch_log_normaliser, nce, sampled_scores, softmax_over_bank
from tests.support.figures import assert_agree


def problem(dtype=torch.float32, size=6, n=50, k=9, dim=5):
    torch.manual_seed(0)
    features = normalize(torch.randn(size, dim)).to(torch.promote_types(dtype, torch.float32))
    return features.requires_grad_(), normalize(torch.randn(n, dim)).to(dtype), torch.randint(n, (size, k))


@pytest.fixture(params=["product", "gathered"])
def way(request, monkeypatch):
    """Both ways to the scores, in parts that divide nothing: 7 bank rows, 4 sampled columns."""
    monkeypatch.setattr(module, "_PRODUCT", 10**6 if request.param == "product" else 0)
    monkeypatch.setattr(module, "_TILE", 7)
    monkeypatch.setattr(module, "_GATHERED", 4 * 6 * 5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.usefixtures("way")
def test_scores_and_their_gradient(dtype):
    features, bank, rows = problem(dtype)
    slopes = torch.randn(rows.shape, dtype=features.dtype)
    for scores, chosen in (
        (sampled_scores(features, bank, rows), bank[rows]),
        (bank_scores(features, bank)[:, :9], bank[:9].expand(6, 9, 5)),
    ):
        expected = (chosen.double() * features.detach().double()[:, None]).sum(dim=2)
        assert scores.dtype == features.dtype
        assert_agree(scores, expected, 1e-6)
        gradient = (slopes.double()[:, :, None] * chosen.double()).sum(dim=1)
        assert_agree(torch.autograd.grad((scores * slopes).sum(), features)[0], gradient, 1e-6)


@pytest.mark.usefixtures("way")
def test_scores_keep_their_precision_under_autocast():
    features, bank, rows = problem()
    plain = sampled_scores(features, bank, rows)
    with torch.autocast("cpu", torch.bfloat16):
        scores = sampled_scores(features.bfloat16(), bank, rows), sampled_scores(features, bank, rows)
        torch.autograd.backward(scores[1].sum())
    assert {part.dtype for part in scores} == {torch.float32}
    assert torch.equal(scores[1], plain)
    assert_agree(features.grad, bank[rows].sum(dim=1), 1e-6)


class Largest(TorchDispatchMode):
    """The largest number of elements that any operation has returned."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max(self.numel, out.numel() if isinstance(out, torch.Tensor) else 0)
        return out


@pytest.mark.parametrize(("n", "product"), [(20_000, 10**9), (2000, 8 * 2000 - 1)])
def test_sampled_rows_are_never_alive_at_once(n, product, monkeypatch):
    """With a bank that is many times larger than the sample, or with more products than may be formed."""
    monkeypatch.setattr(module, "_GATHERED", 2000)
    monkeypatch.setattr(module, "_PRODUCT", product)
    features, bank, rows = problem(size=8, n=n, k=100, dim=16)
    with Largest() as largest:
        sampled_scores(features, bank, rows).sum().backward()
    assert largest.numel == 15 * 8 * 16  # 15 columns at a time, and not 100


def test_nce_equals_the_naive_loop():
    torch.manual_seed(0)
    n, log_z = 1000, torch.tensor(9.0, dtype=torch.float64)
    scores = (8 * torch.randn(5, 11, dtype=torch.float64)).requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for row in scores:
        noise = 10 / n
        for k, p in enumerate(row.exp() / log_z.exp()):
            total = total - ((p if k == 0 else noise) / (p + noise + 1e-7)).log()
    loss, accuracy = nce(scores, log_z, n)
    assert_agree(loss, total / 5, 1e-12)
    assert_agree(torch.autograd.grad(loss, scores)[0], torch.autograd.grad(total / 5, scores)[0], 1e-12)
    assert accuracy == sum(float(row[0] > row[1:].max()) for row in scores) / 5


def test_nce_at_a_temperature_whose_exponentials_overflow():
    scores = torch.tensor([[120.0, 60.0, -90.0], [-120.0, 119.0, 120.0]], requires_grad=True)
    log_z = batch_log_normaliser(scores.detach().logsumexp(dim=1), 3, 100)
    exact = scores.detach().double()
    assert_agree(log_z, (100 * exact.exp().mean()).log(), 1e-6)
    loss, _ = nce(scores, log_z, 100)
    assert_agree(loss, nce(exact, log_z.double(), 100)[0], 1e-6)
    loss.backward()
    assert scores.grad.isfinite().all()


def test_softmax_over_bank_is_the_cross_entropy():
    features, bank, _ = problem(torch.float64)
    targets = torch.tensor([3, 1, 49, 0, 7, 20])
    scores = 10 * bank_scores(features, bank)
    loss, accuracy = softmax_over_bank(10 * features, bank, targets)
    expected = torch.nn.functional.cross_entropy(scores, targets)
    assert_agree(loss, expected, 1e-12)
    gradients = [torch.autograd.grad(figure, features, retain_graph=True)[0] for figure in (loss, expected)]
    assert_agree(*gradients, 1e-12)
    assert accuracy == (scores.argmax(dim=1) == targets).float().mean()
    assert softmax_over_bank(10 * features, bank, scores.argmax(dim=1))[1] == 1
    assert (
        softmax_over_bank(torch.ones(6, 4), torch.ones(50, 4), targets)[1] == 0
    )  # a tie, as of a collapsed encoder, is no hit


def test_the_bank_is_constant_in_its_softmax():
    """The method writes it; a gradient would be a second way to change it."""
    features, bank, _ = problem(torch.float64)
    bank.requires_grad_()
    softmax_over_bank(10 * features, bank, torch.tensor([3, 1, 49, 0, 7, 20]))[0].backward()
    assert features.grad.abs().sum() > 0
    assert bank.grad is None
