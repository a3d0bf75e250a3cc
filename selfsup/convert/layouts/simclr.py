"""SimCLR and SimCLRv2 (Chen et al. 2020): checkpoints of google-research/simclr for TensorFlow 1."""

from selfsup.convert.layout import Layout, Preprocessing
from selfsup.convert.simclr_names import SimCLRHead, SimCLRNames
from selfsup.models.encoder import Encoder


def _preprocessing(config: Encoder.Config) -> Preprocessing:
    """Pixels from 0 to 1; the central box is resized without antialiasing, except that CIFAR's images stay whole."""
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if getattr(config, "stem", "") == "cifar":
        return Preprocessing(size=32, fraction=1.0, mean=zero, std=one, interpolation="bicubic_aliased")
    return Preprocessing(mean=zero, std=one, interpolation="bicubic_aliased")


LAYOUT = Layout(
    name="simclr",
    title="SimCLR and SimCLRv2, google-research/simclr (TensorFlow 1)",
    encoders={"": ("base_model/",)},
    networks=(SimCLRNames(),),
    heads=(SimCLRHead(),),
    dropped={
        r".*/Momentum$": "state of the optimizer",
        r"head_supervised/": "the classifier",
        r"global_step$": "the number of steps",
        r"ema_model/": "averages of the weights",
    },
    preprocessing=_preprocessing,
    said="read without TensorFlow; give MODEL.index or the prefix MODEL. SavedModels of TensorFlow 2 are not read: "
    "save their variables by these names with tf.compat.v1.train.Saver",
)
