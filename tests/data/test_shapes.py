import pytest
import torch

from selfsup.data.shapes import CLASSES, shapes


def knn_accuracy(train: torch.Tensor, labels: torch.Tensor, test: torch.Tensor, wanted: torch.Tensor) -> float:
    nearest = (test @ train.T).topk(20).indices
    votes = torch.nn.functional.one_hot(labels[nearest], len(CLASSES)).sum(1)
    return (votes.argmax(1) == wanted).double().mean().item()


def test_an_image_is_a_pure_function_of_its_number_split_and_size():
    many, few = shapes(300), shapes(40)
    assert torch.equal(many.images[:40], few.images)
    assert not torch.equal(few.images, shapes(40, split="test").images)
    assert shapes(3, size=48).images.shape == (3, 3, 48, 48)


def test_labels_are_balanced_and_named():
    source = shapes(200)
    assert torch.bincount(source.labels).tolist() == [20] * 10
    assert source.classes == CLASSES
    assert source.name(7) == "shapes-train[7]"


def test_pixels_and_colours_hardly_tell_the_class():
    train, test = shapes(3000), shapes(500, split="test")

    def pixels(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(images.flatten(1).float())

    def colours(images: torch.Tensor) -> torch.Tensor:
        values = images.float().flatten(2)
        return torch.nn.functional.normalize(torch.cat([values.mean(2), values.std(2)], 1) - 100)

    for features in (pixels, colours):
        accuracy = knn_accuracy(features(train.images), train.labels, features(test.images), test.labels)
        assert accuracy < 0.3


def test_the_shape_tells_the_class():
    # No two figures cover the same pixels, and none is too slight to see.
    from selfsup.data.shapes import _outline

    axis = torch.linspace(-1.1, 1.1, 24, dtype=torch.float64)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    masks = torch.stack([(_outline(name, u, v) < 0).double().flatten() for name in CLASSES])
    overlap = (masks @ masks.T) / (masks.sum(1)[:, None] + masks.sum(1) - masks @ masks.T)
    overlap.fill_diagonal_(0)
    assert overlap.max() < 0.9  # a disc and a square
    assert masks.mean(1).min() > 0.15


def test_impossible_requests():
    with pytest.raises(ValueError, match="0 shapes of 32 pixels"):
        shapes(0)
