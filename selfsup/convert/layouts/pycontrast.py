"""PyContrast: HobbitLong/PyContrast, learning/contrast_trainer.py."""

from selfsup.convert.layout import Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import TORCHVISION

LAYOUT = Layout(
    name="pycontrast",
    title="PyContrast, HobbitLong/PyContrast (modal RGB)",
    encoders={"query": ("model::encoder.",), "key": ("model_ema::encoder.",)},
    networks=(TORCHVISION,),
    marks=(r"^model::(module\.)?head\.",),
    heads=(SequentialHead(prefix="{holder}head.", linear_alone=False),),
    dropped={r"head_jig\.": "the head for jigsaws"},
    outside={r"contrast::": "the memory", r"model(_ema)?::head\.": "the other network's head"},
    wrapped=True,
)
