"""Settings of fine-tuning, and those that were published."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from selfsup.config.checks import require
from selfsup.config.settings import execution
from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.optim.optimizers import LARS, SGD
from selfsup.optim.schedules import Cosine
from selfsup.stages.supervised import Supervised

PROTOCOLS = ("simclr_v2", "simclr_v1", "sgd")


@dataclass(frozen=True, kw_only=True)
class Finetune(Supervised):
    """A classifier trained on labelled images together with the backbone."""

    stored_as: ClassVar[str] = "finetune"
    protocol: Literal["simclr_v2", "simclr_v1", "sgd"]
    labelled: Labelled = Labelled()
    start: Literal["pretrained", "random"] = "pretrained"  # random: the same network drawn anew, the baseline
    # The classifier stands on the features (0) or on the output of the head's hidden layer of this number.
    # None: on the first one where a head with hidden layers was exported, else on the features.
    layer: int | None = 0
    # Stages that are trained: -1 all and the stem, 0 all, j those after the j-th, their number only the classifier.
    train_after: int = -1
    # Rate of each stage over that of the one above it, the stem's below the first one's; the last has the full rate.
    # What has another rate than the full one keeps its norms and biases free of weight decay.
    layer_decay: float = 1.0
    classifier_rate: float = 1.0  # rate of the new linear layer over the full one
    initial_std: float = 0.0  # of the new linear layer's weights
    label_smoothing: float = 0.0
    evaluate_every: int = execution(0)  # epochs between looks at the test images, which are not for choosing; 0: never

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.layer is None or self.layer >= 0,
            f"layer is {self.layer}; give 0 for the features, or the number of a hidden layer",
        )
        require(
            self.train_after >= -1,
            f"train_after is {self.train_after}; give -1 to train everything, or the number of a stage",
        )
        for name in ("layer_decay", "classifier_rate"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; it must be above 0, and 1 for one rate")
        require(
            not isinstance(self.optimizer, LARS.Config) or self.layer_decay == 1,
            f"layer_decay is {self.layer_decay}, and LARS sets the rate of every layer by its norms; "
            "take one of the two, such as --protocol sgd",
        )
        require(self.initial_std >= 0, f"initial_std is {self.initial_std}; it must not be negative")
        require(0 <= self.label_smoothing < 1, f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1)")


def finetune_settings(protocol: str, data: Data) -> Finetune:
    """The published settings of a protocol for 1 % of the labels (see docs/protocols.md); any can be overridden.

    simclr_v2: Chen et al. 2020, "Big self-supervised models", published code: LARS, rate 0.005 sqrt(B), cosine, from
    the head's first hidden layer; 30 epochs for 10 % and 100 %, and layer 0 for 100 %. The kept layer of the head is
    trained, as in the code for TensorFlow 2 and by the author's word; the code for TensorFlow 1 leaves it as it is.
    simclr_v1: Chen et al. 2020, appendix B.5: Nesterov SGD, rate 0.05 B / 256, no decay; 30 epochs for 10 %. The
    schedule, which the paper leaves open, and the zero start are those of the published code.
    Both crop as TensorFlow draws boxes.
    sgd: Zbontar et al. 2021, published code (evaluate.py): SGD, rates 0.005 of the backbone and 0.5 of the classifier
    whatever the batch, cosine from epoch to epoch. Departures: batch norm is over all processes, there over each GPU's
    part; the last, smaller batch of an epoch is dropped, there it is kept; judged is the last epoch, there the best.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    if protocol == "simclr_v2":
        return Finetune(
            protocol="simclr_v2",
            data=data,
            epochs=60,
            batch_size=1024,
            optimizer=LARS.Config(
                learning_rate=0.005, scaling="sqrt", weight_decay=0.0, exclude=("bias", r"head\.linear")
            ),
            schedule=Cosine(),
            layer=None,
            crop_sampler="tensorflow",
        )
    if protocol == "simclr_v1":
        return Finetune(
            protocol="simclr_v1",
            data=data,
            epochs=60,
            batch_size=4096,
            optimizer=SGD.Config(learning_rate=0.05, nesterov=True, weight_decay=0.0),
            schedule=Cosine(),
            crop_sampler="tensorflow",
        )
    return Finetune(
        protocol="sgd",
        data=data,
        epochs=20,
        batch_size=256,
        optimizer=SGD.Config(learning_rate=0.005, scaling="none", weight_decay=0.0),
        schedule=Cosine(per="epoch"),
        classifier_rate=100.0,
        initial_std=0.01,
    )
