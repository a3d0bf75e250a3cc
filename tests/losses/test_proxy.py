from math import exp, log

import pytest
import torch

from selfsup.losses.contrastive import l2_normalize, similarity
from selfsup.losses.proxy import proxy_anchor, proxy_nca
from tests.support.figures import assert_agree


def naive_nca(s, labels):
    terms = []
    for row, label in zip(s.tolist(), labels.tolist(), strict=True):
        others = sum(exp(-(2 - 2 * x)) for proxy, x in enumerate(row) if proxy != label)
        terms.append(-log(exp(-(2 - 2 * row[label])) / others))
    return sum(terms) / len(terms)


def naive_anchor(s, labels, alpha=32.0, margin=0.1):
    pull, push = [], []
    for proxy, column in enumerate(s.T.tolist()):
        own = [x for x, label in zip(column, labels.tolist(), strict=True) if label == proxy]
        others = [x for x, label in zip(column, labels.tolist(), strict=True) if label != proxy]
        pull += [log(1 + sum(exp(-alpha * (x - margin)) for x in own))] if own else []
        push.append(log(1 + sum(exp(alpha * (x + margin)) for x in others)))
    return sum(pull) / len(pull) + sum(push) / len(push)


LOSSES = [(proxy_nca, naive_nca), (proxy_anchor, naive_anchor)]
LABELS = torch.tensor([0, 2, 2, 5, 0, 1, 2, 5])  # no image of classes 3 and 4


def some():
    torch.manual_seed(0)
    return torch.randn(8, 4, dtype=torch.float64, requires_grad=True), torch.randn(6, 4).double().requires_grad_()


@pytest.mark.parametrize(("loss", "naive"), LOSSES)
def test_equals_the_naive_loop(loss, naive):
    rows, proxies = some()
    s = similarity(l2_normalize(rows), l2_normalize(proxies))
    assert_agree(loss(s, LABELS), torch.tensor(naive(s, LABELS), dtype=torch.float64), 1e-12)
    assert torch.autograd.gradcheck(
        lambda a, b: loss(similarity(l2_normalize(a), l2_normalize(b)), LABELS), (rows, proxies)
    )


@pytest.mark.parametrize(("loss", "naive"), LOSSES)
def test_local_images_give_the_loss_of_all(loss, naive):
    s = similarity(*(l2_normalize(x).detach() for x in some()))
    sent = []

    def record(local):
        sent.append(local)
        return local

    loss(s[4:], LABELS[4:], gather=record)
    theirs = iter(sent)
    result = loss(s[:4], LABELS[:4], gather=lambda local: torch.cat([local, next(theirs)]))
    assert_agree(result, loss(s, LABELS), 1e-12)
