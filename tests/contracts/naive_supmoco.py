"""SupCon's loss against a batch's keys and a queue, by plain loops."""

import math

import torch
from torch import Tensor

from selfsup.batch import Batch


def supmoco_loss(method, embeddings: list[Tensor], batch: Batch, update: dict[str, Tensor]) -> Tensor:
    config, keys = method.config, update["keys"]  # (N, 1 or 2, D)
    indices, labels = batch.indices.tolist(), batch.labels.tolist()
    total = embeddings[0].new_zeros(())
    for number, queries in enumerate(embeddings):
        own_view = keys.shape[1] - 1 - number  # the view whose key is this query's
        for row, query in enumerate(queries):
            columns, same = [], []
            if method.queue:
                stored = zip(method.queue.features, method.queue.indices, method.queue.labels, strict=True)
                for feature, index, label in stored:
                    if int(index) not in (-1, indices[row]):  # -1: never written
                        columns.append(feature)
                        same.append(int(label) == labels[row])
            for view in range(keys.shape[1]):
                for other in range(len(indices)):
                    if other != row or view == own_view:
                        columns.append(keys[other, view])
                        same.append(labels[other] == labels[row])
            scores = [query @ column / config.temperature for column in columns]
            everything = sum(math.e**score for score in scores)
            logs = [
                torch.log(math.e**score / everything) for score, positive in zip(scores, same, strict=True) if positive
            ]
            total = total - config.temperature / config.base_temperature * sum(logs) / len(logs) / len(queries)
    return total
