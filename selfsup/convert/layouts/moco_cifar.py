"""The CIFAR-10 demonstration of MoCo: facebookresearch/moco, branch colab-notebook."""

from selfsup.convert.layout import CIFAR10, Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import ResNetNames, sequential

LAYOUT = Layout(
    name="moco_cifar",
    title="MoCo's demonstration on CIFAR-10, facebookresearch/moco",
    encoders={
        "query": ("state_dict::encoder_q.net.", "encoder_q.net."),
        "key": ("state_dict::encoder_k.net.", "encoder_k.net."),
    },
    networks=(ResNetNames(parts=sequential(0, 1, 3, 4, 5, 6)),),  # 2 is a ReLU, there is no max-pool
    heads=(SequentialHead(prefix="{encoder}9."),),
    dropped={r"queue(_ptr)?$": "the queue"},
    preprocessing=lambda config: CIFAR10,
)
