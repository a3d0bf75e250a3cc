"""Weights & Biases and MLflow as modules that only note what they are asked."""

import importlib.machinery
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Noted:
    """An object whose methods note how they were called, and return what they are to."""

    def __init__(self, **returned: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._returned = returned

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*words: Any, **named: Any) -> Any:
            self.calls.append((name, words, named))
            return self._returned.get(name)

        return call

    def named(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Arguments of the calls of one method."""
        return [(words, named) for called, words, named in self.calls if called == name]


class _Values(list[Any]):
    """What a run of wandb has as `config`."""

    def update(self, values: dict[str, Any], allow_val_change: bool) -> None:
        self.append(values)


def install_wandb(monkeypatch: pytest.MonkeyPatch, key: str = "") -> tuple[ModuleType, Noted]:
    """A module `wandb`, and the run that it gives."""
    run = Noted()
    run.id, run.url, run.config = "abc123", "", _Values()  # type: ignore[attr-defined]  # as there
    module = _module(monkeypatch, "wandb")
    started = Noted(init=run)
    module.__dict__.update(
        started=started,
        init=started.init,
        run=None,
        login=lambda prompt, verify: bool(key),
        Settings=lambda **settings: settings,
        Image=lambda pixels: ("image", pixels),
        Histogram=lambda np_histogram: ("histogram", *np_histogram),
    )
    return module, run


def install_mlflow(monkeypatch: pytest.MonkeyPatch, store: str) -> Noted:
    """A module `mlflow`, whose runs lie in a store, by its URI; gives the client."""
    run = SimpleNamespace(info=SimpleNamespace(run_id="f" * 32, artifact_uri=f"{store}/7/{'f' * 32}/artifacts"))
    client = Noted(create_experiment="7", create_run=run, get_run=run)
    module = _module(monkeypatch, "mlflow")
    made = Noted(MlflowClient=client)
    entities = SimpleNamespace(Param=lambda name, value: (name, value), Metric=lambda *parts: parts)
    module.__dict__.update(made=made, MlflowClient=made.MlflowClient, entities=entities)
    return client


def _module(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, name, module)
    return module
