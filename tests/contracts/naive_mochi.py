"""MoCHi's loss, query by query and mixture by mixture."""

import math

import torch
from torch import Tensor

from selfsup.batch import Batch
from selfsup.randomness import Stream, uniform


def mochi_loss(method, embeddings: list[Tensor], batch: Batch, update: dict[str, Tensor]) -> Tensor:
    config = method.config
    keys = list(update["keys"].unbind(1))  # of view 2, or of views 1 and 2
    total = embeddings[0].new_zeros(())
    for number, (queries, own_keys) in enumerate(zip(embeddings, reversed(keys), strict=True)):
        losses = []
        for row, index in enumerate(batch.indices.tolist()):
            query = queries[row]
            memory = [
                (feature, int(whose))
                for feature, whose in zip(method.queue.features, method.queue.indices, strict=True)
                if int(whose) != index
            ]
            if config.batch_negatives:
                memory += [
                    (key[other], int(whose))
                    for key in keys
                    for other, whose in enumerate(batch.indices)
                    if int(whose) != index
                ]
            negatives = [feature for feature, _ in memory]
            scores = [query @ feature for feature in negatives]
            if int(method.steps) >= method.first_step:
                scores += mixtures(method, query, negatives, index, number)
            positive = math.e ** ((query @ own_keys[row]) / config.temperature)
            everything = positive + sum(math.e ** (score / config.temperature) for score in scores)
            losses.append(-torch.log(positive / everything))
        total = total + torch.stack(losses).mean()
    return total


def mixtures(method, query: Tensor, negatives: list[Tensor], index: int, number: int) -> list[Tensor]:
    config, constant = method.config, query.detach()
    numbers = uniform(
        method.seed,
        Stream.MIXING,
        torch.tensor([index]),
        3 * config.pairs + 2 * config.with_query,
        epoch=2 * int(method.steps) + number,
    )[0].tolist()
    hardest = sorted(negatives, key=lambda feature: -float(constant @ feature))[: config.hardest]
    scores = []
    for k in range(config.pairs):
        i = int(numbers[k] * config.hardest)
        j = (i + 1 + int(numbers[config.pairs + k] * (config.hardest - 1))) % config.hardest
        alpha = numbers[2 * config.pairs + k]
        mixed = alpha * hardest[i] + (1 - alpha) * hardest[j]
        scores.append(query @ (mixed / mixed.norm()))
    for k in range(config.with_query):
        j = int(numbers[3 * config.pairs + k] * config.hardest)
        beta = numbers[3 * config.pairs + config.with_query + k] / 2
        mixed = beta * constant + (1 - beta) * hardest[j]
        scores.append(query @ (mixed / mixed.norm()))
    return scores
