"""What `verify_methods.py` found: the table, and what was expected and does not show."""

from typing import Any

Figures = dict[str, Any]
GAIN = 0.1  # that every self-supervised method must have over the untrained encoder, CIFAR-10
START = "start (SimCLR)"
ONCE = "clustered once, not self-paced"


def unmet(found: list[Figures]) -> list[str]:
    """What is expected of the methods and does not show in these rows."""
    said = []
    cifar = {row["name"]: row["figures"]["knn_top1"] for row in found if row["suite"] == "cifar10"}
    methods = [row["name"] for row in found if row["suite"] == "cifar10" and "budget" in row]
    for name in methods:
        if (gain := cifar[name] - cifar.get("untrained encoder", 0.0)) < GAIN:
            said.append(f"{name} gains {gain:+.4f} over the untrained encoder, less than {GAIN}")
    if methods and max(methods, key=lambda name: cifar[name]) not in ("SupCon", "SupCon with queue"):
        said.append("a method without labels gains more than SupCon")
    cars = {row["name"]: row["figures"]["recall_at_1"] for row in found if row["suite"] == "cars"}
    for name, recall in cars.items():
        if recall > cars.get(f"{name} + XBM", 1.0):
            said.append(f"{name}: Recall@1 {recall:.4f} alone, {cars[f'{name} + XBM']:.4f} with XBM")
    for suite in ("omniglot", "wildlife"):
        maps = {row["name"]: row["figures"]["map"] for row in found if row["suite"] == suite}
        if maps.get("SpCL", 1.0) < maps.get(ONCE, 0.0):
            said.append(f"{suite}: SpCL has mAP {maps['SpCL']:.4f}, {ONCE} {maps[ONCE]:.4f}")
    return said


ABOUT = """# Every method on real images

Written by `python -m tools.benchmarks.verify_methods`; settings and protocol of each row are in the JSON file beside
this one. One seed each, figures of the last epoch, on test images that nothing was chosen by. Pair losses and SpCL are
judged by their embedding, encoders alone by their features.
"""
HEADS = {
    "cifar10": ("CIFAR-10: kNN (k = 200, T = 0.1), 10,000 test images", {"knn_top1": "kNN"}),
    "cars": (
        "Cars, models unseen in training: leave-one-out retrieval",
        {"recall_at_1": "Recall@1", "map_at_r": "MAP@R", "backbone_recall_at_1": "Recall@1 (backbone)"},
    ),
    "omniglot": ("Omniglot, alphabets unseen in training: retrieval", {"map": "mAP", "recall_at_1": "Recall@1"}),
    "wildlife": ("Wildlife, lion labelled, nyala not: nyala unseen", {"map": "mAP", "recall_at_1": "Recall@1"}),
}


def table(found: list[Figures]) -> str:
    """Markdown of all rows."""
    lines = [ABOUT]
    for suite, (title, figures) in HEADS.items():
        rows = [row for row in found if row["suite"] == suite]
        if not rows:
            continue
        base = next((row["figures"] for row in rows if row["name"] == "untrained encoder"), None)
        first = next(iter(figures))
        names = [*figures.values(), "over untrained", "images seen", "clusters by epoch"]
        lines += [f"## {title}", "", "| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for row in rows:
            values = [f"{row['figures'][name]:.4f}" if name in row["figures"] else "" for name in figures]
            gain = f"{row['figures'][first] - base[first]:+.4f}" if base and "budget" in row else ""
            seen = f"{row['budget']['images_seen']:,}" if "budget" in row else ""
            by_epoch = " ".join(str(int(count)) for count in row["figures"].get("clusters", []))
            lines.append(f"| {row['name']} | " + " | ".join([*values, gain, seen, by_epoch]) + " |")
        lines.append("")
    return "\n".join(lines)
