"""Runs of MLflow."""

import json
import os
import time

from torch import Tensor

from selfsup.monitor.logger import Ending, Opening, Setting, kept_id, pixels
from selfsup.output import message
from selfsup.packages import optional
from selfsup.storage.checkpoint import write_atomically
from selfsup.storage.untrusted import plain_name

EXPERIMENT = "selfsup"  # unless MLFLOW_EXPERIMENT_NAME names another
_STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_AT_ONCE = 100  # parameters that a server takes in one call


class MLflow:
    """Logs to a run of MLflow, whose id is kept in `mlflow.json` of the run folder.

    See `selfsup.monitor.logger.Logger`. MLFLOW_TRACKING_URI names the server or the store; without it `mlflow/` of the
    run folder is one. MLflow knows no histograms: their counts are JSON files among the artifacts.
    """

    def __init__(self, opening: Opening) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # nothing is sent but to the store
        self._mlflow = optional("mlflow", "--log-to mlflow")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or ""
        own = not uri
        if own:
            uri = (opening.folder / "mlflow").absolute().as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 wants files to be asked for
        self._client = self._mlflow.MlflowClient(tracking_uri=uri)
        file = opening.folder / "mlflow.json"
        known = kept_id(file)
        self._new = known is None
        if known is None:
            run = self._client.create_run(self._experiment(), run_name=opening.folder.name)
        else:
            run = self._client.get_run(known)
        if own:
            _require_within(str(run.info.artifact_uri), uri)
        self._id = str(run.info.run_id)
        if self._new:
            write_atomically(file, (json.dumps({"id": self._id}) + "\n").encode())
            message(f"MLflow: run {self._id} in {uri}")
        else:
            self._client.update_run(self._id, status="RUNNING")

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        found = self._client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self._client.create_experiment(name))

    def settings(self, values: dict[str, Setting]) -> None:
        if not self._new:  # what is there already cannot be written again
            return
        parameters = [self._mlflow.entities.Param(name, str(value)) for name, value in values.items()]
        for first in range(0, len(parameters), _AT_ONCE):
            self._client.log_batch(self._id, params=parameters[first : first + _AT_ONCE])

    def scalars(self, step: int, values: dict[str, float]) -> None:
        now = round(1000 * time.time())
        metrics = [self._mlflow.entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def image(self, name: str, step: int, picture: Tensor) -> None:
        self._client.log_image(self._id, pixels(picture), key=name, step=step)

    def histogram(self, name: str, step: int, values: Tensor, edges: Tensor) -> None:
        counts, _ = values.histogram(edges)
        content = {"step": step, "edges": edges.tolist(), "counts": counts.tolist()}
        self._client.log_dict(self._id, content, f"histograms/{name}/step_{step:08}.json")

    def finish(self, ending: Ending) -> None:
        self._client.set_terminated(self._id, status=_STATUS[ending])


def _require_within(place: str, store: str) -> None:
    """Raise ValueError where pictures would go elsewhere than into the store, whose files may have come from anyone."""
    if not place.startswith(f"{store}/") or ".." in place or "%" in place.removeprefix(store):
        raise ValueError(f"mlflow/ names another place, {plain_name(place)}; remove it and mlflow.json for a new run")
