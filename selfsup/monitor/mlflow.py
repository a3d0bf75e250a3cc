"""Runs of MLflow."""

import json
import os
import time

from torch import Tensor

from selfsup.monitor.logger import Ending, Opening, Setting, kept_id, pixels
from selfsup.output import message
from selfsup.packages import optional
from selfsup.storage.checkpoint import write_atomically

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
        if not uri:
            uri = (opening.folder / "mlflow").absolute().as_uri()
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3 wants files to be asked for
        self._client = self._mlflow.MlflowClient(tracking_uri=uri)
        file = opening.folder / "mlflow.json"
        known = kept_id(file)
        self._new = known is None
        if known is None:
            run = self._client.create_run(self._experiment(), run_name=opening.folder.name)
            known = str(run.info.run_id)
            write_atomically(file, (json.dumps({"id": known}) + "\n").encode())
            message(f"MLflow: run {known} in {uri}")
        else:
            self._client.update_run(known, status="RUNNING")
        self._id = known

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
