"""What people read of the result of a command: sentences and small tables, made of the JSON that programs read."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

Words = Callable[[dict[str, Any]], list[str]]
_WORST = 5  # classes that are named


def in_words(of: str, result: dict[str, Any], kept: str = "") -> list[str]:
    """The lines that are printed in place of the JSON object.

    Args:
        of: the command or the stage, as "pretrain" or "linear_features"; of others all is told, name by name.
        result: the JSON object.
        kept: the file that holds all of the result; empty: none.
    """
    if result.get("reason", "finished") != "finished":
        lines = _stopped(result)
    else:
        lines = _WORDS.get(of.partition("_")[0], _all_of_it)(result)
    return [*lines, f"all figures and how they came about: {kept}"] if kept else lines


def percent(share: float) -> str:
    """A share as people read it, "61.3 %"."""
    return f"{100 * share:.1f} %"


def counted(count: int, what: str) -> str:
    """A number with its noun, "1 test image" or "10,000 test images"."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def aligned(rows: list[list[str]]) -> list[str]:
    """A small table, two blanks in: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join([row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))]).rstrip() for row in rows
    ]


def _stopped(result: dict[str, Any]) -> list[str]:
    """Of a run that has not come to its end."""
    place = f" at step {result['step']:,} of {result['total_steps']:,}" if "total_steps" in result else ""
    why = f"signal {result['signal']}" if result.get("signal") else str(result["reason"])
    return [f"stopped{place} ({why}); the same command goes on from there"]


def _pretrain(result: dict[str, Any]) -> list[str]:
    took = timedelta(seconds=round(result["seconds"]))
    lines = [f"finished: step {result['step']:,} of {result['total_steps']:,}, {took} on {result['device']}"]
    found = result.get("report", {})
    if "knn_top1" in found:
        lines.append(_beside(found))
    elif "knn_top1" in result:
        probe = f", linear probe {percent(result['linear_top1'])}" if "linear_top1" in result else ""
        lines.append(f"kNN {percent(result['knn_top1'])}{probe} (last evaluation in the run)")
    elif "feature_rank" in found:
        std, rank = found["feature_std"], found["feature_rank"]
        lines.append(f"nothing to judge it by; features differ in {rank:.0f} directions (feature std {std:.2f})")
    return [*lines, f"run folder {result['run']}"]


def _dry_run(result: dict[str, Any]) -> list[str]:
    images = f"{counted(result['images'], 'image')}, {counted(result['steps_per_epoch'], 'step')} per epoch"
    caching = f", in chunks of {result['grad_cache_chunk']}" if result["grad_cache_chunk"] else ""
    evaluations = result["evaluations"]
    judging = _span(evaluations * result["seconds_evaluation"])
    judged = f", {judging} of it for {counted(evaluations, 'evaluation')}" if evaluations else ""
    clusters = (
        f"; clusters {_span(result['seconds_clustering'])} per epoch" if result["seconds_clustering"] >= 1 else ""
    )
    peak = result["peak_device_bytes"] or result["peak_host_bytes"]
    where = "the device" if result["peak_device_bytes"] else "the process"
    lines = [
        f"nothing was kept of these {counted(result['steps_taken'], 'step')}; a run would be:",
        f"{images}, {result['total_steps']:,} in all; batch {result['batch_size']:,}{caching}",
        f"{result['parameters'] / 1e6:.2f} M parameters are trained, on {result['device']} in {result['precision']}",
        f"{result['seconds_per_step']:.3g} s per step (the first {result['seconds_first_step']:.3g} s); about "
        f"{_span(result['seconds_expected'])} in all{judged}{clusters}",
        f"memory: peak of {where} {_size(peak)}; decoded images {_size(result['decoded_bytes'])}, "
        f"queue or bank {_size(result['memory_bytes'])}",
        f"disk: about {_size(result['disk_bytes'])} ({result['checkpoints']} checkpoints of "
        f"{_size(result['checkpoint_bytes'])}, encoder {_size(result['encoder_bytes'])}, log "
        f"{_size(result['log_bytes'])}); {_size(result['disk_free_bytes'])} are free",
    ]
    if result["largest_batch"] is not None:
        margin = percent(result["largest_batch_margin"])
        lines.insert(
            5, f"largest batch that fits: about {result['largest_batch']:,}, by an estimate that spares {margin}"
        )
    if result["disk_bytes"] > result["disk_free_bytes"]:
        lines.append("the disk has too little room: free some, keep fewer checkpoints (--keep-last, --keep-every)")
    if result["step"]:
        lines.append(f"the run in {result['folder']} is at step {result['step']:,}, and would go on from there")
    return lines


def _span(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


def _beside(found: dict[str, Any]) -> str:
    """kNN of the encoder, and of what it has to be better than, on the same images."""
    names = {"untrained_knn_top1": "untrained", "pixels_knn_top1": "raw pixels"}
    others = ", ".join(f"{name} {percent(found[key])}" for key, name in names.items() if key in found)
    return f"kNN {percent(found['knn_top1'])} on {_asked(found)}{'; ' if others else ''}{others}"


def _asked(result: dict[str, Any]) -> str:
    """The images that kNN judges."""
    if result["split"] == "leave one out":
        return f"{counted(result['query_images'], 'training image')}, each left out in turn"
    return counted(result["query_images"], "test image")


def _knn(result: dict[str, Any]) -> list[str]:
    chance = f"; chance is {percent(1 / result['classes'])}"
    found = [result, *result.get("others", [])]
    if len(found) == 1:
        top5, balanced = percent(result["knn_top5"]), percent(result["knn_balanced_accuracy"])
        return [
            f"kNN {percent(result['knn_top1'])} on {_asked(result)}{chance}",
            f"top-5 {top5}, balanced accuracy {balanced} (k = {result['k']}, T = {result['temperature']:g})",
        ]
    rows = [["k", "T", "top-1", "top-5", "balanced"]]
    for one in found:
        shares = (one[f"knn_{name}"] for name in ("top1", "top5", "balanced_accuracy"))
        rows.append([str(one["k"]), f"{one['temperature']:g}", *map(percent, shares)])
    return [f"kNN on {_asked(result)}{chance}", *aligned(rows)]


def _classifier(what: str, stage: str, learnt_from: str) -> Words:
    """Of one that was trained, and judged on test images."""

    def told(result: dict[str, Any]) -> list[str]:
        names = {"top5": "top-5", "balanced_accuracy": "balanced accuracy"}
        others = [
            f"{name} {percent(result[f'{stage}_{key}'])}" for key, name in names.items() if f"{stage}_{key}" in result
        ]
        learnt = counted(result[learnt_from], "labelled image")
        return [
            f"{what} {percent(result[f'{stage}_top1'])} on {counted(result['test_images'], 'test image')}",
            f"{', '.join(others)}; learnt from {learnt}",
        ]

    return told


def _distill(result: dict[str, Any]) -> list[str]:
    images = f"{result['judged_images']:,} {result['judged_on']}"
    if "distill_cosine" in result:
        return [f"student's features have a cosine of {result['distill_cosine']:.3f} with the teacher's on {images}"]
    agrees = f"gives the teacher's answer for {percent(result['agreement'])}"
    if "distill_top1" not in result:
        return [f"the student {agrees} of {images}, which have no labels"]
    student, teacher = percent(result["distill_top1"]), percent(result["teacher_top1"])
    return [f"student {student}, teacher {teacher} on {images}; the student {agrees}"]


def _evaluate(result: dict[str, Any]) -> list[str]:
    top5, balanced, error = (percent(result[f"evaluate_{name}"]) for name in ("top5", "balanced_accuracy", "ece"))
    lines = [
        f"right about {percent(result['evaluate_top1'])} of {counted(result['images'], 'image')}",
        f"top-5 {top5}, balanced accuracy {balanced}, expected calibration error {error}",
    ]
    judged = [(name, each) for name, each in result["per_class"].items() if each["images"]]
    worst = sorted(judged, key=lambda item: float(item[1]["recall"]))[:_WORST]
    rows = [[name, percent(each["recall"]), f"{each['images']:,}"] for name, each in worst]
    told = f"lowest recall, of the {len(judged):,} classes that have images:"
    return [*lines, told, *aligned([["class", "recall", "images"], *rows])]


def _retrieval(result: dict[str, Any]) -> list[str]:
    names = {"map": "mAP", "map_at_r": "MAP@R"}
    names |= {key: key.replace("recall_at_", "Recall@") for key in result if key.startswith("recall_at_")}
    rows = [[names[key], percent(value)] for key, value in result.items() if key in names]
    return [f"retrieval, mean over {result['query_images']:,} queries", *aligned(rows)]


def _cluster(result: dict[str, Any]) -> list[str]:
    lines = [f"{counted(result['clusters'], 'cluster')} of {counted(result['images'], 'image')}"]
    if "noise" in result:
        lines[0] += f", {percent(result['noise'])} of them in none"
    names = {"nmi": "NMI", "ari": "ARI"}
    told = [f"{name} {result[key]:.3f}" for key, name in names.items() if key in result]
    told += [f"purity {percent(result['purity'])}"] if "purity" in result else []
    sizes = [f"{name} {result[f'{name}_cluster']:,}" for name in ("smallest", "median", "largest") if not told]
    return [*lines, ", ".join(told) if told else f"images in a cluster: {', '.join(sizes)}"]


def _embed(result: dict[str, Any]) -> list[str]:
    return [f"{counted(result['images'], 'image')}, {result['dimension']:,} numbers of each, in {result['out']}"]


def _semi(result: dict[str, Any]) -> list[str]:
    """The table has been shown by the command itself."""
    gain = 100 * result["gain_top1"]
    return [f"fine-tuning is {abs(gain):.1f} points {'better' if gain >= 0 else 'worse'} than training from scratch"]


def _predict(result: dict[str, Any]) -> list[str]:
    unread = result["unreadable_images"]
    return [
        f"{counted(result['images'], 'image')}{f', {unread:,} of them unreadable' if unread else ''}, a row of each "
        f"in {result['out']}"
    ]


def _report(result: dict[str, Any]) -> list[str]:
    """The verdict has been said by the command itself."""
    return [f"{result['report']}: {result['bytes'] / 1e6:.1f} MB, made in {result['seconds']:.0f} s"]


def _nothing_more(result: dict[str, Any]) -> list[str]:
    """The command has shown it itself."""
    return []


def _all_of_it(result: dict[str, Any]) -> list[str]:
    """What there is, name by name; for a command without words of its own."""
    told = {name: _text(value) for name, value in result.items() if name not in ("reason", "signal")}
    rows = [(name.replace("_", " "), text) for name, text in told.items() if text]
    width = max((len(name) for name, _ in rows), default=0)
    return [f"  {name:{width}}  {text}" for name, text in rows]


def _text(value: Any) -> str:
    """A value in a line; nothing of one that has an inside, and belongs to programs."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = ", ".join(value)
    return value if isinstance(value, str) else ""


_WORDS: dict[str, Words] = {
    "pretrain": _pretrain,
    "dry-run": _dry_run,
    "knn": _knn,
    "linear": _classifier("linear probe", "linear", "train_images"),
    "finetune": _classifier("fine-tuned classifier", "finetune", "labelled_images"),
    "supervised": _classifier("classifier trained from scratch", "finetune", "labelled_images"),
    "distill": _distill,
    "evaluate": _evaluate,
    "retrieval": _retrieval,
    "cluster": _cluster,
    "embed": _embed,
    "semi": _semi,
    "predict": _predict,
    "report": _report,
    "compare": _nothing_more,
}
