"""How often a classifier is right."""

from torch import Tensor


def top_figures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Shares of rows whose class is the highest ("top1") and among the five highest ("top5"): (N, C), (N,).

    Of equal logits the lower class stands first.
    """
    ranked = logits.sort(dim=1, descending=True, stable=True).indices[:, :5]
    hits = ranked == labels[:, None]
    return {"top1": hits[:, 0].double().mean().item(), "top5": hits.any(dim=1).double().mean().item()}
