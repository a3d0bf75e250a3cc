"""What TensorBoard shows of a run, read back from its event files."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from selfsup.monitor.groups import GROUPS
from selfsup.pretraining import pretrain
from tests.support.tiny import tiny_run

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
EVERYTHING = dict.fromkeys(("scalars", "images", "histograms", "tensors"), 0)


def launch(folder: Path, number: int, **changes: Any) -> None:
    """Train; the event file gets the number in its name, by which they are read: else that is the second."""
    before = set((folder / "tensorboard").glob("*"))
    pretrain(tiny_run(folder, evaluate_every=1, log_every=1, **changes))
    (new,) = set((folder / "tensorboard").glob("*")) - before
    new.rename(new.with_name(f"events.out.tfevents.{number:010}.test"))


def read(folder: Path) -> Any:
    return accumulator.EventAccumulator(str(folder / "tensorboard"), EVERYTHING).Reload()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of 2 epochs of 8 steps, saved after step 5, killed after step 9, and begun again."""
    folder = tmp_path_factory.mktemp("board") / "run"
    launch(folder, 1, max_steps=5)
    saved = Path(shutil.copytree(folder / "checkpoints", folder.parent / "saved"))
    launch(folder, 2, max_steps=9)
    shutil.rmtree(folder / "checkpoints")
    saved.rename(folder / "checkpoints")
    launch(folder, 3)
    return folder


@pytest.fixture(scope="module")
def board(folder: Path) -> Any:
    return read(folder)


def test_scalars_are_in_groups_and_each_step_is_there_once(folder: Path, board: Any) -> None:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    wanted: dict[str, list[tuple[int, float]]] = {}
    for line in lines:
        for name in line.keys() - {"step", "time"}:
            wanted.setdefault(f"{GROUPS[name]}/{name}", []).append((line["step"], line[name]))
    assert set(board.Tags()["scalars"]) == wanted.keys()
    assert {name.partition("/")[0] for name in wanted} == {"train", "eval", "health", "speed"}
    for name, values in wanted.items():
        events = board.Scalars(name)
        assert [event.step for event in events] == [step for step, _ in values], name
        assert [event.value for event in events] == pytest.approx([value for _, value in values])
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, 17))
    assert [event.step for event in board.Scalars("eval/knn_top1")] == [8, 16]


def test_views_are_shown_at_the_start_and_after_evaluations(board: Any, tmp_path: Path) -> None:
    events = board.Images("views")
    assert [event.step for event in events] == [1, 6, 9]  # begun, begun again, evaluated after step 8
    for event in events:
        assert (event.width, event.height) == (8 * 16, 2 * 16)  # eight images, both views of each
        (tmp_path / "views.png").write_bytes(event.encoded_image_string)
        rows = np.asarray(PIL.Image.open(tmp_path / "views.png")).reshape(2, 16, 128, 3)
        assert (rows[0] != rows[1]).any()


def test_similarities_of_positives_and_negatives_are_spread_over_their_bins(board: Any) -> None:
    for name, count in (("positive", 16), ("negative", 16 * 15)):
        events = board.Histograms(f"similarity/{name}")
        assert [event.step for event in events] == list(range(1, 17))
        for event in events:
            found = event.histogram_value
            assert sum(found.bucket) == found.num == count
            assert -1 <= found.min <= found.max <= 1
    # The same batch as `alignment` of the last step: of unit rows 2 - 2 cos.
    last = board.Histograms("similarity/positive")[-1].histogram_value
    assert 2 - 2 * last.sum / last.num == pytest.approx(board.Scalars("health/alignment")[-1].value, rel=1e-4)


def test_runs_are_compared_by_their_settings_and_last_figures(folder: Path, board: Any, tmp_path: Path) -> None:
    """As the HPARAMS tab asks for them, of two runs; there is no third one beside them."""
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    launch(tmp_path / "other", 1, max_steps=2, method="moco")
    places = {"whole": folder / "tensorboard", "stopped": tmp_path / "other" / "tensorboard"}
    multiplexer = plugin_event_multiplexer.EventMultiplexer({name: str(place) for name, place in places.items()})
    multiplexer.Reload()
    context = base_plugin.TBContext(data_provider=data_provider.MultiplexerDataProvider(multiplexer, ""))
    backend, request = backend_context.Context(context), RequestContext()
    experiment = backend.experiment_from_metadata(request, "", True, backend.hparams_metadata(request, ""), [])
    columns = {info.name for info in experiment.hparam_infos}
    assert {"method", "method.temperature", "method.queue_size", "batch_size", "optimizer.learning_rate"} <= columns
    asked = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=10,
        allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_RUNNING, api_pb2.STATUS_UNKNOWN],
        col_params=[api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos],
    )
    groups = list_session_groups.Handler(request, backend, "", asked).run().session_groups
    found = {group.hparams["method"].string_value: group for group in groups}
    assert found.keys() == {"simclr", "moco"}
    assert found["simclr"].hparams["method.temperature"].number_value == 0.2
    (session,) = found["simclr"].sessions
    figures = {value.name.tag: (value.training_step, value.value) for value in session.metric_values}
    for name in ("train/loss", "eval/knn_top1"):
        assert figures[name] == (16, board.Scalars(name)[-1].value)
    assert [session.status for group in groups for session in group.sessions].count(api_pb2.STATUS_SUCCESS) == 1
    assert session.status == api_pb2.STATUS_SUCCESS
