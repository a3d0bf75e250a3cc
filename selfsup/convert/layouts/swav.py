"""SwAV (Caron et al. 2020): facebookresearch/swav, src/resnet50.py."""

from selfsup.convert.layout import Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import TORCHVISION

LAYOUT = Layout(
    name="swav",
    title="SwAV and DeepCluster-v2, facebookresearch/swav",
    encoders={"": ("state_dict::", "")},
    networks=(TORCHVISION,),
    marks=(r"(^|::)prototypes",),
    heads=(SequentialHead(prefix="{encoder}projection_head."),),
    dropped={r"prototypes": "the prototypes"},
    wrapped=True,
)
