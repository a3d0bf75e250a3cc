"""Modules of lightly's examples: `self.backbone`, a `nn.Sequential` of a ResNet's children, and a projection head."""

from selfsup.convert.layout import Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import CHILDREN, ResNetNames, sequential

LAYOUT = Layout(
    name="lightly",
    title="lightly (LightningModules of its examples, and its ResNetGenerator)",
    encoders={
        "online": ("state_dict::backbone.", "backbone."),
        "momentum": ("state_dict::backbone_momentum.", "backbone_momentum."),
    },
    # torchvision's children, or those of lightly's own ResNet for small images.
    networks=(CHILDREN, ResNetNames(parts=sequential(0, 1, 2, 3, 4, 5), shortcut="shortcut")),
    heads=(SequentialHead(prefix="{holder}projection_head.layers."),),
    dropped={
        r"projection_head_momentum\.": "the momentum network's head",
        r"prediction_head\.": "the predictor",
        r"(criterion|memory_bank)\.": "the memory of the loss",
        r"(online_)?classifier\.": "the classifier",
        r"prototypes\.": "the prototypes",
    },
    said="batch norm over splits (num_splits) has other shapes and is refused",
)
