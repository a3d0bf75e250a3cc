"""What accelerate reads from the environment changes no figure without a word."""

from pathlib import Path

import pytest
from accelerate.utils import DynamoBackend

from selfsup.run_folder.environment import environment
from selfsup.runtime import inherited
from selfsup.runtime.device import device_for
from selfsup.training.accelerator import make_accelerator, stage_device
from tests.support.tiny import tiny_run


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--grad-cache-chunk"),
        ("ACCELERATE_GRADIENT_CLIPPING", "1.0", "--clip-norm"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--compile"),
        ("ACCELERATE_MIXED_PRECISION", "bf16", "--precision"),
        ("ACCELERATE_MIXED_PRECISION", "fp8", "--precision"),
        ("ACCELERATE_TORCH_DEVICE", "cpu", "--device"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "true", "--shard-encoder"),
        ("ACCELERATE_USE_DEEPSPEED", "yes", "--shard-encoder"),
    ],
)
def test_what_would_change_a_run_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, remedy: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable) as caught:
        make_accelerator(tiny_run(tmp_path))
    assert remedy in str(caught.value)


def test_what_asks_for_nothing_passes_and_is_not_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables as accelerate's launcher always sets them; and one of a later version."""
    said = {
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_DYNAMO_MODE": "no such mode",
        "ACCELERATE_LATER": "1",
        "FSDP_VERSION": "no number",
    }
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    accelerator = make_accelerator(tiny_run(tmp_path, precision="bf16"))
    assert accelerator.gradient_accumulation_steps == 1
    assert accelerator.state.dynamo_plugin.backend == DynamoBackend.NO
    with inherited.hidden():
        assert not any(name in inherited.recorded() for name in said)
    launcher = environment(accelerator.device)["launcher"]
    assert {name: launcher.get(name) for name in said} == said
    with pytest.raises(ValueError, match="computes in fp32"):
        stage_device("auto")


def test_accelerates_cpu_is_carried_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert device_for("auto").type == "cuda"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert device_for("auto").type == "cpu"
