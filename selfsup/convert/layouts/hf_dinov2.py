"""`Dinov2Model` of Hugging Face transformers, with registers and without."""

from dataclasses import replace

from selfsup.convert.layout import Layout, Preprocessing
from selfsup.convert.vits import ViTNames

_PLAIN = ViTNames(
    top={
        "cls_token": "embeddings.cls_token",
        "reg_token": "embeddings.register_tokens",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    },
    block="encoder.layer.{}",
    inside={"attn.proj": "attention.output.dense", "ls1": "layer_scale1", "ls2": "layer_scale2"},
    qkv=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    gamma="lambda1",
)
_GATED = replace(_PLAIN, inside={**_PLAIN.inside, "mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"})
_PREFIXES = ("", "dinov2.", "dinov2_with_registers.")

LAYOUT = Layout(
    name="hf_dinov2",
    title="Dinov2Model of Hugging Face transformers, with registers and without",
    encoders={"": _PREFIXES},
    networks=(_PLAIN, _GATED),
    marks=(r"layer_scale1\.lambda1$",),
    dropped={r"(\w+\.)?embeddings\.mask_token$": "the mask token", r"classifier\.": "the classifier"},
    preprocessing=lambda config: Preprocessing(interpolation="bicubic"),
    said="of a network with registers the class token's position becomes a part of the class token",
)
