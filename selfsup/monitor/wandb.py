"""Runs of Weights & Biases."""

import json
import os

from torch import Tensor

from selfsup.monitor.logger import Ending, Opening, Setting, kept_id, pixels
from selfsup.output import message
from selfsup.packages import optional
from selfsup.storage.checkpoint import write_atomically

PROJECT = "selfsup"  # unless WANDB_PROJECT names another
_SECONDS = 45.0  # that a server may take at the beginning, and for the rest at the end


class WandB:
    """Logs to a run of Weights & Biases, whose id is kept in `wandb.json` of the run folder.

    See `selfsup.monitor.logger.Logger`. The environment variables of wandb rule. Where neither WANDB_MODE says so nor
    a key is there, nothing is sent: the run is kept in `wandb/` of the run folder, for `wandb sync`.
    """

    def __init__(self, opening: Opening) -> None:
        self._wandb = optional("wandb", "--log-to wandb")
        file = opening.folder / "wandb.json"
        known = kept_id(file)
        mode = os.environ.get("WANDB_MODE") or ("online" if self._known_there() else "offline")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or opening.folder.name,
            id=known,
            resume=None if known is None else "allow",
            dir=str(opening.folder),
            mode=mode,
            reinit="create_new",  # whatever else the program logs
            settings=self._wandb.Settings(
                silent=True,
                console="off",
                save_code=False,
                disable_git=True,
                init_timeout=_SECONDS,
                finish_timeout=_SECONDS,
                finish_timeout_raises=True,
            ),
        )
        write_atomically(file, (json.dumps({"id": self._run.id}) + "\n").encode())
        if known is None and mode == "offline":
            message(f"Weights & Biases: nothing is sent; later: wandb sync {opening.folder}/wandb/offline-run-*")
        elif known is None:
            message(f"Weights & Biases: {self._run.url or mode}")

    def _known_there(self) -> bool:
        """Whether there is a key; nobody is asked for one, here or over the network."""
        return self._wandb.run is not None or bool(self._wandb.login(prompt=False, verify=False))

    def settings(self, values: dict[str, Setting]) -> None:
        self._run.config.update(values, allow_val_change=True)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def image(self, name: str, step: int, picture: Tensor) -> None:
        self._run.log({name: self._wandb.Image(pixels(picture))}, step=step)

    def histogram(self, name: str, step: int, values: Tensor, edges: Tensor) -> None:
        counts, _ = values.histogram(edges)
        self._run.log({name: self._wandb.Histogram(np_histogram=(counts.numpy(), edges.numpy()))}, step=step)

    def finish(self, ending: Ending) -> None:
        self._run.finish(exit_code=int(ending == "failed"))
