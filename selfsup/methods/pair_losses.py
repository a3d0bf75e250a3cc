"""The losses that `Metric` and `XBM` may take: their settings, and what of them is learnt.

One file, because they are read side by side: nine losses, each a screen of settings and one line that computes it.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from selfsup.config.checks import require
from selfsup.losses import pairs as hinges
from selfsup.losses import proxy, soft_pairs
from selfsup.losses.contrastive import l2_normalize, similarity
from selfsup.losses.mining import FARTHEST, distance_weights, draw, one_pair_per_class
from selfsup.methods.base import RunContext
from selfsup.methods.pair_loss import AnchorLoss, PairLoss, Pairs
from selfsup.randomness import Stream, uniform


class Contrastive(AnchorLoss):
    """Squared distances of positive pairs, and of negative pairs up to a margin (Hadsell et al. 2006)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(PairLoss.Config):
        stored_as: ClassVar[str] = "contrastive"
        margin: float = 1.0  # a distance; unit embeddings are at most 2 apart

        def __post_init__(self) -> None:
            require(self.margin > 0, f"margin is {self.margin}; give a number above 0, such as 1")

        def build(self, context: RunContext, dim: int) -> "Contrastive":
            return Contrastive(self, context, dim)

    config: Config

    def forward(self, pairs: Pairs) -> Tensor:
        return hinges.contrastive(*pairs.scored, self.config.margin, gather=pairs.gather)


class SimilarityContrastive(AnchorLoss):
    """1 - s of positive pairs and s of negative pairs above a margin (Wang et al. 2020, the published code of XBM)."""

    by_distance = False
    norm = "unit"

    @dataclass(frozen=True, kw_only=True)
    class Config(PairLoss.Config):
        stored_as: ClassVar[str] = "similarity_contrastive"
        margin: float = 0.5  # a similarity

        def __post_init__(self) -> None:
            require(-1 <= self.margin < 1, f"margin is {self.margin}, a cosine; it must lie in [-1, 1), such as 0.5")

        def build(self, context: RunContext, dim: int) -> "SimilarityContrastive":
            return SimilarityContrastive(self, context, dim)

    config: Config

    def forward(self, pairs: Pairs) -> Tensor:
        return hinges.similarity_contrastive(*pairs.scored, self.config.margin, gather=pairs.gather)


class Triplet(AnchorLoss):
    """A positive is to be nearer than a negative by a margin (Schroff et al. 2015; Hermans et al. 2017)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(PairLoss.Config):
        stored_as: ClassVar[str] = "triplet"
        margin: float = 0.2
        mining: hinges.Mining = "semihard"
        squared: bool = False  # True: squared distances, as Schroff et al.
        soft_margin: bool = False  # softplus in place of the hinge, for mining "hard"

        def __post_init__(self) -> None:
            require(
                not self.soft_margin or self.mining == "hard",
                f'soft_margin goes with mining="hard" alone, and mining is "{self.mining}": '
                "without a hinge every triplet counts, and they are too many to be formed",
            )
            if not self.soft_margin:  # which has no margin; and without one, all embeddings in one place cost nothing
                require(self.margin > 0, f"margin is {self.margin}; give a number above 0, such as 0.2")

        def build(self, context: RunContext, dim: int) -> "Triplet":
            return Triplet(self, context, dim)

    config: Config

    def forward(self, pairs: Pairs) -> Tensor:
        c = self.config
        return hinges.triplet(*pairs.scored, c.margin, c.mining, c.squared, c.soft_margin, gather=pairs.gather)


class NPair(AnchorLoss):
    """One positive against all negatives, by inner products of embeddings that are not normalised (Sohn 2016)."""

    by_distance = False
    norm = "free"

    @dataclass(frozen=True, kw_only=True)
    class Config(PairLoss.Config):
        stored_as: ClassVar[str] = "n_pair"
        # one: the N-pair loss, in which each class of the batch gives one anchor and one positive, and the negatives
        # are the other classes' positives. all: the (N+1)-tuplet loss of every positive pair, with every negative.
        # Against a memory it is always the second.
        tuples: Literal["one", "all"] = "one"
        norm_weight: float = 0.0  # of the embeddings' mean squared norm

        def __post_init__(self) -> None:
            require(self.norm_weight >= 0, f"norm_weight is {self.norm_weight}; give 0 or more, such as 0.002")

        def build(self, context: RunContext, dim: int) -> "NPair":
            return NPair(self, context, dim)

    config: Config

    def forward(self, pairs: Pairs) -> Tensor:
        positive, negative = pairs.positive, pairs.negative
        if pairs.mutual and self.config.tuples == "one":
            anchors, partners = one_pair_per_class(pairs.reference_labels, pairs.rows)
            chosen = anchors[:, None] & partners  # (B, M)
            positive, negative = positive & chosen, negative & chosen
        loss = soft_pairs.n_pair(pairs.similarity, positive, negative, gather=pairs.gather)
        if not pairs.mutual or self.config.norm_weight == 0:
            return loss
        squared = pairs.anchors.square().sum(dim=1)
        return loss + self.config.norm_weight * hinges.weighted_mean(squared, torch.ones_like(squared), pairs.gather)


class Lifted(AnchorLoss):
    """Lifted structure: every positive pair against all negatives of both (Song et al. 2016; Hermans et al. 2017)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(PairLoss.Config):
        stored_as: ClassVar[str] = "lifted"
        margin: float = 1.0
        generalized: bool = False  # Hermans et al. 2017, equation 8: all positives of an anchor at once

        def __post_init__(self) -> None:
            require(self.margin >= 0, f"margin is {self.margin}; give 0 or more, such as 1")

        def build(self, context: RunContext, dim: int) -> "Lifted":
            return Lifted(self, context, dim)

    config: Config

    def forward(self, pairs: Pairs) -> Tensor:
        if self.config.generalized:
            return soft_pairs.generalized_lifted(*pairs.scored, self.config.margin, gather=pairs.gather)
        return soft_pairs.lifted(*pairs.scored, self.config.margin, pairs.mutual, gather=pairs.gather)


