"""Does what goes out arrive? Exports three networks in every format and reads each in a process without selfsup.

    python -m tools.benchmarks.verify_export [--python PYTHON]

A ResNet-18, a ResNet-50 with selective kernels and a vision transformer of timm, drawn and not trained, are written by
`selfsup export` in every format. Each file is read by its own library in a process of its own, in which selfsup cannot
be imported, and run on 8 images, in a batch of 1 and one of 7. --python names another interpreter, such as that of an
environment in which selfsup is not installed. Results: docs/export.json and the table of docs/export.md.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import json
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import safetensors.torch
import torch

from selfsup.evaluation.encoder import save_encoder
from selfsup.evaluation.feed import Preprocessing
from selfsup.evaluation.newest import newest_encoder
from selfsup.export.table import table
from selfsup.models.encoder import Encoder
from selfsup.models.resnet import ResNet
from selfsup.models.timm import Timm
from selfsup.output import program
from selfsup.stages.exporting import Export, run_export
from tools.checkout import ROOT
from tools.documents import with_table

RECORD, DOCUMENT = ROOT / "docs" / "export.json", ROOT / "docs" / "export.md"
READER = Path(__file__).with_name("exported_reader.py")
NAMES = {"torchvision": "x.pth", "torch.export": "x.pt2", "onnx": "x.onnx", "safetensors": "x.safetensors"}
NO_SUCH = "no such network"


class Case(NamedTuple):
    config: Encoder.Config
    size: int
    network: str = ""  # what torchvision calls it


VIT = Timm.Config(name="vit_tiny_patch16_224", image_size=64, patch_size=8, embed_dim=192, depth=12, num_heads=3)
CASES = {
    "ResNet-18": Case(ResNet.Config(depth=18), 64, "resnet18"),
    "ResNet-50, selective kernels": Case(ResNet.Config(depth=50, variant="simclr", sk_ratio=0.0625), 65),
    "timm's ViT-Ti, patches of 8": Case(VIT, 64),
}


def drawn(folder: Path, case: Case) -> Path:
    torch.manual_seed(0)
    encoder = case.config.build()
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    feed = Preprocessing(size=case.size, fraction=1.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    folder.mkdir()
    save_encoder(folder / "encoder.safetensors", encoder.state_dict(), case.config, feed, {"method": "none"})
    return folder


def verified(name: str, case: Case, python: str) -> list[dict[str, Any]]:
    found = []
    with tempfile.TemporaryDirectory() as place:
        folder, given = drawn(Path(place) / "encoder", case), Path(place) / "given.safetensors"
        images = torch.randn(8, 3, case.size, case.size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = newest_encoder(folder).encoder(images)
        safetensors.torch.save_file({"images": images, "expected": expected.contiguous()}, given)
        for format in sorted(table()):
            out = Path(place) / format / NAMES.get(format, "folder")
            row: dict[str, Any] = {"network": name, "format": format}
            try:
                told = run_export(folder, Export(to=format, out=str(out)))
            except ValueError as error:
                if "has no network like" not in str(error):
                    raise
                found.append(row | {"refused": NO_SUCH})
                continue
            if format == "safetensors" and not case.network and isinstance(case.config, ResNet.Config):
                found.append(
                    row | {"written": told["difference"], "refused": "the tensors; no other library has the network"}
                )
                continue
            command = [python, str(READER), format, str(out), str(given), *filter(None, [case.network])]
            done = subprocess.run(command, capture_output=True, text=True, cwd=place, check=False)
            if done.returncode:
                raise ValueError(f"{name}, {format} cannot be read:\n{done.stderr}")
            found.append(row | {"written": told["difference"]} | json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(found[-1]), flush=True)
    return found


def rows(record: list[dict[str, Any]]) -> str:
    """The table: a row for each format, a column for each network."""
    names = list(dict.fromkeys(entry["network"] for entry in record))
    lines = [f"| format | read by | {' | '.join(names)} |", "|---|---|" + "---|" * len(names)]
    for format in sorted({entry["format"] for entry in record}):
        entries = {entry["network"]: entry for entry in record if entry["format"] == format}
        versions = next(entry["versions"] for entry in entries.values() if "versions" in entry)
        read = ", ".join(f"{package} {version.split('+')[0]}" for package, version in versions.items())
        cells = [e["refused"] if (e := entries[n]).get("refused") else f"{e['difference']:.1e}" for n in names]
        lines.append(f"| `{format}` | {read} | {' | '.join(cells)} |")
    greatest = {entry["network"]: entry["greatest"] for entry in record if "greatest" in entry}
    lines.append(f"| | greatest feature | {' | '.join(f'{greatest[name]:.3g}' for name in names)} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="the interpreter that reads the exports")
    asked = parser.parse_args()
    record = [entry for name, case in CASES.items() for entry in verified(name, case, asked.python)]
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), rows(record)))


if __name__ == "__main__":
    with program():
        main()
