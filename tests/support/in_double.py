"""Methods in double precision, in runs of the trainer."""

from dataclasses import dataclass

from torch import Tensor, nn

from selfsup.methods.base import Method, RunContext
from selfsup.models.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class InDouble(Method.Config):
    """A method in double precision: in single, rounding decides about values at the kink of a ReLU now and then."""

    method: Method.Config

    def build(self, encoder: Encoder, context: RunContext) -> Method:
        method = self.method.build(encoder, context).double()
        for name, part in method.named_children():
            if name.endswith("encoder"):  # what sees the views
                part.register_forward_pre_hook(_double)
        return method


def _double(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(part.double() for part in inputs)