class Circle(AnchorLoss):
    """Circle loss: pairs weighed by how far they are from where they should be (Sun et al. 2020)."""

    by_distance = False
    norm = "unit"

    @dataclass(frozen=True, kw_only=True)
    class Config(PairLoss.Config):
        stored_as: ClassVar[str] = "circle"
        margin: float = 0.4  # m; 0.25 for faces and persons
        scale: float = 80.0  # gamma; 256 for faces, 128 for persons
        over: Literal["anchor", "batch"] = "anchor"  # a loss for each anchor, or one of all pairs together

        def __post_init__(self) -> None:
            require(self.scale > 0, f"scale is {self.scale}; give a number above 0, such as 80")
            require(0 < self.margin < 1, f"margin is {self.margin}; it must lie in (0, 1), such as 0.4")

        def build(self, context: RunContext, dim: int) -> "Circle":
            return Circle(self, context, dim)

    config: Config

    def forward(self, pairs: Pairs) -> Tensor:
        c = self.config
        if c.over == "anchor":
            return soft_pairs.circle(*pairs.scored, c.margin, c.scale, gather=pairs.gather)
        return soft_pairs.circle_of_batch(*pairs.scored, c.margin, c.scale, pairs.mutual, gather=pairs.gather)

    def of_anchors(self, contributed: Tensor, gather: hinges.Gather) -> Tensor:
        if self.config.over == "anchor":
            return super().of_anchors(contributed, gather)
        return soft_pairs.circle_of_anchors(contributed, False, gather)


class MultiSimilarity(AnchorLoss):
    """Multi-similarity: hard positives and negatives of each anchor, softly weighed (Wang et al. 2019)."""

    by_distance = False
    norm = "unit"

    @dataclass(frozen=True, kw_only=True)
    class Config(PairLoss.Config):
        stored_as: ClassVar[str] = "multi_similarity"
        alpha: float = 2.0  # sharpness of the positives
        beta: float = 50.0  # sharpness of the negatives, the paper's; 40 in the published code, and in XBM's
        threshold: float = 0.5  # lambda; 1 in the paper, 0.5 in the published code
        epsilon: float = 0.1  # of the mining

        def __post_init__(self) -> None:
            require(self.alpha > 0, f"alpha is {self.alpha}; give a number above 0, such as 2")
            require(self.beta > 0, f"beta is {self.beta}; give a number above 0, such as 50")
            require(self.epsilon >= 0, f"epsilon is {self.epsilon}; give 0 or more, such as 0.1")

        def build(self, context: RunContext, dim: int) -> "MultiSimilarity":
            return MultiSimilarity(self, context, dim)

    config: Config

    def forward(self, pairs: Pairs) -> Tensor:
        c = self.config
        return soft_pairs.multi_similarity(*pairs.scored, c.alpha, c.beta, c.threshold, c.epsilon, gather=pairs.gather)


