"""Instance discrimination, also called NPID (Wu et al. 2018)."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, cast

import torch
from torch import Tensor

from selfsup.batch import Batch
from selfsup.config.checks import require
from selfsup.config.settings import changed_default, execution
from selfsup.devices.double import double_device
from selfsup.devices.moving import to_device
from selfsup.distributed import gather
from selfsup.losses.contrastive import first_is_positive, l2_normalize
from selfsup.losses.diagnostics import feature_health
from selfsup.losses.nce import batch_log_normaliser, nce
from selfsup.memory.bank import FeatureBank, ShardedBank, most_repeated
from selfsup.memory.saved import Saved
from selfsup.memory.sharded import keep_apart
from selfsup.methods.base import About, Method, RunContext, Step, check_steps, detached
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Head
from selfsup.models.norm import convert
from selfsup.randomness import Stream, random_bits

_MOST_NEGATIVES = 2**18  # counters of the generator for one image and step


class InstDisc(Method):
    """Each image is a class of its own: one view against a bank with a feature of every image.

    The negatives are drawn uniformly from the other images' rows, new for each image and step, with repeats. The
    published code draws from all rows, so that an image may be its own negative; the formulas are otherwise its own.
    """

    about = About("InstDisc", "bank of every image's feature", "NCE or softmax", ("Wu 2018",))

    @dataclass(frozen=True, kw_only=True)
    class Config(Method.Config):
        stored_as: ClassVar[str] = "instdisc"
        num_negatives: int = 4096  # K; 0: all other images, with loss="softmax"
        temperature: float = 0.07  # 0.1 for CIFAR-10
        momentum: float = 0.5  # of a bank row, when its image comes again
        output_dim: int = 128
        # nce: noise-contrastive estimation, as published. softmax: cross-entropy over the image and its negatives.
        loss: Literal["nce", "softmax"] = "nce"
        # Z of nce; softmax has none, and these three do nothing there. first_batch: estimated from the first
        # batch and kept, as published. ema: a moving average of the batches' estimates (K. He, in the discussions of
        # CMC). fixed: `normaliser_value`.
        normaliser: Literal["first_batch", "ema", "fixed"] = "first_batch"
        normaliser_momentum: float = 0.99  # only for ema
        normaliser_value: float | None = None  # only for fixed
        proximal_weight: float = 0.0  # lambda: times the squared distance to the image's bank row (equation 9)
        bank_dtype: Literal["float32", "float16", "bfloat16"] = "float32"  # how the bank is stored
        batch_norm: Literal["sync", "plain"] = changed_default("sync", before="plain", in_number=1)
        shard_bank: bool = execution(False)  # each process holds a part of the bank: for one too large for a device

        def __post_init__(self) -> None:
            require(
                0 <= self.num_negatives <= _MOST_NEGATIVES,
                f"num_negatives is {self.num_negatives}; it must lie in [0, {_MOST_NEGATIVES}]",
            )
            require(
                self.num_negatives != 0 or self.loss != "nce",
                'num_negatives 0 means all images, and loss "nce" needs a sample; give 1 or more, such as 4096, or '
                'take loss "softmax"',
            )
            require(self.temperature > 0, f"temperature is {self.temperature}; give a number above 0, such as 0.07")
            require(
                0 <= self.momentum < 1, f"momentum is {self.momentum}; it must be at least 0 and below 1, such as 0.5"
            )
            require(
                0 < self.normaliser_momentum < 1,
                f"normaliser_momentum is {self.normaliser_momentum}; it must lie in (0, 1)",
            )
            given = self.normaliser_value is not None
            require(
                given == (self.normaliser == "fixed") and (not given or cast(float, self.normaliser_value) > 0),
                f'normaliser is "{self.normaliser}" and normaliser_value {self.normaliser_value}; give a value '
                'above 0 with "fixed", and none without',
            )
            require(self.proximal_weight >= 0, f"proximal_weight is {self.proximal_weight}; give 0 or more")

        def build(self, encoder: Encoder, context: RunContext) -> "InstDisc":
            return InstDisc(self, encoder, context)

    log_normaliser: Tensor
    steps: Tensor

    def __init__(self, config: Config, encoder: Encoder, context: RunContext) -> None:
        super().__init__()
        _check(config, context)
        self.config = config
        self.seed = context.seed
        self._repeats: int | None = None  # how often an image comes in the batch at most
        self.encoder = convert(encoder, config.batch_norm)
        head = Head.Config(hidden_layers=0, output_dim=config.output_dim)
        self.head = head.build(encoder.feature_dim)
        dtype = getattr(torch, config.bank_dtype)
        self.num_images = context.num_images
        kind = ShardedBank if config.shard_bank else FeatureBank
        self.bank = kind(context.num_images, config.output_dim, context.seed, dtype)
        keep_apart(self)
        self.register_buffer("log_normaliser", torch.tensor(0.0))  # log Z of the last step, where a loss has one
        self.register_buffer("steps", torch.tensor(0))  # applied so far; numbers the draws of negatives

    def embed(self, view: Tensor) -> Tensor:  # (B, C, S, S) -> (B, D), unit rows
        return l2_normalize(self.head(self.encoder(view)))

    def objective(self, embeddings: list[Tensor], views: list[Tensor], batch: Batch) -> Step:
        features = embeddings[0]  # (B, D)
        indices = to_device(batch.indices, features.device)
        before = self.bank.rows(indices)  # (B, D)
        update = {"features": features.detach(), "indices": indices}
        if self.config.num_negatives == 0:
            loss, accuracy = self.bank.softmax(features / self.config.temperature, indices)
        else:
            rows = torch.cat([indices[:, None], self.noise(indices)], dim=1)  # (B, 1 + K)
            loss, accuracy, log_normaliser = self.contrast(features, rows)
            update["log_normaliser"] = log_normaliser.expand(len(features))
        if self.config.proximal_weight:
            loss = loss + self.config.proximal_weight * (features - before).square().sum(dim=1).mean()
        # "alignment" is the distance to the image's bank row, of earlier epochs.
        shown = features.detach(), before
        return Step(loss, detached({"accuracy": accuracy, **feature_health(*shown)}), update, shown)

    def noise(self, indices: Tensor) -> Tensor:
        """(B,) images -> (B, K) others, drawn uniformly: a pure function of seed, step and image."""
        place = double_device(indices.device)  # where products of 64 bits are exact
        bits = random_bits(self.seed, Stream.NOISE, indices.to(place), self.config.num_negatives, epoch=self.steps)
        drawn = (bits * (self.num_images - 1)) >> 32  # one of n - 1 numbers, that leave out the image's own
        drawn = drawn.to(indices.device)
        return drawn + (drawn >= indices[:, None])

    def contrast(self, features: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, D) features against (B, 1 + K) bank rows, the own one first: loss, accuracy and the log Z in use."""
        scores = self.bank.scores(features / self.config.temperature, rows)
        if self.config.loss == "softmax":
            return *first_is_positive(scores), self.log_normaliser
        log_normaliser = self.normalise(scores.detach())
        return *nce(scores, log_normaliser, self.num_images), log_normaliser

    def normalise(self, scores: Tensor) -> Tensor:
        """log Z for this step, the same in every process; from (B, 1 + K) scores of each."""
        if self.config.normaliser_value is not None:
            return scores.new_full((), math.log(self.config.normaliser_value))
        log_sums = gather(scores.logsumexp(dim=1))  # (N,)
        now = batch_log_normaliser(log_sums, scores.shape[1], self.num_images)
        later = self.log_normaliser
        if self.config.normaliser == "ema":
            share = self.config.normaliser_momentum
            later = torch.logaddexp(later + math.log(share), now + math.log(1 - share))
        return torch.where(self.steps == 0, now, later)

    def foresee(self, indices: Tensor) -> None:
        self._repeats = most_repeated(indices)

    def after_step(self, update: dict[str, Tensor], progress: float) -> None:
        if "log_normaliser" in update:
            self.log_normaliser.copy_(update["log_normaliser"][0])
        features, indices = gather(update["features"]), gather(update["indices"])  # (N, D), (N,)
        # By class, small classes give their images again and again; and one may stand in for another, unreadable one.
        repeats = most_repeated(indices) if self._repeats is None else self._repeats
        self._repeats = None
        self.bank.update(indices, features, self.config.momentum, repeats)
        self.steps += 1

    def check_saved(self, saved: Saved) -> None:
        """See `selfsup.memory.saved.Checked`."""
        check_steps(saved)


def _check(config: InstDisc.Config, context: RunContext) -> None:
    """A ValueError for what cannot work."""
    if context.num_views != 1:
        raise ValueError(
            f"InstDisc compares one view of an image with the bank and the augmentation makes {context.num_views}; "
            "use one view, such as presets.instdisc()"
        )
    if config.num_negatives > context.num_images - 1:
        raise ValueError(
            f"num_negatives is {config.num_negatives}, and beside each image there are {context.num_images - 1} "
            'others; give that or less, or 0 with loss "softmax" for all of them'
        )
