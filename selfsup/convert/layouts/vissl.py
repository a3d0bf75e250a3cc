"""VISSL: facebookresearch/vissl, models/trunks/resnext.py and models/heads/mlp.py."""

import re
from dataclasses import dataclass

from selfsup.convert.layout import Layout, Tensors, holder_of
from selfsup.convert.projections import Layer, Projection
from selfsup.convert.resnets import TORCHVISION
from selfsup.convert.vits import TIMM

_MODEL = "classy_state_dict::base_model::model::"


@dataclass(frozen=True, kw_only=True)
class _Heads(Projection):
    """Linear layers of one or several MLPs after one another, 0.clf.0 and 0.clf.2, or 0.clf.0 and 1.clf.0."""

    def _prefix(self, encoder: str) -> str:
        return holder_of(encoder).replace("::trunk::", "::heads::")

    def layers(self, own: Tensors) -> list[Layer]:
        places = sorted({(int(m[1]), int(m[2])) for name in own if (m := re.match(r"(\d+)\.clf\.(\d+)\.", name))})
        layers: list[Layer] = []
        for head, place in places:
            prefix = f"{head}.clf.{place}."
            part = {name.removeprefix(prefix): value for name, value in own.items() if name.startswith(prefix)}
            if "running_mean" in part and layers:
                layers[-1] = Layer(layers[-1].linear, part)
            else:
                layers.append(Layer(part, None))
        return layers

    def called(self, layers: list[Layer]) -> list[tuple[str, str]] | None:
        place, called = 0, []
        for layer in layers:
            called.append((f"0.clf.{place}.", f"0.clf.{place + 1}."))
            place += 2 if layer.norm is None else 3
        return called


LAYOUT = Layout(
    name="vissl",
    title="VISSL, facebookresearch/vissl",
    encoders={
        "": (
            f"{_MODEL}trunk::_feature_blocks.",
            f"{_MODEL}trunk::base_model._feature_blocks.",
            "model_state_dict::_feature_blocks.",
            "_feature_blocks.",
            f"{_MODEL}trunk::",
        )
    },
    networks=(TORCHVISION, TIMM),
    marks=(r"(^|::|\.)_feature_blocks\.|^classy_state_dict::",),
    heads=(_Heads(prefix=""),),
    outside={r"classy_state_dict::(?!base_model::model::)": "state of training"},
    said="between two linear layers of a head a ReLU is taken to stand",
)
