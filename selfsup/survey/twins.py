"""Images that are there more than once: equal to the byte, or alike; those in both parts of the data are leaks."""

from collections import defaultdict
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from selfsup.survey.alike import alike

SHOWN = 50  # groups and leaks that are kept


class Twins(NamedTuple):
    """Images of all parts, numbered one part after the other, the training images first."""

    images: int  # those that have a twin
    groups: int
    first: list[list[int]]  # the largest groups, each by its images in their order
    leaked: int  # test images that have a twin among the training images
    leaks: list[tuple[int, int]]  # the first of them, each with such a twin
    mislabelled: int  # groups whose images are of different classes
    uncompared: int = 0  # pairs that would have to be compared, and were too many


def equal_twins(numbers: np.ndarray, labels: np.ndarray, training: int) -> Twins:
    """Images of equal content.

    Args:
        numbers: (N,) as `contents_numbered` gives them.
        labels: (N,), -1 where there is none.
        training: so many of the first ones are to train on.
    """
    known = np.flatnonzero(numbers >= 0)
    groups = _groups(known, numbers[known])
    leaks = [(image, group[0]) for group in groups if group[0] < training for image in group if image >= training]
    return _twins(groups, sorted(leaks), labels)


def alike_twins(
    sketches: np.ndarray, numbers: np.ndarray, labels: np.ndarray, readable: np.ndarray, training: int
) -> Twins:
    """Images that look alike and are not equal.

    Args:
        sketches: (N, SKETCH) uint8.
        numbers: (N,) of their contents, -1 where it is not known.
        labels, training: as for `equal_twins`.
        readable: (N,) bool.
    """
    content = np.where(numbers >= 0, numbers, np.arange(len(numbers)))
    rows = np.flatnonzero(readable & (content == np.arange(len(content))))  # one of each content
    found = alike(sketches[rows])
    head = np.arange(len(content))
    head[rows] = rows[found.heads]
    head = head[content]
    pairs = rows[found.pairs]
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(len(head), len(head)))
    _, component = connected_components(graph, directed=False)
    component = component[head]
    several = np.flatnonzero(np.bincount(component[rows], minlength=len(head)) > 1)  # of different contents
    members = np.flatnonzero(readable & np.isin(component, several))
    leaks = _leaks(members, content, head, pairs, training)
    return _twins(_groups(members, component[members]), leaks, labels)._replace(uncompared=found.uncompared)


def _leaks(
    members: np.ndarray, content: np.ndarray, head: np.ndarray, pairs: np.ndarray, training: int
) -> list[tuple[int, int]]:
    """Test images with a training image of another content that has their head, or one that is alike to theirs."""
    trained: dict[int, dict[int, int]] = defaultdict(dict)  # head -> content -> the first image, of two contents
    for image in members[members < training].tolist():
        known = trained[int(head[image])]
        if len(known) < 2:
            known.setdefault(int(content[image]), image)
    beside: dict[int, list[int]] = defaultdict(list)
    for one, other in pairs.tolist():
        beside[one].append(other)
        beside[other].append(one)
    found = []
    for image in members[members >= training].tolist():
        near = (int(head[image]), *beside.get(int(head[image]), ()))
        twins = [twin for place in near for of, twin in trained.get(place, {}).items() if of != content[image]]
        if twins:
            found.append((image, min(twins)))
    return found


def _groups(images: np.ndarray, keys: np.ndarray) -> list[list[int]]:
    """Those of `images`, ascending, whose keys are equal, where they are more than one."""
    _, number, counts = np.unique(keys, return_inverse=True, return_counts=True)
    several = np.flatnonzero(counts[number] > 1)
    if not len(several):
        return []
    order = several[np.argsort(keys[several], kind="stable")]
    ends = np.flatnonzero(np.diff(keys[order])) + 1
    return [group.tolist() for group in np.split(images[order], ends)]


def _twins(groups: list[list[int]], leaks: list[tuple[int, int]], labels: np.ndarray) -> Twins:
    groups.sort(key=lambda group: (-len(group), group[0]))
    known = (labels[group] for group in groups)
    mislabelled = sum(len(np.unique(own[own >= 0])) > 1 for own in known)
    return Twins(sum(map(len, groups)), len(groups), groups[:SHOWN], len(leaks), leaks[:SHOWN], mislabelled)
