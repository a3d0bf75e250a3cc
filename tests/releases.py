"""Small runs as earlier releases left them, in releases/SCHEMA/METHOD: a run that was stopped, and what it exported."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from selfsup import checkpoint
from selfsup.config import restore
from selfsup.pretrain import Run, pretrain
from selfsup.stages.encoder import load_encoder

STORED = sorted(path for path in (Path(__file__).parent / "releases").glob("*/*") if path.is_dir())


def problems(stored: Path, folder: Path) -> list[str]:
    """What does not work any more with one of them, of which a copy in `folder` goes on; empty where all does."""
    shutil.copytree(stored, folder, ignore=shutil.ignore_patterns("exported"))
    found, damage = checkpoint.load_newest(folder / "checkpoints")
    if found is None or damage:
        return [f"no checkpoint loads: {damage}"]
    wrong = []
    for name, tensors in found.tensors.items():
        plain = load_file(found.path / f"{name}.safetensors")
        if plain.keys() != tensors.keys() or not all(torch.equal(plain[key], tensors[key]) for key in plain):
            wrong.append(f"{name} differs from its file")
    saved = json.loads((folder / "config.json").read_text())["result"]
    run: Run = restore({key: value for key, value in saved.items() if key != "facts"}, Run)
    run = replace(run, folder=str(folder), device="cpu", workers=0, evaluate_every=0, log_every=1)
    result = pretrain(replace(run, data=replace(run.data, root="shapes:64")))
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["step"]
    if (result["reason"], first) != ("finished", found.step + 1):
        wrong.append(f"the run did not go on from step {found.step}: {result['reason']}, from step {first}")
    exported, again = load_encoder(stored / "exported"), load_encoder(folder)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for layer in ("backbone", "embedding"):
        # Another machine rounds differently, in the few steps that were left.
        before, now = exported.network(layer)(images), again.network(layer)(images)
        if not torch.allclose(before, now, rtol=1e-2, atol=1e-3):
            wrong.append(f"{layer}: what was exported then is not what the run comes to now")
    return wrong
