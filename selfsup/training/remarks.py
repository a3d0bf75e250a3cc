"""What of a run's settings does nothing, or may not be meant."""

from collections.abc import Iterator

from torch.nn.modules.batchnorm import _BatchNorm

from selfsup.augment.parameters import View
from selfsup.methods.base import Method


def remarks(settings: Method.Config, view: View, method: Method) -> Iterator[str]:
    """Sentences for the person who started the run.

    Args:
        settings: of the method.
        view: the first one.
        method: with its encoder.
    """
    asked = getattr(settings, "batch_norm", "plain")
    if asked != "plain" and not any(isinstance(module, _BatchNorm) for module in method.encoder.modules()):
        within = any(isinstance(module, _BatchNorm) for module in method.modules())
        where = "only in the head" if within else "nowhere"
        yield f'the encoder has no batch norm: method.batch_norm "{asked}" acts {where}'
    if method.encoder.normalisation is None:
        return
    for name, wanted, given in zip(("mean", "std"), method.encoder.normalisation, (view.mean, view.std), strict=True):
        if any(abs(a - b) > 0.01 for a, b in zip(wanted, given, strict=True)):
            yield (
                f"the pretrained weights were trained on images with {name} {wanted} and the views have {given}; give "
                f"--augment.views.0.{name} (and of the other views) {' '.join(map(str, wanted))} to feed them as then"
            )
