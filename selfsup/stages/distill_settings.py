"""Settings of distillation, and those that were published."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from selfsup.config.checks import require
from selfsup.config.recipe_files import load_recipe
from selfsup.config.settings import execution
from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.evaluation.foreign import is_foreign
from selfsup.evaluation.newest import newest_encoder
from selfsup.models.encoder import Encoder
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import LARS
from selfsup.optim.schedules import Cosine
from selfsup.stages.supervised import Supervised

PROTOCOLS = ("self", "smaller", "features")
Protocol = Literal["self", "smaller", "features"]


@dataclass(frozen=True, kw_only=True)
class Distill(Supervised):
    """A student trained on all images of the training part; their labels are not looked at, unless alpha is below 1."""

    stored_as: ClassVar[str] = "distill"
    protocol: Protocol
    student: Encoder.Config = ResNet.Config()
    student_like: str = ""  # a recipe or a run whose encoder the student is built as; empty: as `student` says
    start: str = "random"  # or teacher, or a run folder or encoder.safetensors: whose weights it starts from
    temperature: float = 0.1  # of both softmaxes
    # Loss times temperature^2: not in the paper's formula, but in the demonstration published with it. Under LARS it
    # changes only what has no trust ratio: at temperature 0.1, gradients of batch norm and biases are a hundredfold
    # without it.
    tau_squared: bool = False
    alpha: float = 1.0  # (1 - alpha) cross-entropy of the labelled images + alpha distillation of all
    labelled: Labelled = Labelled()  # only where alpha < 1; none given: those that the teacher was fine-tuned on
    evaluate_every: int = execution(0)  # epochs between looks at the test images, which are not for choosing; 0: never

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.temperature > 0, f"temperature is {self.temperature}; give a number above 0, such as 0.1")
        require(0 <= self.alpha <= 1, f"alpha is {self.alpha}; give 0 (the labels alone) to 1 (the teacher alone)")
        require(
            self.protocol != "features" or self.alpha >= 1,
            f"alpha is {self.alpha}, but features have no classes for labels; give 1",
        )


def distill_settings(protocol: str, data: Data, teacher: Encoder.Config) -> Distill:
    """The published settings; any of them can be overridden.

    SimCLRv2 (Chen et al. 2020, "Big self-supervised models", section 2): trained as in its pretraining, LARS at
    0.1 sqrt(B), decay 1e-4, cosine, batch 4,096, for 400 epochs, with crops and flips alone, crops as TensorFlow draws
    them. Temperature 0.1 for a student like its teacher ("self"), 1 for another network ("smaller", here half as wide).
    These are the paper's settings; the published code of this part is a demonstration of ten steps
    (distillation_self_training.ipynb), with rate 2, temperature 1 and the loss times tau^2.
    "features", from a backbone without a classifier, is no published setting. Small data want small batches: for
    CIFAR-10 on a CPU, --batch-size 256 --epochs 20.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"there is no protocol {protocol!r}; choose one of {', '.join(PROTOCOLS)}")
    return Distill(
        protocol=cast(Protocol, protocol),
        data=data,
        student=teacher.smaller() if protocol == "smaller" else teacher,
        temperature=0.1 if protocol == "self" else 1.0,
        epochs=400,
        batch_size=4096,
        optimizer=LARS.Config(learning_rate=0.1, scaling="sqrt", weight_decay=1e-4),
        schedule=Cosine(),
        crop_sampler="torchvision" if protocol == "features" else "tensorflow",
    )


def with_student(settings: Distill) -> Distill:
    """The settings with the student that `student_like` names. Raises ValueError where it names none."""
    name = settings.student_like
    if not name:
        return settings
    student: Any
    foreign = not name.endswith(".py") and is_foreign(Path(name))
    if Path(name).is_dir() or name.endswith(".safetensors") or foreign:
        student = newest_encoder(Path(name), told=False).config
    else:
        student = getattr(load_recipe(name), "encoder", None)
    if not isinstance(student, Encoder.Config):
        raise ValueError(f"student_like is {name}, a recipe without an encoder; name one of pretraining, or a run")
    return replace(settings, student=student, student_like="")
