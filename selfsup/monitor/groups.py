"""The groups in which figures are shown where people look at them; metrics.jsonl has their names alone."""

from typing import Literal

Group = Literal["train", "eval", "health", "speed"]

# Every figure that a shipped method, stage or observer logs.
GROUPS: dict[str, Group] = {
    "loss": "train",
    "loss_batch": "train",
    "loss_memory": "train",
    "loss_source": "train",
    "loss_target": "train",
    "accuracy": "train",
    "cosine": "train",
    "learning_rate": "train",
    "epoch": "train",
    "skipped_steps": "train",
    "anchors_alone": "train",
    "anchors_without_negatives": "train",
    "clusters": "train",
    "clusters_found": "train",
    "clustered_images": "train",
    "singletons": "train",
    "independence_threshold": "train",
    "knn_top1": "eval",
    "linear_top1": "eval",
    "top1": "eval",
    "top5": "eval",
    "distill_top1": "eval",
    "distill_top5": "eval",
    "teacher_top1": "eval",
    "feature_std": "health",
    "feature_rank": "health",
    "feature_drift": "health",
    "rank_me": "health",
    "alignment": "health",
    "uniformity": "health",
    "collapse_alarm": "health",
    "images_per_second": "speed",
    "seconds_training": "speed",
    "seconds_evaluation": "speed",
}
# What steps and evaluations log under one name: the group is by whose figure it is.
BY_MOMENT = frozenset({"agreement"})


def grouped(name: str, otherwise: Group) -> str:
    """ "train/loss": a figure with its group; one that the table lacks is in `otherwise`, by when it was logged."""
    return f"{GROUPS.get(name, otherwise)}/{name}"
