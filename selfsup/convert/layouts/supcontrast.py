"""SupCon and SimCLR on CIFAR: HobbitLong/SupContrast, networks/resnet_big.py."""

from selfsup.convert.layout import CIFAR10, Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import SHORTCUT

LAYOUT = Layout(
    name="supcontrast",
    title="SupCon and SimCLR of HobbitLong/SupContrast",
    encoders={"": ("model::encoder.", "model::encoder.module.")},
    networks=(SHORTCUT,),
    heads=(SequentialHead(prefix="{holder}head."),),
    dropped={r"fc\.": "the classifier"},
    preprocessing=lambda config: CIFAR10,
    inert=("argparse.Namespace",),
    said="of a network for CIFAR-100 say its mean and std",
)
