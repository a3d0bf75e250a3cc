"""Modules of lightly's examples: `self.backbone`, a `nn.Sequential` of a ResNet's children, and a projection head."""

from selfsup.convert.layout import Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import CHILDREN

LAYOUT = Layout(
    name="lightly",
    title="lightly (LightningModules of its examples, with torchvision's ResNets)",
    encoders={
        "online": ("state_dict::backbone.", "backbone."),
        "momentum": ("state_dict::backbone_momentum.", "backbone_momentum."),
    },
    networks=(CHILDREN,),
    heads=(SequentialHead(prefix="{holder}projection_head.layers."),),
    dropped={
        r"projection_head_momentum\.": "the momentum network's head",
        r"prediction_head\.": "the predictor",
        r"(criterion|memory_bank)\.": "the memory of the loss",
        r"(online_)?classifier\.": "the classifier",
        r"prototypes\.": "the prototypes",
    },
    said="networks of its ResNetGenerator are refused: in a Sequential of their children the ReLU after the first norm "
    "is missing, and ResNets here have it",
)
