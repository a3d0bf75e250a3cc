"""InstDisc on CIFAR-10 (Wu et al. 2018): zhirongw/lemniscate.pytorch, cifar.py."""

from selfsup.convert.layout import CIFAR10, Layout
from selfsup.convert.layouts.lemniscate import BANK
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import SHORTCUT

LAYOUT = Layout(
    name="lemniscate_cifar",
    title="InstDisc on CIFAR-10, zhirongw/lemniscate.pytorch",
    encoders={"": ("net::",)},
    networks=(SHORTCUT,),
    heads=(SequentialHead(prefix="{encoder}linear."),),
    outside={r"lemniscate::": "the memory"},
    preprocessing=lambda config: CIFAR10,
    inert=BANK,
    wrapped=True,
)
