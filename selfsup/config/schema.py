"""The schema of files that hold settings: config.json, encoder.json, network.json and results.

Schema 2 holds the names of classes (`selfsup.config.stored_names`). Schema 1, of files that do not say which they are,
held where the classes lay then.
"""

from pathlib import Path
from typing import Any

SCHEMA = 2
# Where the classes lay that files of schema 1 may hold, and what they are stored as. Closed: no other is added.
PLACES = {
    "selfsup.augment.parameters.Blur": "blur",
    "selfsup.augment.parameters.Erase": "erase",
    "selfsup.augment.parameters.Jitter": "jitter",
    "selfsup.augment.parameters.View": "view",
    "selfsup.augment.views.Augment": "augment",
    "selfsup.config.Data": "data",
    "selfsup.data.labelled.Labelled": "labelled",
    "selfsup.data.sampling.ClassBalanced": "class_balanced",
    "selfsup.data.sampling.Shuffled": "shuffled",
    "selfsup.data.sampling.TwoDomains": "two_domains",
    "selfsup.extending.Extend": "extend",
    "selfsup.extending.Extended": "extended",
    "selfsup.extending.Segment": "segment",
    "selfsup.methods.instdisc.InstDisc.Config": "instdisc",
    "selfsup.methods.metric.Metric.Config": "metric",
    "selfsup.methods.mochi.MoCHi.Config": "mochi",
    "selfsup.methods.moco.MoCo.Config": "moco",
    "selfsup.methods.pair_losses.Circle.Config": "circle",
    "selfsup.methods.pair_losses.Contrastive.Config": "contrastive",
    "selfsup.methods.pair_losses.Lifted.Config": "lifted",
    "selfsup.methods.pair_losses.Margin.Config": "margin",
    "selfsup.methods.pair_losses.MultiSimilarity.Config": "multi_similarity",
    "selfsup.methods.pair_losses.NPair.Config": "n_pair",
    "selfsup.methods.pair_losses.Proxy.Config": "proxy",
    "selfsup.methods.pair_losses.SimilarityContrastive.Config": "similarity_contrastive",
    "selfsup.methods.pair_losses.Triplet.Config": "triplet",
    "selfsup.methods.simclr.SimCLR.Config": "simclr",
    "selfsup.methods.simclr_v2.SimCLRv2.Config": "simclr_v2",
    "selfsup.methods.spcl.SpCL.Config": "spcl",
    "selfsup.methods.supcon.SupCon.Config": "supcon",
    "selfsup.methods.supmoco.SupMoCo.Config": "supmoco",
    "selfsup.methods.xbm.XBM.Config": "xbm",
    "selfsup.models.heads.Classifier.Config": "classifier",
    "selfsup.models.heads.Head.Config": "head",
    "selfsup.models.heads.Neck.Config": "neck",
    "selfsup.models.resnet.ResNet.Config": "resnet",
    "selfsup.optim.AdamW.Config": "adamw",
    "selfsup.optim.LARS.Config": "lars",
    "selfsup.optim.SGD.Config": "sgd",
    "selfsup.pretrain.Run": "pretrain",
    "selfsup.schedules.Constant": "constant",
    "selfsup.schedules.Cosine": "cosine",
    "selfsup.schedules.SimCLRCosine": "simclr_cosine",
    "selfsup.schedules.Steps": "steps",
    "selfsup.schedules.SupConCosine": "supcon_cosine",
    "selfsup.stages.distill_settings.Distill": "distill",
    "selfsup.stages.encoder.Preprocessing": "feed",
    "selfsup.stages.finetune_settings.Finetune": "finetune",
    "selfsup.stages.probes.Probe": "linear",
    "selfsup.stages.probes.Sweep": "linear_sweep",
    "selfsup.stages.semi_settings.Semi": "semi",
    "selfsup.stages.semi_settings.SemiFromRecipe": "semi_from_recipe",
}

# Settings that there are no more, by the names of their classes, and what has taken their place.
GONE = {"simclr": {"tile": "tiles are chosen by the sizes of batch and embeddings; results differ by rounding alone"}}


def in_present_names(content: dict[str, Any], path: Path) -> dict[str, Any]:
    """What a file of any schema holds, with classes by the names they are stored as now, without what is `GONE`.

    Args:
        content: of the file.
        path: of the file, for messages.

    Raises:
        ValueError: the file is of a newer schema, or does not say of which.
    """
    schema = content.get("schema", 1)
    if type(schema) is not int or schema < 1:
        raise ValueError(f"{path} does not say which schema it is of; the file is damaged")
    if schema > SCHEMA:
        raise ValueError(
            f"{path} was written by a newer version (schema {schema}, this one reads {SCHEMA}); install a newer selfsup"
        )
    present: dict[str, Any] = _without_gone(_renamed(content) if schema == 1 else content)
    return present


def gone_settings(content: Any) -> list[str]:
    """What a file of any schema gives a value that is `GONE`, as "tile 5 is ignored: why"; None was no value."""
    if isinstance(content, list):
        return [note for item in content for note in gone_settings(item)]
    if not isinstance(content, dict):
        return []
    gone = GONE.get(_name(content["class"]), {}) if isinstance(content.get("class"), str) else {}
    notes = [f"{key} {content[key]!r} is ignored: {why}" for key, why in gone.items() if content.get(key) is not None]
    return notes + [note for item in content.values() for note in gone_settings(item)]


def _without_gone(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_gone(item) for item in value]
    if not isinstance(value, dict):
        return value
    kind = value.get("class")
    gone = GONE.get(kind, {}) if isinstance(kind, str) else {}
    return {key: _without_gone(item) for key, item in value.items() if key not in gone}


def _renamed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _name(item) if key == "class" else _renamed(item) for key, item in value.items()}
    return [_renamed(item) for item in value] if isinstance(value, list) else value


def _name(place: Any) -> Any:
    """Of a shipped class; classes of one's own are known by where they lie, as ever."""
    return PLACES.get(place, place) if isinstance(place, str) else _renamed(place)
