"""Alarms of collapse: an encoder that answers all images alike, or in few directions, while the loss looks well."""

import torch
from torch import Tensor

from selfsup import distributed
from selfsup.losses.diagnostics import effective_rank
from selfsup.monitor.observer import Diverged, Observer, Report
from selfsup.output import message

ROWS = 512  # of the global batch, whose directions are counted
REPORTS = 3  # in a row that must look alike before there is an alarm
# Of `feature_std`, which is near 1 for evenly spread features: cosines between images are above 0.9999 then. Healthy
# runs begin with 0.03 or more.
CONSTANT = 0.01
# Directions in which features differ. Healthy runs have more than 4 at any time, also in batches of 16.
DIRECTIONS = 3.0
# Of the directions that there can be. Where a batch shows k classes, the best that a method with labels can do is to
# map them to k points, which differ in k - 1 directions.
_SHARE = 0.75

REMEDY = (
    "the loss has found a way around the task\n"
    "try a lower --optimizer.learning-rate or a longer warm-up, then stronger augmentation, more negatives or a higher "
    "temperature; an earlier checkpoint may still be well"
)


class Health(Observer):
    """Watches the embeddings of a run, as its reports show them.

    Args:
        by_labels: the method pulls the images of a class together.
        stops: whether an alarm ends the run, by `Diverged`.
    """

    def __init__(self, by_labels: bool, stops: bool = False) -> None:
        self._by_labels, self._stops = by_labels, stops
        self._alarm = ""  # of the last report
        self._least = 0.0  # directions that there should be
        self._in_a_row = 0  # reports that show a collapse

    def report(self, report: Report) -> None:
        if report.shown is not None:
            report.figures.update(self.figures(report.shown[0], report.labels))
        self._alarm = self.judge(report.step, report.figures)
        if self._alarm:
            report.figures["collapse_alarm"] = 1

    def after_step(self, step: int, figures: dict[str, float] | None) -> None:
        if self._alarm and self._stops:
            raise Diverged(self._alarm)

    def figures(self, rows: Tensor, labels: Tensor) -> dict[str, float]:
        """Directions of the embeddings of a step, for its report; the same in every process.

        Args:
            rows: (n, D) unit rows of this process.
            labels: (B,) of this process's images.

        Returns:
            "rank_me": RankMe (Garrido et al. 2023) of at most 512 embeddings of the global batch. "feature_rank": the
            same about their mean: the directions in which images differ. Nothing where they are not finite.
        """
        device = rows.device
        rows = distributed.gather(rows[: max(1, ROWS // distributed.world_size())].float())
        shown = distributed.gather(labels)
        found = torch.zeros(3, dtype=torch.float64)
        if distributed.rank() == 0 and rows.isfinite().all():
            rows = rows.cpu().double()
            possible = min(rows.shape[0] - 1, rows.shape[1])
            if self._by_labels:
                possible = min(possible, len(shown.unique()) - 1)
            least = min(DIRECTIONS, _SHARE * possible)
            found = torch.tensor([effective_rank(rows), effective_rank(rows - rows.mean(dim=0)), least])
        # All must judge alike, and their processors may round differently.
        rank_me, feature_rank, self._least = distributed.from_first(found.float().to(device)).tolist()
        return {"rank_me": rank_me, "feature_rank": feature_rank} if rank_me else {}

    def judge(self, step: int, figures: dict[str, float]) -> str:
        """An alarm, as a sentence for the person, where the last 3 reports show a collapse; else empty.

        Args:
            step: for the message, which is shown when an alarm begins.
            figures: of the report, as means over processes; those of `figures` among them.
        """
        if not {"feature_std", "feature_rank"} <= figures.keys():
            return ""
        constant = figures["feature_std"] < CONSTANT
        few = figures["feature_rank"] < self._least
        self._in_a_row = self._in_a_row + 1 if constant or few else 0
        if self._in_a_row < REPORTS:
            return ""
        what = (
            f"all images get nearly the same feature (feature_std {figures['feature_std']:.1g}, healthy is 0.1 to 1)"
            if constant
            else f"features differ in {figures['feature_rank']:.1f} directions only (feature_rank)"
        )
        alarm = f"collapse at step {step}: {what}; {REMEDY}"
        if self._in_a_row == REPORTS and distributed.rank() == 0:
            message(alarm)
        return alarm
