import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from selfsup.config.settings import dump, restore
from selfsup.models.heads import Classifier, Head, HeadConfig


def test_moco_heads():
    torch.manual_seed(0)
    x = torch.randn(5, 12)
    linear = Head.Config(hidden_layers=0, output_dim=4).build(12)
    assert torch.equal(linear(x), F.linear(x, *linear.parameters()))
    mlp = Head.Config(hidden_layers=1, output_dim=4).build(12)
    w1, b1, w2, b2 = mlp.parameters()
    assert w1.shape == (12, 12)
    assert torch.equal(mlp(x), F.linear(F.linear(x, w1, b1).relu(), w2, b2))


def test_simclr_head_is_the_published_one():
    torch.manual_seed(0)
    x = torch.randn(16, 200)
    head = Head.Config(hidden_layers=2, output_dim=8, batch_norm="all").build(200)
    linears = [module for module in head.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in head.modules() if isinstance(module, nn.BatchNorm1d)]
    assert [linear.out_features for linear in linears] == [200, 200, 8]
    assert all(linear.bias is None and linear.weight.std().item() == pytest.approx(0.01, rel=0.1) for linear in linears)
    assert [norm.bias.requires_grad for norm in norms] == [True, True, False]
    expected = x.double()
    for linear in linears:
        expected = expected @ linear.weight.double().T
        variance, mean = torch.var_mean(expected, dim=0, correction=0)
        expected = (expected - mean) / (variance + 1e-5).sqrt()
        expected = expected if linear is linears[-1] else expected.relu()
    torch.testing.assert_close(head(x).double(), expected, rtol=1e-4, atol=1e-4)


def test_hidden_layers_can_be_addressed():
    head = Head.Config(hidden_layers=2, hidden_dim=7, output_dim=3, batch_norm="hidden").build(5).eval()
    x = torch.randn(4, 5)
    assert head.hidden(x, 0) is x
    assert [head.hidden(x, layer).shape[1] for layer in (1, 2, 3)] == [7, 7, 3]
    assert head.hidden(x, 1).min() == 0
    assert torch.equal(head.hidden(x, 3), head(x))


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="hidden_layers is -1"):
        Head.Config(hidden_layers=-1)
    with pytest.raises(ValueError, match="output_dim is 0"):
        Head.Config(output_dim=0)


@pytest.mark.parametrize("batch_norm", ["none", "all"])
def test_a_classifier_stands_on_the_first_layers_of_a_head(batch_norm):
    head = Head.Config(hidden_layers=2, hidden_dim=7, output_dim=3, batch_norm=batch_norm).build(5)
    x = torch.randn(16, 5)
    head(x)  # running statistics that are not the initial ones
    head.eval()
    for layer, width in ((0, 5), (1, 7), (2, 7)):
        classifier = Classifier.Config(num_classes=4, hidden=head.config, layer=layer).build(5).eval()
        classifier.take(head)
        assert torch.equal(classifier.hidden(x), head.hidden(x, layer))
        assert classifier.linear.weight.shape == (4, width)
        assert torch.equal(classifier(x), classifier.linear(head.hidden(x, layer)))


def test_a_classifiers_settings_come_back_from_json():
    config = Classifier.Config(
        num_classes=2, class_names=("cat", "dog"), hidden=Head.Config(hidden_layers=2, batch_norm="all"), layer=1
    )
    for each in (config, Classifier.Config(num_classes=3)):
        assert restore(json.loads(json.dumps(dump(each))), HeadConfig) == each


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"num_classes": 1}, "num_classes is 1"),
        ({"class_names": ("a",)}, "1 class_names for 3 classes"),
        ({"layer": 1}, "layer is 1, and the head has 0 hidden layers"),
        ({"layer": 3, "hidden": Head.Config(hidden_layers=2)}, "layer is 3, and the head has 2"),
    ],
)
def test_classifiers_that_cannot_be(fields, complaint):
    with pytest.raises(ValueError, match=complaint):
        Classifier.Config(**{"num_classes": 3, **fields})
