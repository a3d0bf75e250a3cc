"""SpCL (Ge et al. 2020): yxgeee/SpCL, spcl/models/resnet.py and dsbn.py."""

from selfsup.convert.layout import Layout, Preprocessing
from selfsup.convert.projections import NeckNames
from selfsup.convert.resnets import ResNetNames, sequential

_PARTS = sequential(0, 1, 4, 5, 6, 7)
REID = Preprocessing(size=(256, 128), fraction=1.0, interpolation="bicubic", fit="whole")

LAYOUT = Layout(
    name="spcl",
    title="SpCL, yxgeee/SpCL",
    encoders={"": ("state_dict::base.",)},
    networks=(
        # Its basic blocks would have their strides elsewhere.
        ResNetNames(parts=_PARTS, last_stride=1, depths=(50, 101, 152)),
        ResNetNames(parts=_PARTS, last_stride=1, depths=(50, 101, 152), norm="BN_T."),
    ),
    marks=(r"::(module\.)?feat_bn\.",),
    heads=(NeckNames(prefixes=("{holder}feat_bn.", "{holder}feat_bn.BN_T.")),),
    dropped={r".*\.BN_S\.": "batch norm of the source domain", r"classifier\.": "the classifier"},
    preprocessing=lambda config: REID,
    wrapped=True,
    said="of batch norm for two domains the target's is taken, as SpCL judges by",
)
