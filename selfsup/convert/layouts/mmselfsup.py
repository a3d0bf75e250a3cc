"""MMSelfSup and OpenSelfSup: open-mmlab/mmselfsup, models/algorithms and models/necks."""

from selfsup.convert.layout import Layout
from selfsup.convert.projections import NumberedHead, SequentialHead
from selfsup.convert.resnets import TORCHVISION
from selfsup.convert.vits import ViTNames

_VIT = ViTNames(
    top={"patch_embed.proj": "patch_embed.projection", "norm": "ln1"},
    block="layers.{}",
    inside={"norm1": "ln1", "norm2": "ln2", "mlp.fc1": "ffn.layers.0.0", "mlp.fc2": "ffn.layers.1"},
)

LAYOUT = Layout(
    name="mmselfsup",
    title="MMSelfSup and OpenSelfSup, open-mmlab/mmselfsup (ResNets of style pytorch, and transformers)",
    encoders={
        "online": ("state_dict::backbone.", "state_dict::encoder_q.0.", "state_dict::online_net.0."),
        "momentum": ("state_dict::encoder_k.module.0.", "state_dict::encoder_k.0.", "state_dict::target_net.module.0."),
    },
    networks=(TORCHVISION, _VIT),
    marks=(r"::(module\.)?(neck|encoder_q\.1|online_net\.1)\.",),
    heads=(
        NumberedHead(prefix="{holder}neck."),
        SequentialHead(prefix="{holder}neck.mlp."),
        SequentialHead(prefix="{holder}neck.fc."),
        SequentialHead(prefix="{holder}encoder_q.1.mlp."),
    ),
    dropped={
        r"encoder_[qk]\.|(online|target)_net\.|momentum_encoder\.": "the momentum network, and its head",
        r"queue(_ptr)?$": "the queue",
        r"head\.": "the head of the loss",
        r"data_preprocessor\.": "mean and std",
        r"neck\.": "the neck",
    },
    attention_heads={384: 12},
    said="backbones that tools/model_converters extracted have torchvision's names",
)
