"""Event files for TensorBoard."""

from torch import Tensor

from selfsup.monitor.logger import Ending, Opening, Setting


class TensorBoard:
    """Writes `tensorboard/` of the run folder. See `selfsup.monitor.logger.Logger`.

    A run that goes on has TensorBoard forget the steps that will be taken again. Its settings are in the run itself and
    not, as by `SummaryWriter.add_hparams`, in another one beside it; no table of columns is written, for TensorBoard
    would take that of the first run for all: without one it shows whatever differs between the runs, and the last
    figures of each.
    """

    def __init__(self, opening: Opening) -> None:
        from torch.utils.tensorboard import SummaryWriter  # takes a second to import

        self._writer = SummaryWriter(str(opening.folder / "tensorboard"), purge_step=opening.step + 1)

    def settings(self, values: dict[str, Setting]) -> None:
        from torch.utils.tensorboard.summary import hparams

        # A bool would be taken for a number.
        shown = {name: str(value) if isinstance(value, bool) else value for name, value in values.items()}
        _, start, self._end = hparams(shown, {})
        self._writer._get_file_writer().add_summary(start)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, step: int, picture: Tensor) -> None:
        self._writer.add_image(name, picture, step)

    def histogram(self, name: str, step: int, values: Tensor, edges: Tensor) -> None:
        self._writer.add_histogram(name, values, step, bins=edges.numpy())

    def finish(self, ending: Ending) -> None:
        if ending == "finished":
            self._writer._get_file_writer().add_summary(self._end)
        self._writer.close()
