"""solo-learn: vturrisi/solo-learn, solo/methods/base.py. Its stem for CIFAR is padded by two pixels."""

from selfsup.convert.layout import Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import ResNetNames
from selfsup.convert.vits import TIMM

LAYOUT = Layout(
    name="solo_learn",
    title="solo-learn (Lightning checkpoints)",
    encoders={
        "online": ("state_dict::backbone.", "state_dict::encoder."),
        "momentum": ("state_dict::momentum_backbone.", "state_dict::momentum_encoder."),
    },
    networks=(ResNetNames(small_stem="cifar_padded"), TIMM),
    marks=(r"^state_dict::classifier\.weight$",),
    heads=(SequentialHead(prefix="{holder}projector."),),
    dropped={
        r"(backbone|encoder)\.(fc|head)\.": "the classifier",
        r"(momentum_)?classifier\.": "the online classifier",
        r"momentum_projector\.": "the momentum network's head",
        r"(momentum_)?predictor\.": "the predictor",
        r"queue": "the queue",
        r"prototypes": "the prototypes",
    },
)
