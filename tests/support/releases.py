"""Small runs as earlier releases left them, in releases/SCHEMA/METHOD: a run that was stopped, and what it exported."""

import hashlib
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file

from selfsup.config.settings import restore
from selfsup.evaluation.encoder import load_encoder
from selfsup.evaluation.newest import newest_encoder
from selfsup.pretraining import Run, pretrain
from selfsup.storage import checkpoint
from tests.support.places import TESTS

LAYERS: tuple[Literal["backbone", "embedding"], ...] = ("backbone", "embedding")
FOLDER = TESTS / "releases"
STORED = sorted(path for path in FOLDER.glob("*/*") if path.is_dir())
DIGESTS = FOLDER / "digests.json"  # of what the release that wrote a run made of it


def digests(stored: Path) -> dict[str, str]:
    """SHA-256 of what a stored run holds, read by every way there is: bits that no machine rounds."""
    with tempfile.TemporaryDirectory() as temporary:
        begun = Path(temporary) / "begun"
        shutil.copytree(stored, begun, ignore=shutil.ignore_patterns("exported", "ended"))
        newest, exported = newest_encoder(begun, told=False), load_encoder(stored / "exported")
    return {
        f"{name}, {layer}": hashlib.sha256(checkpoint.serialize(found.network(layer).state_dict())).hexdigest()
        for name, found in (("stopped", newest), ("exported", exported))
        for layer in LAYERS
    }


def exported_again(stored: Path, folder: Path) -> list[str]:
    """Files of the result that differ where a run at its very end goes on, and so only exports; empty where none do."""
    shutil.copytree(stored, folder, ignore=shutil.ignore_patterns("exported", "checkpoints"))
    (folder / "ended").rename(folder / "checkpoints")
    _go_on(folder)
    pairs = ((file, folder / file.name) for file in sorted((stored / "exported").glob("*.safetensors")))
    return [here.name for there, here in pairs if here.read_bytes() != there.read_bytes()]


def _go_on(folder: Path) -> dict[str, Any]:
    saved = json.loads((folder / "config.json").read_text())["result"]
    run: Run = restore({key: value for key, value in saved.items() if key != "facts"}, Run)
    run = replace(run, folder=str(folder), device="cpu", workers=0, evaluate_every=0, log_every=1)
    return pretrain(replace(run, data=replace(run.data, root="shapes:64")))


def problems(stored: Path, folder: Path) -> list[str]:
    """What does not work any more with one of them, of which a copy in `folder` goes on; empty where all does."""
    shutil.copytree(stored, folder, ignore=shutil.ignore_patterns("exported", "ended"))
    found, damage = checkpoint.load_newest(folder / "checkpoints")
    if found is None or damage:
        return [f"no checkpoint loads: {damage}"]
    wrong = []
    for name, tensors in found.tensors.items():
        plain = load_file(found.path / f"{name}.safetensors")
        if plain.keys() != tensors.keys() or not all(torch.equal(plain[key], tensors[key]) for key in plain):
            wrong.append(f"{name} differs from its file")
    result = _go_on(folder)
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["step"]
    if (result["reason"], first) != ("finished", found.step + 1):
        wrong.append(f"the run did not go on from step {found.step}: {result['reason']}, from step {first}")
    exported, again = load_encoder(stored / "exported"), load_encoder(folder)
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for layer in LAYERS:
        # Another machine rounds differently, in the few steps that were left.
        before, now = exported.network(layer)(images), again.network(layer)(images)
        if not torch.allclose(before, now, rtol=1e-2, atol=1e-3):
            wrong.append(f"{layer}: what was exported then is not what the run comes to now")
    return wrong
