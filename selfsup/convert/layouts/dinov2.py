"""DINOv2 (Oquab et al. 2023), with registers and without: backbones of facebookresearch/dinov2."""

from dataclasses import replace

from selfsup.convert.layout import Layout, Preprocessing
from selfsup.convert.vits import ViTNames

_PLAIN = ViTNames(top={"reg_token": "register_tokens"})

LAYOUT = Layout(
    name="dinov2",
    title="DINOv2, backbones of facebookresearch/dinov2",
    encoders={"": ("", "model::", "teacher::backbone.")},
    networks=(_PLAIN, replace(_PLAIN, inside={"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"})),
    marks=(r"blocks\.0\.ls1\.gamma$", r"mask_token$"),
    dropped={r"(backbone\.)?mask_token$": "the mask token", r"(dino|ibot)_head\.": "the heads"},
    preprocessing=lambda config: Preprocessing(interpolation="bicubic"),
    said="of a network with registers the class token's position becomes a part of the class token; blocks in chunks "
    "are refused",
)
