"""Barlow Twins (Zbontar et al. 2021) and VICReg (Bardes et al. 2022): checkpoints of their training."""

from selfsup.convert.layout import Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import TORCHVISION

LAYOUT = Layout(
    name="barlow_twins",
    title="Barlow Twins and VICReg, checkpoints of training; their published backbones have torchvision's names",
    encoders={"": ("model::backbone.",)},
    networks=(TORCHVISION,),
    marks=(r"^model::projector\.",),
    heads=(SequentialHead(prefix="{holder}projector."),),
    dropped={r"bn\.": "the norm of the loss"},
    wrapped=True,
)
