"""Training that starts from an encoder that was trained before, and from its head."""

from selfsup.config.settings import differences, dump, result_relevant
from selfsup.evaluation.encoder import Exported
from selfsup.methods.base import Method
from selfsup.models.channels import with_channels
from selfsup.models.encoder import Encoder


def start_encoder(encoder: Encoder, config: Encoder.Config, exported: Exported, name: str) -> None:
    """Load the weights of an encoder that was trained before.

    One of three channels may start one of another number: its first convolution is adapted, which is said.

    Args:
        encoder: that is filled.
        config: its settings.
        exported: what it starts from.
        name: of the file or folder of `exported`, for messages.

    Raises:
        ValueError: the two are not of the same settings.
    """
    before, now = (result_relevant(settings) for settings in (exported.config, config))
    if exported.config.channels == 3 and "in_channels" in now:
        before["in_channels"] = config.channels
    if lines := differences(before, now, "encoder"):
        raise ValueError(f"the encoder of {name} is not the one of this run: {'; '.join(lines)}")
    encoder.load_state_dict(with_channels(exported.encoder.state_dict(), encoder.state_dict(), name))


def start_head(method: Method, exported: Exported, name: str) -> None:
    """Load the head beside an encoder that was trained before.

    Args:
        method: whose head is filled, and that of its momentum network.
        exported: what it starts from.
        name: of the file or folder of `exported`, for messages.

    Raises:
        ValueError: there is no such head, the method exports none, or the two are not of the same settings.
    """
    own = method.head_state()
    if exported.head is None or own is None:
        lacking = f"{name} has no head" if own is not None else f"{type(method).__name__} exports no head"
        raise ValueError(f"{lacking}; leave --start-head out")
    config = getattr(exported.head, "config", None)
    if dump(config) != dump(own[0]):
        lines = differences(dump(config), dump(own[0]), "head")
        raise ValueError(f"the head of {name} is not the one of this run: {'; '.join(lines)}")
    method.start_head(exported.head.state_dict())
