"""ResNets of torchvision, and of all who use its names: timm, Barlow Twins, VICReg, lightly-train, linear probes."""

from selfsup.convert.layout import Layout
from selfsup.convert.resnets import TORCHVISION

LAYOUT = Layout(
    name="torchvision",
    title="ResNets by torchvision's names; also timm's, and the backbones that Barlow Twins and VICReg publish",
    encoders={"": ("", "state_dict::", "model::", "model_state_dict::")},
    networks=(TORCHVISION,),
    dropped={r"fc\.": "the classifier"},
)
