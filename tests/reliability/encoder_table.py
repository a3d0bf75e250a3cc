"""Every method on every kind of encoder: `python -m tests.reliability.encoder_table [--jobs 2] [--out docs]`.

Encoders: a small ResNet, a vision transformer and a ConvNeXt of timm with drop-path, and one of a user's own. In each
cell a run of two epochs is stopped after 5 steps and gone on with, and another one is not stopped: all tensors must be
equal, bit by bit, the encoder must have learnt, and its file must be read and embed images. Then one epoch with cached
gradients must end with finite weights. Writes contract_table.md. Ends with 1 where a cell fails.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import replace
from importlib import metadata
from pathlib import Path

from tools import checkout
from tools.checkout import ROOT

KINDS = {"resnet": "small ResNet", "vit": "timm ViT", "convnext": "timm ConvNeXt", "own": "a user's own"}
Cell = tuple[str, str]


def check(cell: Cell) -> str:
    """What is wrong with a cell; nothing where all is well."""
    method, kind = cell
    with tempfile.TemporaryDirectory() as folder:
        try:
            return _check(method, kind, Path(folder))
        except Exception as error:  # the table tells of it
            return f"{type(error).__name__}: {error}"


def _check(method: str, kind: str, folder: Path) -> str:
    import numpy as np
    import torch

    import selfsup
    from selfsup.augment.views import Augment
    from selfsup.models.resnet import ResNet
    from selfsup.pretraining import pretrain
    from tests.models.test_encoders import ENCODERS, weights
    from tests.support.tiny import tiny_run

    torch.set_num_threads(1)
    whole = tiny_run(folder / "whole", method, "shapes:128")
    encoder = ENCODERS.get(kind, ResNet.Config(depth="small", stem="small", width=0.25))
    views = whole.augment.views
    if kind == "convnext":  # which makes images 32 times smaller
        views = tuple(replace(view, size=32) for view in views)
    whole = replace(whole, encoder=encoder, augment=Augment(views=views))
    pretrain(whole)
    parted = replace(whole, folder=str(folder / "parted"))
    pretrain(replace(parted, max_steps=5))
    pretrain(parted)
    expected, found = weights(whole), weights(parted)
    other = [name for name, value in expected.items() if not torch.equal(value, found[name])]
    if other or expected.keys() != found.keys():
        return f"{len(other)} tensors differ after going on, the first is {other[0] if other else 'missing'}"
    torch.manual_seed(whole.seed)
    first = encoder.build().state_dict()
    if all(
        torch.equal(value, expected[f"encoder.{name}"])
        for name, value in first.items()
        if f"encoder.{name}" in expected
    ):
        return "the encoder has learnt nothing"
    features = selfsup.load(folder / "whole", device="cpu").embed(np.zeros((2, 40, 40, 3), dtype=np.uint8))
    if features.shape != (2, encoder.build().feature_dim) or not torch.isfinite(features).all():
        return f"features are {tuple(features.shape)}"
    cached = replace(whole, folder=str(folder / "cached"), grad_cache_chunk=8, epochs=1)
    pretrain(cached)
    wrong = [
        name for name, value in weights(cached).items() if value.is_floating_point() and not value.isfinite().all()
    ]
    return f"{wrong[0]} is not finite with cached gradients" if wrong else ""


def table(found: dict[Cell, str], methods: list[str], seconds: float) -> str:
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "timm"))
    lines = [
        "# Every method on every kind of encoder",
        "",
        "Written by `python -m tests.reliability.encoder_table`. A cell is ok where a run that is stopped and gone on",
        "with ends with the bits of one that is not, the encoder has learnt, its file is read and embeds images, and a",
        f"run with cached gradients ends with finite weights. {packages}; {len(found)} cells, {seconds:.0f} s.",
        "",
        "| method | " + " | ".join(KINDS.values()) + " |",
        "|---" * (len(KINDS) + 1) + "|",
    ]
    for method in methods:
        told = [found[method, kind] or "ok" for kind in KINDS]
        lines.append(f"| {method} | " + " | ".join(told) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    checkout.begin()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.encoder_table", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the table")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    parser.add_argument("names", nargs="*", help="methods; all without")
    options = parser.parse_args()
    from tests.support.tiny import METHODS

    methods = options.names or list(METHODS)
    cells = [(method, kind) for method in methods for kind in KINDS]
    begin = time.monotonic()
    with multiprocessing.get_context("forkserver").Pool(options.jobs) as pool:
        found = dict(zip(cells, pool.map(check, cells, chunksize=1), strict=True))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "contract_table.md").write_text(table(found, methods, time.monotonic() - begin))
    bad = [f"{'-'.join(cell)}: {told}" for cell, told in found.items() if told]
    print("\n".join(bad) or f"{len(found)} cells, all ok", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
