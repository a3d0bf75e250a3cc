"""Weighted k-nearest-neighbour classification (Wu et al. 2018, section 3.4)."""

from pathlib import Path

from selfsup.data.identity import identity
from selfsup.data.opening import labelled_part, open_part, open_test_part
from selfsup.data.overlap import about_shared
from selfsup.data.sources import Source
from selfsup.evaluation.accuracy import by_name, mean_recall, recalls
from selfsup.evaluation.features import features_of
from selfsup.evaluation.knn import knn_hits, neighbours_of
from selfsup.evaluation.newest import newest_encoder
from selfsup.stages.base import Evaluated, Result, Stage, as_read, data_of, place_of
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.settings import HELP, KNN
from selfsup.training.accelerator import stage_device


def check_classes(train: Source, test: Source | None) -> None:
    """Raise ValueError where kNN cannot judge anything, before features are computed."""
    parts = [train] if test is None else [train, test]
    for part in parts:
        if int(part.labels.min()) < 0:
            raise ValueError(f"kNN needs labels: {part.found.no_labels}")
    known = set(train.labels.tolist())
    if len(known) < 2:
        raise ValueError("there is only one class among the training images; kNN needs at least two to tell apart")
    if test is not None and (lacking := sorted(set(test.labels.tolist()) - known)):
        names = ", ".join(test.class_name(label) for label in lacking[:5])
        raise ValueError(
            f"{len(lacking)} of the test classes have no training image: {names}{', ...' if lacking[5:] else ''}\n"
            "kNN could never be right there; judge unseen classes by `selfsup retrieval`, or raise --data.limit"
        )


def run_knn(path: Path, settings: KNN) -> Evaluated:
    """kNN of an exported encoder; one result for each k and T, in the order of the lists.

    Args:
        path: a run folder or an encoder.safetensors.
        settings: with `data.root` set.

    Raises:
        ValueError: there are no labels, one class only, test classes without a training image, or no test part.
    """
    require_data_of_run(path, settings.data)
    exported = newest_encoder(path, size=settings.size)
    device = stage_device(settings.device)
    encoder, center = exported.network(settings.layer).to(device), exported.feed.center()
    data = settings.data
    train = labelled_part(open_part(data, "train"), "train")
    test = None
    if settings.mode == "train_test":
        test = open_part(data, "test")  # says what is missing, where it is
    elif settings.mode == "auto":
        test = open_test_part(data)
    test = test and labelled_part(test, "test")
    check_classes(train, test)
    shared_images = about_shared(train, test, data.verify)
    bank = features_of(settings, encoder, train, center, device)
    queries = None if test is None else features_of(settings, encoder, test, center, device)
    ks = neighbours_of(settings.k, bank.labels, leave_one_out=queries is None)
    temperatures = tuple(dict.fromkeys(settings.temperature))
    found = knn_hits(bank, queries, ks, temperatures, settings.backend, device)
    shared = {
        "metric": "cosine",
        "layer": settings.layer,
        **exported.protocol,
        **as_read(settings.data),
        "data": identity(data.verify, train, *([] if test is None else [test])),
        "bank_images": len(bank.labels),
        "query_images": len(bank.labels if queries is None else queries.labels),
        "classes": len(bank.labels.unique()),
        "split": "leave one out" if queries is None else "train to test",
    }
    labels, judged = (bank.labels, train) if queries is None or test is None else (queries.labels, test)
    results = []
    for (k, temperature), hits in found.items():
        each = recalls(hits.first, labels)
        figures = hits.figures | {"balanced_accuracy": mean_recall(each)}
        results.append(
            Result(
                stage="knn",
                figures={f"knn_{name}": value for name, value in figures.items()},
                protocol={"k": k, "temperature": temperature, **shared},
                about=exported.about | {"per_class_recall": by_name(each, judged.class_name)} | shared_images,
                data_root=place_of(data),
            )
        )
    return Evaluated(results)


STAGE = Stage(run=run_knn, defaults=lambda path, protocol: KNN(data=data_of(path)), help=HELP["knn"])
