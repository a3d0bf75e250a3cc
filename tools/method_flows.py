"""What happens in a step of each method, as boxes and arrows: what `tools.draw_methods` draws."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

Kind = Literal["data", "trained", "average", "memory", "rows", "step", "loss"]


@dataclass(frozen=True)
class Box:
    """A thing, in a column and in the rows from the first to the last, both included; rows may be halves."""

    name: str  # what is written in it, unless there is a `text`
    kind: Kind
    column: float
    rows: tuple[float, float]
    detail: tuple[str, ...] = ()  # smaller lines below the name
    text: str | None = None


@dataclass(frozen=True)
class Arrow:
    """From one box to another, by their names."""

    start: str
    end: str
    label: str = ""
    kind: Literal["flow", "average", "write"] = "flow"
    stopped: bool = False  # no gradient goes back


@dataclass(frozen=True)
class Flow:
    """A drawing."""

    title: str
    told: str  # the same in words
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def _chain(*names: str) -> tuple[Arrow, ...]:
    return tuple(Arrow(start, end) for start, end in pairwise(names))


_AVERAGE = (
    Arrow("encoder", "key encoder", "EMA", "average"),
    Arrow("head", "key head", "EMA", "average"),
)


def _two_branches(queries: Box, keys: Box, loss: Box, *memory: Box) -> tuple[Box, ...]:
    """View 1 through the network and view 2 through its moving average, to a loss."""
    return (
        Box("image", "data", 0, (0.5, 0.5)),
        Box("view 1", "data", 1, (0, 0)),
        Box("view 2", "data", 1, (1, 1)),
        Box("encoder", "trained", 2, (0, 0)),
        Box("key encoder", "average", 2, (1, 1)),
        Box("head", "trained", 3, (0, 0)),
        Box("key head", "average", 3, (1, 1)),
        queries,
        keys,
        *memory,
        loss,
    )


_BRANCHES = (
    Arrow("image", "view 1"),
    Arrow("image", "view 2"),
    *_chain("view 1", "encoder", "head", "queries"),
    *_chain("view 2", "key encoder", "key head", "keys"),
    *_AVERAGE,
)
_QUEUE = (
    Arrow("keys", "loss", stopped=True),
    Arrow("keys", "queue", "", "write"),
    Arrow("queue", "loss", stopped=True),
)
_QUERIES = Box("queries", "rows", 4, (0, 0), ("of view 1",))
_KEYS = Box("keys", "rows", 4, (1, 1), ("of view 2",))
_BOTH = (
    Box("image", "data", 0, (0.5, 0.5)),
    Box("views", "data", 1, (0, 1), ("1 and 2",)),
    Box("encoder", "trained", 2, (0, 0)),
    Box("key encoder", "average", 2, (1, 1)),
    Box("head", "trained", 3, (0, 0)),
    Box("key head", "average", 3, (1, 1)),
)
_BOTH_ARROWS = (
    *_chain("image", "views", "encoder", "head"),
    *_chain("views", "key encoder", "key head", "keys"),
    *_AVERAGE,
)

FLOWS = {
    "instdisc": Flow(
        "Instance discrimination",
        "One view of an image goes through encoder and head. Its feature is compared with the image's own row of the "
        "bank and with rows of other images, drawn at random. After the step the row moves towards the feature.",
        (
            Box("image", "data", 0, (0, 0)),
            Box("view", "data", 1, (0, 0)),
            Box("encoder", "trained", 2, (0, 0)),
            Box("head", "trained", 3, (0, 0), ("linear",)),
            Box("feature", "rows", 4, (0, 0)),
            Box("bank", "memory", 4, (1, 1), ("a row for", "each image")),
            Box("loss", "loss", 5, (0, 1), ("own row", "against", "K others"), "NCE"),
        ),
        (
            *_chain("image", "view", "encoder", "head", "feature", "loss"),
            Arrow("feature", "bank", "", "write"),
            Arrow("bank", "loss", stopped=True),
        ),
    ),
    "moco": Flow(
        "MoCo",
        "View 1 goes through encoder and head and becomes a query; view 2 goes through their moving averages and "
        "becomes its key. The loss compares the query with its key and with older keys in a queue, into which the keys "
        "are written after the step.",
        _two_branches(
            _QUERIES,
            _KEYS,
            Box("loss", "loss", 5, (0, 2), ("own key", "against", "K older ones"), "InfoNCE"),
            Box("queue", "memory", 4, (2, 2), ("of older keys",)),
        ),
        (*_BRANCHES, Arrow("queries", "loss"), *_QUEUE),
    ),
    "moco_v3": Flow(
        "MoCo v3",
        "Both views go through encoder, head and predictor and become queries; and through the moving averages of "
        "encoder and head and become keys. Each query is compared with the keys of the other view of all images of the "
        "batch. There is no queue.",
        (
            *_BOTH,
            Box("predictor", "trained", 4, (0, 0)),
            Box("queries", "rows", 5, (0, 0), ("q1, q2",)),
            Box("keys", "rows", 5, (1, 1), ("k1, k2",)),
            Box("loss", "loss", 6, (0, 1), ("q1 with k2,", "q2 with k1"), "InfoNCE"),
        ),
        (*_BOTH_ARROWS, *_chain("head", "predictor", "queries", "loss"), Arrow("keys", "loss", stopped=True)),
    ),
    "simclr": Flow(
        "SimCLR",
        "Two views of each image go through one encoder and one head, as one batch. Each embedding is to find that of "
        "the other view among all embeddings of the batch. Nothing is remembered.",
        (
            Box("image", "data", 0, (0.5, 0.5)),
            Box("view 1", "data", 1, (0, 0)),
            Box("view 2", "data", 1, (1, 1)),
            Box("encoder", "trained", 2, (0, 1), ("one batch", "of both views")),
            Box("head", "trained", 3, (0, 1)),
            Box("z1", "rows", 4, (0, 0)),
            Box("z2", "rows", 4, (1, 1)),
            Box("loss", "loss", 5, (0, 1), ("other view", "against all", "of the batch"), "NT-Xent"),
        ),
        (
            Arrow("image", "view 1"),
            Arrow("image", "view 2"),
            *_chain("view 1", "encoder"),
            *_chain("view 2", "encoder", "head", "z1", "loss"),
            *_chain("head", "z2", "loss"),
        ),
    ),
    "simclr_v2": Flow(
        "SimCLRv2 with memory",
        "Both views go through encoder and head and become queries; and through their moving averages and become keys. "
        "Each query is to find the other view's key among all keys of the batch and older ones in a queue, into which "
        "the keys are written after the step.",
        (
            *_BOTH,
            Box("queries", "rows", 4, (0, 0), ("q1, q2",)),
            Box("keys", "rows", 4, (1, 1), ("k1, k2",)),
            Box("queue", "memory", 4, (2, 2), ("of older keys",)),
            Box("loss", "loss", 5, (0, 2), ("other view's key", "against batch", "and queue"), "NT-Xent"),
        ),
        (*_BOTH_ARROWS, *_chain("head", "queries", "loss"), *_QUEUE),
    ),
    "mochi": Flow(
        "MoCHi",
        "As MoCo; and of each query's hardest negatives in the queue mixtures are made, of two of them or of one and "
        "the query. They are further negatives.",
        _two_branches(
            _QUERIES,
            _KEYS,
            Box("loss", "loss", 6, (0, 3), ("own key", "against older", "ones and", "mixtures"), "InfoNCE"),
            Box("queue", "memory", 4, (2, 2), ("of older keys",)),
            Box("mixtures", "step", 5, (3, 3), ("of the hardest",)),
        ),
        (
            *_BRANCHES,
            Arrow("queries", "loss"),
            *_QUEUE,
            Arrow("queue", "mixtures"),
            Arrow("mixtures", "loss", stopped=True),
        ),
    ),
    "supcon": Flow(
        "SupCon",
        "All views go through one encoder and one head. Each embedding is to find all others of its class.",
        (
            Box("images", "data", 0, (0, 0), ("with labels",)),
            Box("views", "data", 1, (0, 0)),
            Box("encoder", "trained", 2, (0, 0)),
            Box("head", "trained", 3, (0, 0)),
            Box("embeddings", "rows", 4, (0, 0)),
            Box("labels", "data", 4, (1, 1), ("who is positive",)),
            Box("loss", "loss", 5, (0, 1), ("all of its class", "against all", "of the batch"), "SupCon"),
        ),
        (
            *_chain("images", "views", "encoder", "head", "embeddings", "loss"),
            Arrow("images", "labels"),
            Arrow("labels", "loss"),
        ),
    ),
    "supmoco": Flow(
        "SupCon with a queue",
        "As MoCo, with labels: a query is to find all keys of its class, those of the batch and older ones in the "
        "queue, which holds their labels, too.",
        _two_branches(
            _QUERIES,
            _KEYS,
            Box("loss", "loss", 5, (0, 2), ("keys of its class", "against all", "others"), "SupCon"),
            Box("queue", "memory", 4, (2, 2), ("keys and", "their labels")),
        ),
        (*_BRANCHES, Arrow("queries", "loss"), *_QUEUE),
    ),
    "spcl": Flow(
        "SpCL",
        "One view of an image goes through the encoder and a batch norm. Its embedding is to find the image's cluster "
        "among clusters and single images. Clusters are found in the memory before every epoch; after the step the "
        "image's row of the memory moves towards the embedding.",
        (
            Box("image", "data", 0, (0, 0)),
            Box("view", "data", 1, (0, 0)),
            Box("encoder", "trained", 2, (0, 0)),
            Box("neck", "trained", 3, (0, 0), ("batch norm",)),
            Box("embedding", "rows", 4, (0, 0)),
            Box("memory", "memory", 4, (1, 1), ("a row for", "each image")),
            Box("clusters", "step", 5, (1, 1), ("before every", "epoch")),
            Box("loss", "loss", 6, (0, 1), ("own cluster", "against all", "others"), "InfoNCE"),
        ),
        (
            *_chain("image", "view", "encoder", "neck", "embedding", "loss"),
            Arrow("embedding", "memory", "", "write"),
            Arrow("memory", "clusters", stopped=True),
            Arrow("clusters", "loss"),
        ),
    ),
    "metric": Flow(
        "Metric learning",
        "Images of a few classes go through the encoder and a linear layer. The loss draws embeddings of a class "
        "together and pushes those of others apart, pair by pair or by a learnt proxy of each class.",
        (
            Box("images", "data", 0, (0, 0), ("of few classes",)),
            Box("encoder", "trained", 1, (0, 0)),
            Box("head", "trained", 2, (0, 0), ("linear",)),
            Box("embeddings", "rows", 3, (0, 0)),
            Box("labels", "data", 3, (1, 1)),
            Box("proxies", "trained", 3, (2, 2), ("in proxy losses",)),
            Box("loss", "loss", 4, (0, 2), ("near in a class,", "far between"), "pair loss"),
        ),
        (
            *_chain("images", "encoder", "head", "embeddings", "loss"),
            Arrow("images", "labels"),
            Arrow("labels", "loss"),
            Arrow("proxies", "loss"),
        ),
    ),
    "xbm": Flow(
        "XBM",
        "As metric learning; and the same loss is taken of the batch against a memory of the embeddings of many "
        "batches, the batch itself among them.",
        (
            Box("images", "data", 0, (0, 0), ("of few classes",)),
            Box("encoder", "trained", 1, (0, 0)),
            Box("head", "trained", 2, (0, 0), ("linear",)),
            Box("embeddings", "rows", 3, (0, 0)),
            Box("memory", "memory", 3, (2, 2), ("embeddings", "and labels")),
            Box("loss", "loss", 4, (0, 0), ("in the batch",), "pair loss"),
            Box("loss 2", "loss", 4, (1, 2), ("of the batch", "against", "the memory"), "pair loss"),
            Box("sum", "loss", 5, (0, 2), ("second part", "after a warm-up")),
        ),
        (
            *_chain("images", "encoder", "head", "embeddings", "loss", "sum"),
            Arrow("embeddings", "loss 2"),
            Arrow("embeddings", "memory", "", "write"),
            Arrow("memory", "loss 2", stopped=True),
            Arrow("loss 2", "sum"),
        ),
    ),
}
