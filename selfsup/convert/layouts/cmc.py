"""InsDis and MoCo as CMC trains them (Tian et al. 2020): HobbitLong/CMC, train_moco_ins.py."""

from selfsup.convert.layout import Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import TORCHVISION

LAYOUT = Layout(
    name="cmc",
    title="InsDis and MoCo of HobbitLong/CMC (one network; not the two of CMC itself)",
    encoders={"query": ("model::encoder.module.",), "key": ("model_ema::encoder.module.",)},
    networks=(TORCHVISION,),
    marks=(r"^model::encoder\.module\.fc\.",),
    heads=(SequentialHead(prefix="{encoder}fc."),),
    outside={r"contrast::": "the memory"},
    inert=("argparse.Namespace",),
)
