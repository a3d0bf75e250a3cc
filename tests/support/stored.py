"""Shipped classes of settings, one of a user's own, and JSON as schema 1 had it."""

import typing
from dataclasses import dataclass
from typing import Any

from selfsup.catalogue import import_encoders, import_methods
from selfsup.config.schema import PLACES
from selfsup.config.stored_names import descendants
from selfsup.evaluation.feed import Preprocessing
from selfsup.methods.base import Method, RunContext
from selfsup.methods.simclr import SimCLR
from selfsup.models.encoder import Encoder
from selfsup.models.heads import HeadConfig
from selfsup.run_folder.extending import Segment
from selfsup.stages.probes import Probe
from selfsup.stages.semi_settings import Semi
from selfsup.training.settings import Training

# What others are made from, and which is never stored itself.
BASES = "Training Supervised Method.Config Encoder.Config PairLoss.Config OptimizerConfig".split()
BASES += ["Schedule", "Sampling", "HeadConfig"]


def storable() -> list[type]:
    """Every shipped class of settings that a file may hold: what may be at the top of one, and all that this nests."""
    import_methods()
    import_encoders()
    found: dict[type, None] = {}

    def visit(kind: Any) -> None:
        for part in typing.get_args(kind):
            visit(part)
        for one in descendants(kind):
            if one not in found and one.__module__.startswith("selfsup."):
                found[one] = None
                for field in typing.get_type_hints(one).values():
                    visit(field)

    for top in (Training, Semi, Probe, HeadConfig, Preprocessing, Segment):
        visit(top)
    return [kind for kind in found if kind.__qualname__ not in BASES]


def in_places(value: Any) -> Any:
    """The JSON as schema 1 had it, with where the classes lay."""
    lay = {name: place for place, name in PLACES.items()}
    if isinstance(value, dict):
        return {key: lay.get(item, item) if key == "class" else in_places(item) for key, item in value.items()}
    return [in_places(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True, kw_only=True)
class Mine(Method.Config):
    """A user's own, which calls itself nothing."""

    temperature: float = 0.2

    def build(self, encoder: Encoder, context: RunContext) -> Method:
        return SimCLR.Config(temperature=self.temperature).build(encoder, context)
