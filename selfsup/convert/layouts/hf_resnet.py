"""`ResNetModel` and `ResNetForImageClassification` of Hugging Face transformers."""

from selfsup.convert.layout import Layout
from selfsup.convert.resnets import HuggingFaceResNet

LAYOUT = Layout(
    name="hf_resnet",
    title="ResNetModel of Hugging Face transformers",
    encoders={"": ("", "resnet.")},
    networks=(HuggingFaceResNet(),),
    dropped={r"classifier\.": "the classifier"},
    said="config.json and preprocessor_config.json are read where they lie beside the weights",
)
