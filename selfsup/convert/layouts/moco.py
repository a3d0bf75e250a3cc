"""MoCo v1 and v2 (He et al. 2020; Chen et al. 2020): facebookresearch/moco, main_moco.py."""

from selfsup.convert.layout import Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import TORCHVISION

LAYOUT = Layout(
    name="moco",
    title="MoCo v1 and v2, facebookresearch/moco",
    encoders={"query": ("state_dict::encoder_q.", "encoder_q."), "key": ("state_dict::encoder_k.", "encoder_k.")},
    networks=(TORCHVISION,),
    heads=(SequentialHead(prefix="{encoder}fc."),),
    dropped={r"queue(_ptr)?$": "the queue"},
    wrapped=True,
)
