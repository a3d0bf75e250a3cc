"""Whether the data that a stage takes from a run are still the ones that the run was trained on."""

import os
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfsup import distributed
from selfsup.config.settings import is_no_path, placed
from selfsup.data.identity import content_of, fingerprint_before
from selfsup.data.opening import open_training, with_labels
from selfsup.data.parts import open_data
from selfsup.data.settings import Data, Verify
from selfsup.evaluation.foreign import is_foreign
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.run_folder.same_data import brought_up, data_differences, from_before_content, with_content
from selfsup.stages.base import data_of
from selfsup.storage.untrusted import plain_name

_ON_LABELS = ("finetune", "linear", "linear_sweep")  # what is stored of stages that know images with a label alone
_named = ContextVar("named", default=False)


@contextmanager
def named_data() -> Iterator[None]:
    """Within this, whoever calls a stage has named its data himself: they are taken as they are.

    It makes a difference only where a run's own data are named: other ones are taken as they are anyway.
    """
    before = _named.set(True)
    try:
        yield
    finally:
        _named.reset(before)


def beside_named_data(data: Data, named: Sequence[str], flags: Set[str]) -> Data:
    """What is taken from the data of a run where the flags of a stage name other ones, with a word on the rest.

    A table of labels and test images of their own are of the run's images: they stay behind, and would else be those
    that are judged. How images are read, and the share that is held out, come along.

    Args:
        data: those of the run.
        named: by --data.root; none where it is not given.
        flags: the names of all flags that are given, as --data.labels.
    """
    if not named or placed(Data(root=tuple(named))).roots == placed(data).roots:
        return data
    stay: dict[str, Any] = {}
    if data.table and "--data.labels" not in flags:
        stay["labels"] = "auto"
    stay |= {name: "" for name in ("test_root", "labelled_root") if getattr(data, name)}
    stay = {name: value for name, value in stay.items() if f"--data.{name.replace('_', '-')}" not in flags}
    if os.environ.get("RANK", "0") == "0":
        told = [f"--data.{name.replace('_', '-')} {plain_name(getattr(data, name))}" for name in stay]
        if told:
            message(f"of the run's data, and not taken along to those that --data.root names: {', '.join(told)}")
        if data.holdout is not None and not {"--data.holdout", "--data.test-root"} & flags:
            message(f"as of the run's data {data.holdout:g} are held out to test; of none: --data.holdout None")
    if "labels" in stay:
        stay |= {name: getattr(Data(), name) for name in ("path_column", "split_column", "label_column")}
    if data.holdout is not None and "--data.test-root" in flags:
        stay["holdout"] = None
    return replace(data, **stay)


def require_data_of_run(path: Path, given: Data) -> None:
    """Make sure that what lies where the run's data were is what the run was trained on.

    A stage calls it before anything else. Nothing is asked of an encoder without a run, of generated data, of other
    data than the run's, and within `named_data`. Of several processes that have not joined yet the first looks, once.

    Args:
        path: a run folder or an encoder file.
        given: the data that the stage takes; `verify` "full" reads all files anew.

    Raises:
        ValueError: nothing is there any more, or something else; what differs is said, and the flag to give.
    """
    folder = RunFolder(path)
    looks = distributed.is_distributed() or os.environ.get("RANK", "0") == "0"
    if _named.get() or not looks or not folder.holds_run or is_foreign(path):
        return
    data, facts = data_of(path), folder.facts()
    other = placed(given).root != placed(data).root
    if other or "images" not in facts or all(root.partition(":")[0] in ("", "shapes") for root in data.roots):
        return
    if data.table and Data(labels=given.labels).table:
        data = replace(data, labels=given.labels)  # which may have been moved: what it says is told by content
    for root in (*data.roots, data.labelled_root, data.table):
        if not is_no_path(root) and not Path(root).expanduser().exists():
            raise ValueError(
                f"the data of {path} were at {root}, and nothing is there any more\n"
                "where they have been moved, say it by --data.root (labels: --data.labels), else give other data"
            )
    differing = _differing(path, data, facts, given.verify)
    if differing:
        raise ValueError(
            f"what is at {data.place} is not what {path} was trained on; {'; '.join(differing)}\n"
            "give by --data.root where the run's data are now; to judge on these all the same, --data.root "
            f"{' '.join(data.roots)}"
        )


def _differing(path: Path, data: Data, facts: dict[str, Any], verify: Verify) -> list[str]:
    pretrained = "method" in facts  # stages have no second domain
    # Without a word, but for two domains: the stage says what it finds there.
    source = open_training(data) if pretrained and data.labelled_root else open_data(data, "train")
    if RunFolder(path).saved_run().get("class") in _ON_LABELS:
        source = with_labels(source)
    content = content_of(source, verify, {"images": fingerprint_before(source)})
    contents = {"images": content}
    if from_before_content(facts["images"]) and not pretrained:
        # What was recorded then is of the images that were chosen from these: too little to tell them by.
        message(f"{path} is of an earlier release, which tells its data by a few names; they are taken as they are")
        return []
    return data_differences(path, brought_up(facts, with_content({}, contents), contents), contents)
