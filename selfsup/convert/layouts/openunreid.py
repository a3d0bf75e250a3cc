"""OpenUnReID: open-mmlab/OpenUnReID, openunreid/models/builder.py."""

from selfsup.convert.layout import Layout
from selfsup.convert.layouts.spcl import REID
from selfsup.convert.projections import NeckNames
from selfsup.convert.resnets import ResNetNames

LAYOUT = Layout(
    name="openunreid",
    title="OpenUnReID, open-mmlab/OpenUnReID (ResNets with average pooling)",
    encoders={"": ("state_dict::backbone.", "state_dict::mean_net.backbone.")},
    networks=(
        ResNetNames(last_stride=1, depths=(50, 101, 152)),
        ResNetNames(last_stride=1, depths=(50, 101, 152), norm="dsbn.1."),
    ),
    marks=(r"head\.feat_bn\..*weight$", r"head\.feat_bn\..*running_mean$"),
    heads=(
        NeckNames(
            prefixes=tuple(
                "{holder}" + f"{network}head.feat_bn.{domain}"
                for network in ("", "mean_net.")
                for domain in ("", "dsbn.1.")
            )
        ),
    ),
    dropped={
        r"(.*\.)?dsbn\.0\.": "batch norm of the first domain",
        r"((mean_)?net\.)?classifier\.": "the classifier",
        r"net\.": "the student network",
    },
    preprocessing=lambda config: REID,
    wrapped=True,
    said="of batch norm for two domains the second's is taken; of teacher and student the teacher",
)
