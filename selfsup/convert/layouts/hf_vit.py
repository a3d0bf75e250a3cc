"""`ViTModel` of Hugging Face transformers, in which DINO's transformers are published too."""

from selfsup.convert.layout import Layout, Preprocessing
from selfsup.convert.vits import ViTNames

_TOP = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
_ON_DISK = ViTNames(
    top=_TOP,
    block="encoder.layer.{}",
    inside={
        "norm1": "layernorm_before",
        "attn.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    },
    qkv=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    epsilon=1e-12,
)
_IN_MEMORY = ViTNames(  # of version 5, which saves by the names above
    top=_TOP,
    block="layers.{}",
    inside={"norm1": "layernorm_before", "attn.proj": "attention.o_proj", "norm2": "layernorm_after"},
    qkv=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    epsilon=1e-12,
)

LAYOUT = Layout(
    name="hf_vit",
    title="ViTModel of Hugging Face transformers, DINO's among them",
    encoders={"": ("", "vit.")},
    networks=(_ON_DISK, _IN_MEMORY),
    dropped={r"(vit\.)?pooler\.": "the pooler", r"classifier\.": "the classifier"},
    preprocessing=lambda config: Preprocessing(fraction=1.0, mean=(0.5,) * 3, std=(0.5,) * 3, fit="whole"),
    said="features are the class token behind the last norm; config.json says the heads and the epsilon of layer norms",
)
