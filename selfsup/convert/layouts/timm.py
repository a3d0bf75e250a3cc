"""Networks by timm's names: transformers, and any other whose name is given."""

from selfsup.convert.layout import Layout
from selfsup.convert.vits import TIMM, Named

LAYOUT = Layout(
    name="timm",
    title="vision transformers by timm's names, also DINO's as published; any network of timm with --architecture",
    encoders={"": ("", "state_dict::", "model::")},
    networks=(TIMM, Named()),
    dropped={r"(head|fc|classifier|head_dist|fc_norm)\.": "the classifier"},
    said="a config.json of timm's beside the file names the network and says how images are made ready",
)
