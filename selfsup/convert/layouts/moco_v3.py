"""MoCo v3 (Chen et al. 2021): facebookresearch/moco-v3, main_moco.py. Its transformers have 12 heads."""

from selfsup.convert.layout import Layout
from selfsup.convert.projections import SequentialHead
from selfsup.convert.resnets import TORCHVISION
from selfsup.convert.vits import TIMM
from selfsup.models.resnet import ResNet
from selfsup.models.timm import Timm

LAYOUT = Layout(
    name="moco_v3",
    title="MoCo v3, facebookresearch/moco-v3",
    encoders={
        "base": ("state_dict::base_encoder.", "base_encoder."),
        "momentum": ("state_dict::momentum_encoder.", "momentum_encoder."),
    },
    networks=(TORCHVISION, TIMM),
    heads=(
        SequentialHead(prefix="{encoder}fc.", behind=ResNet.Config, last_affine=False),
        SequentialHead(prefix="{encoder}head.", behind=Timm.Config, last_affine=False),
    ),
    dropped={r"predictor\.": "the predictor"},
    attention_heads={384: 12, 768: 12},
    wrapped=True,
)
