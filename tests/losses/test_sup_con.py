import pytest
import torch
from torch.nn.functional import normalize

from selfsup.losses.contrastive import nt_xent
from selfsup.losses.sup_con import class_pairs, sup_con
from tests.support.figures import assert_agree, golden


def of_classes(*arguments):
    """What `sup_con` is told of classes, as its arguments by name."""
    positive, own = class_pairs(*arguments)
    return {"positive": positive, "excluded": None, "own": own}


VARIANTS = {  # features, labels (None: each image its own class), anchor views
    "labels": ("features", "labels", None),
    "nolabels": ("features", None, None),
    "labels_one": ("features", "labels", 1),
    "labels_v1": ("features_v1", "labels", None),
    "labels_v3": ("features_v3", "labels_v3", None),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_golden(variant):
    g = golden("supcon")
    name, labels, anchor_views = VARIANTS[variant]
    features = g[name].double().requires_grad_()  # (B, V, D)
    classes = torch.arange(len(features)) if labels is None else g[labels]
    views = features.transpose(0, 1)  # (V, B, D)
    anchor_views = anchor_views or len(views)
    masks = of_classes(classes, classes, 0, len(views), anchor_views)
    anchors, columns = views[:anchor_views].flatten(0, 1), views.flatten(0, 1)
    loss, _ = sup_con(anchors, columns, **masks, temperature=float(g["tau"]), base_temperature=float(g["base_tau"]))
    assert_agree(loss, g[f"loss_{variant}"], 1e-12)
    assert_agree(torch.autograd.grad(loss, features)[0], g[f"grad_{variant}"], 1e-12)
    single, _ = sup_con(
        anchors.float(), columns.float(), **masks, temperature=float(g["tau"]), base_temperature=float(g["base_tau"])
    )
    assert_agree(single, g[f"loss_{variant}"], 5e-6)


def test_without_labels_it_is_nt_xent():
    torch.manual_seed(0)
    views = [normalize(torch.randn(6, 4, dtype=torch.float64)) for _ in range(2)]
    rows, images = torch.cat(views), torch.arange(6)
    loss, _ = sup_con(rows, rows, **of_classes(images, images, 0, 2, 2), temperature=0.2, base_temperature=0.2)
    assert_agree(loss, nt_xent(views, views, 0, 0.2)[0], 1e-12)


@pytest.mark.parametrize("anchor_views", [1, 3])
def test_local_anchors_average_to_the_whole(anchor_views):
    """What each of three processes would compute, with the gather replaced by the same tensor."""
    torch.manual_seed(1)
    features = torch.randn(3, 12, 5, dtype=torch.float64, requires_grad=True)  # (V, N, D)
    views, labels = normalize(features, dim=2), torch.randint(4, (12,))
    columns = views.flatten(0, 1)

    def part(at, size):
        masks = of_classes(labels[at : at + size], labels, at, 3, anchor_views)
        return sup_con(views[:anchor_views, at : at + size].flatten(0, 1), columns, **masks, temperature=0.3)

    whole, whole_accuracy = part(0, 12)
    parts = [part(at, 4) for at in (0, 4, 8)]
    loss = torch.stack([loss for loss, _ in parts]).mean()
    assert_agree(loss, whole, 1e-12)
    assert_agree(torch.stack([accuracy for _, accuracy in parts]).mean(), whole_accuracy, 1e-6)
    gradients = [torch.autograd.grad(figure, features, retain_graph=True)[0] for figure in (loss, whole)]
    assert_agree(*gradients, 1e-12)


def test_columns_of_a_queue_that_is_not_full():
    """Columns of a memory: excluded ones do not exist, whatever they hold and whatever the other mask says."""
    torch.manual_seed(0)
    anchors, columns = (normalize(torch.randn(count, 4, dtype=torch.float64)) for count in (5, 9))
    positive, unwritten = torch.rand(5, 9) < 0.4, torch.arange(9) >= 6
    anchors.requires_grad_()
    excluded = unwritten.expand(5, 9)
    loss, accuracy = sup_con(anchors, columns, positive, excluded, 0.2)
    nothing = torch.zeros(5, 6, dtype=torch.bool)
    expected, expected_accuracy = sup_con(anchors, columns[:6], positive[:, :6], nothing, 0.2)
    assert_agree(loss, expected, 1e-12)
    assert accuracy == expected_accuracy
    # Before anything was written there is nothing to learn from, and no NaN.
    loss, accuracy = sup_con(anchors, columns, positive, torch.ones_like(positive), 0.2)
    assert loss == 0
    assert accuracy == 0
    assert torch.autograd.grad(loss, anchors)[0].eq(0).all()


def test_accuracy_is_the_share_of_anchors_whose_nearest_column_has_their_class():
    torch.manual_seed(2)
    rows, labels = normalize(torch.randn(40, 3)), torch.randint(4, (40,))
    labels[7] = 4  # a class of its own
    _, accuracy = sup_con(rows, rows, **of_classes(labels, labels, 0, 1, 1), temperature=0.1)
    nearest = (rows @ rows.T).fill_diagonal_(-2).argmax(dim=1)
    assert_agree(accuracy, (labels[nearest] == labels).float().mean(), 1e-6)
    assert 0.1 < accuracy < 0.9
    same = torch.ones(40, 3)
    assert sup_con(same, same, **of_classes(labels, labels, 0, 1, 1), temperature=0.1)[1] == 0  # ties are no hits
