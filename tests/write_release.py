"""Write small runs of this version into releases/SCHEMA, to be read by all later ones: python -m tests.write_release.

Of each run: `checkpoints` after 5 of its 8 steps, `ended` at its end, `exported` what it came to.
"""

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfsup.config.schema import SCHEMA
from selfsup.methods.metric import Metric
from selfsup.models.heads import Head
from selfsup.models.resnet import ResNet
from selfsup.optim.optimizers import LARS
from selfsup.optim.schedules import Steps, SupConCosine
from selfsup.pretraining import Run, pretrain
from selfsup.storage.sealed import seal
from tests.support.releases import DIGESTS, FOLDER, digests
from tests.support.tiny import METHODS, tiny_run

HEAD = Head.Config(hidden_dim=4, output_dim=4)
CHANGES: dict[str, dict[str, Any]] = {
    "moco": {},
    "simclr": {"optimizer": LARS.Config(), "schedule": SupConCosine()},
    "xbm": {"schedule": Steps(milestones=(1,))},
}


def small(name: str, folder: Path) -> Run:
    run = tiny_run(folder, name, root="shapes:64", encoder=ResNet.Config(depth="small", stem="small", width=0.0625))
    method: Any = METHODS[name]
    narrow = {"output_dim": 4} if isinstance(method, Metric.Config) else {"head": HEAD}
    return replace(run, method=replace(method, **narrow), batch_size=16, **CHANGES[name])


def write(name: str, place: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        pretrain(replace(small(name, folder), max_steps=5))
        place.mkdir(parents=True)
        shutil.copytree(folder / "checkpoints", place / "checkpoints")
        config = json.loads((folder / "config.json").read_text())
        pretrain(small(name, folder))
        shutil.copytree(folder / "checkpoints" / "step_00000008", place / "ended" / "step_00000008")
        (place / "exported").mkdir()
        for file in folder.glob("encoder.*"):
            shutil.copy(file, place / "exported")
        shutil.copy(folder / "head.safetensors", place / "exported")
    config["run"]["folder"] = name
    del config["checksum"]
    (place / "config.json").write_bytes(seal(config))


def main() -> None:
    place = FOLDER / f"schema_{SCHEMA}"
    if place.exists():
        sys.exit(f"{place} is there: what was released is never written again")
    for name in CHANGES:
        write(name, place / name)
    known = json.loads(DIGESTS.read_text()) if DIGESTS.is_file() else {}
    known |= {f"{place.name}/{name}": digests(place / name) for name in CHANGES}
    DIGESTS.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