class Margin(AnchorLoss):
    """A learnt boundary between positive and negative distances, negatives drawn by distance (Wu et al. 2017).

    Every positive pair counts once, and each anchor's drawn negatives together as much as its positives: one negative
    to each positive pair, as published, where all classes of the batch have the same number of images.
    """

    norm = "unit"  # the density of distances is that of the sphere

    @dataclass(frozen=True, kw_only=True)
    class Config(PairLoss.Config):
        stored_as: ClassVar[str] = "margin"
        margin: float = 0.2  # alpha
        beta: float = 1.2  # the boundary, at the start
        boundary: Literal["fixed", "one", "class"] = "class"  # whether beta is learnt, and one or for each class
        nu: float = 0.0  # price of a large beta
        cutoff: float = 0.5  # nearer negatives are not drawn more often than those at this distance
        negatives: int | None = None  # drawn for each anchor; None: as many as positives in a batch of equal classes
        rate: float = 3.0  # of the net's rate, for a learnt beta; the authors' code gives it 0.1, above the net's

        def __post_init__(self) -> None:
            require(self.margin >= 0, f"margin is {self.margin}; give 0 or more, such as 0.2")
            require(self.beta >= 0, f"beta is {self.beta}; give 0 or more, such as 1.2")
            require(self.nu >= 0, f"nu is {self.nu}; give 0 or more, such as 0.01")
            require(self.rate > 0, f"rate is {self.rate}; give a number above 0, such as 3")
            require(0 < self.cutoff < FARTHEST, f"cutoff is {self.cutoff}; it must lie in (0, {FARTHEST}), such as 0.5")
            require(
                self.negatives is None or self.negatives >= 1, f"negatives is {self.negatives}; give 1 or more, or None"
            )

        def build(self, context: RunContext, dim: int) -> "Margin":
            return Margin(self, context, dim)

    config: Config

    def __init__(self, config: Config, context: RunContext, dim: int) -> None:
        super().__init__(config, context, dim)
        self.seed, self.dim = context.seed, dim
        drawable = context.batch_size * context.num_views
        if config.negatives is not None and config.negatives > drawable:
            raise ValueError(f"negatives is {config.negatives}, of a batch of {drawable} images; give fewer, or None")
        expected = (context.per_class or context.batch_size // context.num_classes) * context.num_views - 1
        self.negatives = config.negatives or max(1, expected)
        shape = (context.num_classes,) if config.boundary == "class" else ()
        self.beta = nn.Parameter(torch.full(shape, float(config.beta)), requires_grad=config.boundary != "fixed")

    def rates(self) -> dict[str, float]:
        return {"beta": self.config.rate}

    def forward(self, pairs: Pairs) -> Tensor:
        c = self.config
        # The second draw of a step is that from a memory.
        uniforms = uniform(
            self.seed, Stream.MINING, pairs.rows, self.negatives, epoch=pairs.step, view=0 if pairs.mutual else 1
        )
        drawn = draw(distance_weights(pairs.similarity.detach(), pairs.negative, self.dim, c.cutoff), uniforms)
        negative = drawn * pairs.positive.sum(dim=1, keepdim=True) / self.negatives  # (B, M)
        beta = self.beta.to(pairs.labels.device)
        beta = beta[pairs.labels] if c.boundary == "class" else beta
        return hinges.margin_loss(pairs.similarity, pairs.positive, negative, beta, c.margin, c.nu, gather=pairs.gather)


class Proxy(PairLoss):
    """Images against one learnt proxy per class (Movshovitz-Attias et al. 2017; Kim et al. 2020)."""

    by_distance = False
    norm = "unit"
    needs_pairs = False

    @dataclass(frozen=True, kw_only=True)
    class Config(PairLoss.Config):
        stored_as: ClassVar[str] = "proxy"
        kind: Literal["anchor", "nca"] = "anchor"  # Proxy-Anchor (Kim) or Proxy-NCA (Movshovitz-Attias)
        alpha: float = 32.0  # sharpness, of Proxy-Anchor
        margin: float = 0.1  # of Proxy-Anchor
        rate: float = 100.0  # of the net's rate, for the proxies, as in Kim et al.'s code

        def __post_init__(self) -> None:
            require(self.margin >= 0, f"margin is {self.margin}; give 0 or more, such as 0.1")
            require(self.rate > 0, f"rate is {self.rate}; give a number above 0, such as 100")
            require(self.alpha > 0, f"alpha is {self.alpha}; give a number above 0, such as 32")

        def build(self, context: RunContext, dim: int) -> "Proxy":
            return Proxy(self, context, dim)

    config: Config

    def __init__(self, config: Config, context: RunContext, dim: int) -> None:
        super().__init__(config, context, dim)
        self.proxies = nn.Parameter(torch.randn(context.num_classes, dim) * dim**-0.5)  # of norm about 1

    def rates(self) -> dict[str, float]:
        return {"proxies": self.config.rate}

    def forward(self, pairs: Pairs) -> Tensor:
        closeness = similarity(pairs.anchors, l2_normalize(self.proxies))  # (B, C)
        assert pairs.gather is not None  # what needs no pairs is no `AnchorLoss`
        if self.config.kind == "nca":
            return proxy.proxy_nca(closeness, pairs.labels, gather=pairs.gather)
        return proxy.proxy_anchor(closeness, pairs.labels, self.config.alpha, self.config.margin, gather=pairs.gather)
