"""Self-supervised contrastive pretraining in PyTorch.

What is named here is the library: `help(selfsup.load)` explains one. Nothing is imported before it is used, torch least
of all. Commands stand on top of it: `selfsup --help`.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Name -> the module that holds it.
_NAMES = {
    # A run, and what comes of it.
    **dict.fromkeys(("Run", "pretrain"), "pretraining"),
    **dict.fromkeys(("LoadedEncoder", "load"), "evaluation.loading"),
    "dry_run": "stages.dry_run",
    "load_recipe": "catalogue",
    "Data": "data.settings",
    "open_source": "data.sources",
    **dict.fromkeys(("ArraySource", "Source"), "data.base"),
    "DatasetSource": "data.datasets",
    "Batch": "batch",
    # Methods.
    **{name: f"methods.{name.lower()}" for name in ("SimCLR", "MoCo", "MoCHi", "SupCon", "SupMoCo", "InstDisc")},
    **{name: f"methods.{name.lower()}" for name in ("SpCL", "Metric", "XBM")},
    "SimCLRv2": "methods.simclr_v2",
    "MoCoV3": "methods.moco_v3",
    # For a loop of one's own: losses of embeddings, memories, views.
    **dict.fromkeys(("info_nce", "nt_xent"), "losses.contrastive"),
    "sup_con": "losses.sup_con",
    **dict.fromkeys(("nce", "softmax_over_bank"), "losses.nce"),
    "mixed_scores": "losses.mixing",
    "cluster_nce": "losses.cluster",
    "distillation": "losses.distillation",
    **dict.fromkeys(("contrastive", "margin_loss", "triplet"), "losses.pairs"),
    **dict.fromkeys(("circle", "generalized_lifted", "lifted", "multi_similarity", "n_pair"), "losses.soft_pairs"),
    **dict.fromkeys(("proxy_anchor", "proxy_nca"), "losses.proxy"),
    "FeatureBank": "memory.bank",
    "FeatureQueue": "memory.queue",
    "HybridMemory": "memory.hybrid",
    "ema_update": "memory.ema",
    **dict.fromkeys(("Augment", "Center", "Views"), "augment.views"),
    **dict.fromkeys(("Blur", "Erase", "Jitter", "View"), "augment.parameters"),
    **dict.fromkeys(("AdamW", "LARS", "SGD"), "optim.optimizers"),
    **dict.fromkeys(("Constant", "Cosine", "Steps"), "optim.schedules"),
    "Encoder": "models.encoder",
    "ResNet": "models.resnet",
    "Timm": "models.timm",
    # Evaluation of features.
    **dict.fromkeys(("Features", "extract"), "evaluation.features"),
    **dict.fromkeys(("knn_accuracies", "knn_accuracy"), "evaluation.knn"),
    **dict.fromkeys(("fit_logistic", "probe_features"), "evaluation.logistic"),
    "retrieval_figures": "evaluation.retrieval",
    "cluster_figures": "evaluation.clustering",
    # Features that are alike.
    "Index": "search.index",
    "near_duplicates": "search.duplicates",
    "diverse_subset": "search.diverse",
}
__all__ = ["__version__", *sorted(_NAMES)]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'selfsup' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"selfsup.{_NAMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_NAMES})


if TYPE_CHECKING:
    from selfsup.evaluation.loading import LoadedEncoder as LoadedEncoder
    from selfsup.evaluation.loading import load as load
    from selfsup.pretraining import Run as Run
    from selfsup.pretraining import pretrain as pretrain
