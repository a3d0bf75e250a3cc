"""How something is trained, as every trained stage is told, and how that ended."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from selfsup.config.checks import require
from selfsup.config.settings import changed_default, execution, require_finite
from selfsup.devices.choice import Device
from selfsup.monitor.logger import LoggerName
from selfsup.optim.optimizers import OptimizerConfig
from selfsup.optim.schedules import Cosine, Schedule
from selfsup.runtime.arithmetic import Precision


@dataclass(frozen=True, kw_only=True)
class Training:
    """How something is trained: the fields that every trained stage shares."""

    epochs: int
    batch_size: int  # global: over all processes
    optimizer: OptimizerConfig
    schedule: Schedule = Cosine()
    seed: int = 0
    precision: Precision = "auto"  # auto: bf16 on a GPU that has it, else fp32; a run keeps what it began with
    compile: bool = False  # the encoder, by torch.compile
    deterministic: bool = True  # on a GPU: only kernels that give the same bits every time
    clip_norm: float | None = None  # largest norm of the whole gradient
    # Gradient caching, for batches that do not fit into memory: images of each process that are embedded at a time;
    # must divide its part of the batch. auto: all at once where they fit, else as many as fit, which a run keeps. None:
    # all at once.
    grad_cache_chunk: int | Literal["auto"] | None = None
    # Batch norm then. chunk: over each chunk. frozen: by statistics of the whole batch that a pass ahead found, and
    # through which no gradient flows.
    grad_cache_batch_norm: Literal["chunk", "frozen"] = "chunk"
    # In several processes: each holds a part of the encoder's weights, their gradients and optimiser state (FSDP2).
    shard_encoder: bool = execution(False)
    # Steps in a row that are left out at most, by all processes, because the loss, the gradient or the input of one is
    # not finite; one more stops the run. None: nobody looks, and nothing in a step waits for the device.
    max_bad_steps: int | None = execution(5)
    stop_on_collapse: bool = execution(False)  # stop where there would only be an alarm
    folder: str = execution("")  # run folder; empty: runs/<name>
    max_steps: int | None = execution(None)  # stop after this step, as max_minutes does
    max_minutes: float | None = execution(None)  # save and stop after this time; the same command goes on
    device: Device = execution("auto")  # a CUDA GPU, else an Apple GPU (mps), else the CPU
    workers: int = execution(2)  # processes that decode photographs; arrays need none
    log_every: int = execution(20)  # steps
    # What is told of the run beside metrics.jsonl: any of tensorboard, wandb, mlflow.
    log_to: tuple[LoggerName, ...] = execution(("tensorboard",))
    # Epochs between online evaluations; 0: never. auto: as few as keep them at 3 % of what training takes.
    evaluate_every: int | Literal["auto"] = changed_default("auto", before=1, in_number=3, relevant=False)
    hang_minutes: float = execution(30.0)  # without any movement, until a run of several processes is ended
    save_minutes: float = execution(10.0)  # that a run loses when it is killed, at most or little more
    save_steps: int | None = execution(None)  # steps between checkpoints, beside those by save_minutes
    save_async: bool = execution(True)  # training goes on while a checkpoint is written; costs a copy on the host
    keep_last: int = execution(2)  # newest checkpoints that stay
    keep_every: int = execution(0)  # epochs between checkpoints that are made, and never removed; 0: none

    def __post_init__(self) -> None:
        require_finite(self)
        for name in ("epochs", "batch_size", "log_every", "keep_last"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        require(
            self.clip_norm is None or self.clip_norm > 0,
            f"clip_norm is {self.clip_norm}; it must be positive, or None for no clipping",
        )
        self._check_caching()
        known = get_args(LoggerName)
        require(
            set(self.log_to) <= set(known) and len(set(self.log_to)) == len(self.log_to),
            f"log_to is {' '.join(map(str, self.log_to))}; wanted each at most once, and of {', '.join(known)}",
        )
        require(
            self.max_bad_steps is None or self.max_bad_steps >= 0,
            f"max_bad_steps is {self.max_bad_steps}; give 0 to stop at the first, or None to look for none",
        )
        require(self.max_steps is None or self.max_steps >= 1, f"max_steps is {self.max_steps}; it must be at least 1")
        require(
            self.save_steps is None or self.save_steps >= 1,
            f"save_steps is {self.save_steps}; it must be at least 1, or None for save_minutes alone",
        )
        require(self.hang_minutes > 0, f"hang_minutes is {self.hang_minutes}; it must be positive, such as 30")
        require(
            self.evaluate_every == "auto" or self.evaluate_every >= 0,
            f"evaluate_every is {self.evaluate_every}; give epochs from 1 on, 0 for never, or auto",
        )
        for name in ("seed", "workers", "keep_every", "save_minutes", "max_minutes"):
            require((getattr(self, name) or 0) >= 0, f"{name} is {getattr(self, name)}; it must not be negative")

    @property
    def evaluation_interval(self) -> int:
        """Epochs between evaluations, 0 for never; "auto" is 1 until the stage has put a number in its place."""
        return 1 if self.evaluate_every == "auto" else self.evaluate_every

    def _check_caching(self) -> None:
        chunk, frozen = self.grad_cache_chunk, self.grad_cache_batch_norm == "frozen"
        require(
            chunk is None or chunk == "auto" or chunk >= 1,
            f"grad_cache_chunk is {chunk}; give 1 or more, such as 64, auto for what fits, or None for no chunks",
        )
        require(
            not frozen or chunk is not None,
            'grad_cache_batch_norm "frozen" is for chunks; give grad_cache_chunk too, such as 64',
        )
        require(
            not frozen or not self.compile,
            'compile knows no batch norm by constants; use grad_cache_batch_norm "chunk", or no compile',
        )


class Outcome(NamedTuple):
    """How `fit` ended."""

    step: int
    total_steps: int
    reason: Literal["finished", "max-minutes", "max-steps", "signal"]
    signal: int  # the signal's number, or 0

    @property
    def finished(self) -> bool:
        return self.reason == "finished"
