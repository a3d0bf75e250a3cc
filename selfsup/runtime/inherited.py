"""What a launcher says by environment variables, and what becomes of it here.

accelerate reads some hundred variables, and by some of them alone would compute something else than the run's settings
say: divide the loss, compile, train in another precision. So it is shown none of them while it is set up, and each
request is met in one of three ways: it is what the run has anyway, or it is carried out here (`--cpu`, FSDP 2), or it
is refused by name. All of them are recorded in environment.json.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

_PREFIXES = ("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_", "MEGATRON_LM_")
# These change where a process runs and what it prints, not what it computes: accelerate may see them.
_SHOWN = ("ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE", "ACCELERATE_LOG_LEVEL", "ACCELERATE_ENABLE_RICH")
_RECORDED = (
    "FORK_LAUNCHED",
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "USE_TORCH_XLA",
    "TORCHELASTIC_MAX_RESTARTS",
    "PYTORCH_ENABLE_MPS_FALLBACK",
)
_NOT_SET = ("", "no", "none", "n", "false", "f", "off", "0")


class _Refused(NamedTuple):
    variable: str
    flag: str  # of accelerate launch
    harmless: tuple[str, ...]  # values that ask for nothing
    remedy: str


_REFUSED = (
    _Refused(
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        "--gradient_accumulation_steps",
        ("1",),
        "batch_size is the whole batch of a step here; where it does not fit: --grad-cache-chunk 64",
    ),
    _Refused("ACCELERATE_GRADIENT_CLIPPING", "--gradient_clipping", _NOT_SET, "to clip the gradient: --clip-norm"),
    _Refused("ACCELERATE_DYNAMO_BACKEND", "--dynamo_backend", _NOT_SET, "to compile the encoder: --compile"),
    _Refused("ACCELERATE_TORCH_DEVICE", "ACCELERATE_TORCH_DEVICE", (), "to choose the device: --device"),
    _Refused("ACCELERATE_FP8_BACKEND", "--fp8_backend", _NOT_SET, "half precision is --precision bf16"),
    _Refused("ACCELERATE_DOWNCAST_BF16", "--downcast_bf16", _NOT_SET, "half precision is --precision bf16"),
    _Refused("ACCELERATE_USE_SAGEMAKER", "SageMaker's own way of several processes", _NOT_SET, "torchrun does it too"),
    _Refused(
        "ACCELERATE_USE_PARALLELISM_CONFIG",
        "--use_parallelism_config",
        _NOT_SET,
        "to divide the encoder among processes: --shard-encoder",
    ),
)


def is_set(variable: str) -> bool:
    """Whether a variable says yes."""
    return os.environ.get(variable, "").lower() not in _NOT_SET


def recorded() -> dict[str, str]:
    """What launchers, and the start of a command, have said by variables, for environment.json."""
    return {
        name: value for name, value in sorted(os.environ.items()) if name.startswith(_PREFIXES) or name in _RECORDED
    }


def check(precision: str) -> None:
    """Raise ValueError where accelerate is asked for something that would change what a run computes.

    Args:
        precision: of the run, fp32, bf16 or fp16; what trains nothing computes in fp32.
    """
    for variable, flag, harmless, remedy in _REFUSED:
        value = os.environ.get(variable)
        if value is not None and value.lower() not in harmless:
            raise ValueError(
                f"accelerate is asked for {flag} ({variable}={value}), which is not supported\n"
                f"launch without it and unset {variable}; {remedy}"
            )
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if asked not in ("", "no", precision):
        raise ValueError(
            f"accelerate is asked for --mixed_precision {asked} (ACCELERATE_MIXED_PRECISION), and this computes in "
            f"{precision}\nlaunch with --mixed_precision no; what is trained in half precision: --precision bf16"
        )


@contextmanager
def hidden() -> Iterator[None]:
    """Within, accelerate sees nothing of what launchers have said that could change what it does."""
    taken = {name: os.environ.pop(name) for name in recorded() if name.startswith(_PREFIXES) and name not in _SHOWN}
    try:
        yield
    finally:
        os.environ.update(taken)
