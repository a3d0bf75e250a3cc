"""A part of `tools.gpu_check`: SimCLR, ResNet-18, CIFAR-10, batch 512, bf16, for the minutes that are left."""

import threading
from dataclasses import replace
from pathlib import Path

from selfsup.config.recipe_files import load_recipe
from selfsup.data.opening import open_training
from selfsup.data.settings import Data
from selfsup.optim.schedules import Horizon
from selfsup.pretraining import Run, pretrain
from selfsup.runtime.device import device_for
from tools.benchmarks.epochs import Epoch, epochs_of, first_to_reach
from tools.gpu.asked import Asked
from tools.gpu.images import as_array, found_cifar10

TARGETS = (0.80, 0.85, 0.90)  # kNN, whose times are told
FEW = 96  # images, where all is small
SPARE = 15  # seconds for the last checkpoint and the last evaluation


def check_learning(asked: Asked) -> bool:
    """The shipped recipe with a kNN on all images after every epoch; goes on where an earlier call stopped."""
    if asked.left < SPARE + 5:
        asked.tell(ok=False, error=f"{asked.left:.0f} s are left, too few to begin")
        return False
    run = settings(asked)
    count = len(open_training(run.data))
    epochs = Epochs(asked, Path(run.folder) / "metrics.jsonl", Horizon(count, run.batch_size, 1).steps_per_epoch, run)
    with epochs:
        result = pretrain(run)
    earlier = epochs.before >= run.epochs
    well = result["step"] > 0 and (epochs.told > 0 or earlier)
    left = "an earlier call has finished this run" if earlier else "the same command goes on"
    asked.tell(ok=well, **result, left_out="" if result["reason"] == "finished" and not earlier else left)
    return well


def settings(asked: Asked) -> Run:
    """The recipe, as long as is asked for, and stopped in time."""
    recipe: Run = load_recipe("simclr_cifar10_cpu" if asked.small else "simclr_cifar10")
    found = [] if asked.small else found_cifar10(asked.data)
    root = f"shapes:{FEW}" if asked.small else str(as_array(found, asked.out).resolve()) if found else "shapes"
    return replace(
        recipe,
        # One folder for each kind of images: a run never goes on with others.
        folder=str(asked.out / ("small" if asked.small else "learning" if found else "learning_shapes")),
        data=Data(root=root),
        epochs=2 if asked.small else asked.epochs,
        batch_size=32 if asked.small else recipe.batch_size,
        precision="bf16" if device_for("auto").type == "cuda" else "fp32",  # which CPUs are slow in
        evaluate_every=1,
        knn_bank=50_000,
        knn_queries=10_000,
        probe_l2=None,
        log_every=1_000_000,  # only at the ends of epochs: the rate is then that of the epoch
        save_minutes=1.0,
        max_minutes=(asked.left - SPARE) / 60,
    )


class Epochs(threading.Thread):
    """Tells every epoch as soon as its kNN is logged: seconds of training, kNN, and when a target was reached."""

    def __init__(self, asked: Asked, metrics: Path, steps: int, run: Run) -> None:
        super().__init__(daemon=True)
        self.asked, self.metrics, self.steps, self.run_told = asked, metrics, steps, run
        self.over = threading.Event()
        self.before = len(self._epochs())  # told by earlier calls
        self.told = 0

    def __enter__(self) -> "Epochs":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()
        self._tell()

    def run(self) -> None:
        while not self.over.wait(0.5):
            self._tell()

    def _epochs(self) -> list[Epoch]:
        """Of all calls."""
        return epochs_of(self.metrics, self.steps, self.run_told.batch_size)

    def _tell(self) -> None:
        epochs = self._epochs()
        for number in range(self.before + self.told, len(epochs)):
            epoch = epochs[number]
            facts = {"epoch": epoch.epoch, "seconds": round(epoch.seconds, 2)}
            facts |= {"training_seconds": round(epoch.training_seconds, 1), "knn_top1": epoch.knn_top1}
            self.asked.tell(**facts, epochs=self.run_told.epochs, data=self.run_told.data.place)
            for target in TARGETS:
                if first_to_reach(epochs[: number + 1], target) is epoch:
                    self.asked.tell(reached=target, epoch=epoch.epoch, training_seconds=facts["training_seconds"])
            self.told += 1
