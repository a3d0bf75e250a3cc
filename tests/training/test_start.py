"""Training that starts from an encoder trained before."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from selfsup.data.sampling import ClassBalanced
from selfsup.data.sources import open_source
from selfsup.evaluation.encoder import load_encoder
from selfsup.models.resnet import ResNet
from selfsup.pretraining import build_method, pretrain
from tests.support.tiny import METHODS, tiny_run


def test_a_run_starts_from_an_exported_encoder(tmp_path: Path) -> None:
    pretrain(tiny_run(tmp_path / "first", epochs=1))
    trained = load_encoder(tmp_path / "first").encoder.state_dict()
    run = tiny_run(tmp_path / "second", "moco", start=str(tmp_path / "first"))
    method = build_method(run, open_source("shapes:128"))
    for encoder in (method.encoder, method.get_submodule("key_encoder")):
        state = encoder.state_dict()
        assert all(torch.equal(state[name], value) for name, value in trained.items())
    pretrain(replace(run, max_steps=3))
    pretrain(tiny_run(tmp_path / "other", seed=1, epochs=1))
    with pytest.raises(ValueError, match="start"):  # another start is another run
        pretrain(replace(run, start=str(tmp_path / "other")))
    assert pretrain(run)["reason"] == "finished"


def test_another_network_is_refused(tmp_path: Path) -> None:
    pretrain(tiny_run(tmp_path / "first", epochs=1))
    run = tiny_run(tmp_path / "second", start=str(tmp_path / "first"), encoder=ResNet.Config(depth=18))
    with pytest.raises(ValueError, match=r"not the one of this run: encoder.depth: \"small\" -> 18"):
        pretrain(run)
    with pytest.raises(ValueError, match="there is no encoder at"):
        pretrain(replace(run, start=str(tmp_path / "absent")))


def test_clusters_are_asked_only_of_a_method_that_finds_them(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", "xbm", sampling=ClassBalanced(per_class=4, singletons="once"))
    simclr = replace(tiny_run(tmp_path / "run", "simclr"), sampling=run.sampling)
    unlabelled = open_source("shapes:128", labels="none")
    with pytest.raises(ValueError, match=r"SimCLR finds none; use SpCL, or sampling=Shuffled\(\)"):
        build_method(simclr, unlabelled)
    build_method(simclr, open_source("shapes:128"))
    build_method(replace(simclr, method=METHODS["spcl"], augment=run.augment), unlabelled)
