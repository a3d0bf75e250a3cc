"""InstDisc on ImageNet (Wu et al. 2018): zhirongw/lemniscate.pytorch, main.py."""

from selfsup.convert.layout import Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import TORCHVISION

# The memory is a pickled module: it is read as a dictionary, and its class is neither needed nor called.
BANK = (
    "lib.NCEAverage.NCEAverage",
    "lib.LinearAverage.LinearAverage",
    "lib.alias_multinomial.AliasMethod",
    "torch.nn.backends.thnn._get_thnn_function_backend",
)

LAYOUT = Layout(
    name="lemniscate",
    title="InstDisc on ImageNet, zhirongw/lemniscate.pytorch",
    encoders={"": ("state_dict::",)},
    networks=(TORCHVISION,),
    marks=(r"^lemniscate::",),
    heads=(SequentialHead(prefix="{encoder}fc."),),
    outside={r"lemniscate::": "the memory"},
    inert=BANK,
    wrapped=True,
)
