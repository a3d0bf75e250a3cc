"""Tries every layout of docs/weights.md on files that the other project's own code has written, and writes the table.

    python -m tests.convert.verify [--code DIR] [layout ...]

Packages that are installed are used (transformers, lightly, timm, tensorflow, lightly_train); of what is no package the
code is taken from DIR/OWNER+NAME, a checkout each, such as DIR/facebookresearch+moco. What is not there keeps the
figures that docs/weights.json has of it. Whose code cannot be had is tried by its names on small plain networks, those
of tests/support/foreign_files.py. Each file is imported, its features are compared with those of the network's own
forward pass, and the encoder is written in the same layout and imported again.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from selfsup.convert.conversion import convert
from selfsup.convert.options import Options
from selfsup.convert.reading import Contents, read
from selfsup.convert.table import inert, table
from selfsup.convert.writing import written
from tests.convert.of_checkouts import (
    barlow_twins,
    cmc,
    dino,
    dinov2,
    dinov2_registers,
    lemniscate,
    lemniscate_cifar,
    moco,
    moco_v1,
    moco_v3_resnet,
    moco_v3_vit,
    openunreid,
    pycontrast,
    simclr,
    simclr_50,
    simclr_50_selective,
    spcl,
    spcl_two_domains,
    supcontrast,
    swav,
    vicreg,
)
from tests.convert.of_packages import (
    hf_dinov2,
    hf_dinov2_gated,
    hf_dinov2_registers,
    hf_resnet,
    hf_vit,
    lightly,
    lightly_train,
    of_torchvision,
    stable_pretraining,
    timm_convnext,
    timm_resnet,
    timm_vit,
)
from tests.convert.trial import Absent, Trial, look_in
from tests.support.foreign_files import FILES
from tests.support.places import ROOT
from tools.documents import with_table

RECORD, DOCUMENT = ROOT / "docs" / "weights.json", ROOT / "docs" / "weights.md"


def by_names(layout: str) -> Callable[[Path], Trial]:
    def make(folder: Path) -> Trial:
        file = next(file for file in (make() for make in FILES.values()) if file.layout == layout)
        return Trial(file.write(folder), file.features, file.size, file.options)

    return make


# Layout -> what was tried: how it is told, and what makes the file.
TRIALS: dict[str, dict[str, Callable[[Path], Trial]]] = {
    "torchvision": {
        "torchvision {torchvision}, ResNet-50": of_torchvision,
        "timm {timm}, ResNet-34": timm_resnet,
        "the code of vicreg, ResNet-50 of width 2": vicreg,
        "exported by lightly-train {lightly-train}, ResNet-18": lightly_train,
    },
    "timm": {"timm {timm}, ViT-Ti/16": timm_vit, "ConvNeXt": timm_convnext},
    "hf_resnet": {"transformers {transformers}, ResNet-50": hf_resnet},
    "hf_vit": {"transformers {transformers}": hf_vit},
    "hf_dinov2": {
        "transformers {transformers}": hf_dinov2,
        "with registers": hf_dinov2_registers,
        "with gated MLPs": hf_dinov2_gated,
    },
    "moco": {"its code, ResNet-50, v2": moco, "v1": moco_v1},
    "moco_v3": {"its code, ResNet-50": moco_v3_resnet, "ViT-S": moco_v3_vit},
    "pycontrast": {"its code, ResNet-50 of width 2": pycontrast},
    "cmc": {"its code, ResNet-50": cmc},
    "supcontrast": {"its code, ResNet-50": supcontrast},
    "lemniscate": {"its code, ResNet-18": lemniscate},
    "lemniscate_cifar": {"its code, ResNet-18": lemniscate_cifar},
    "spcl": {"its code, ResNet-50": spcl, "with two domains": spcl_two_domains},
    "openunreid": {"its code, ResNet-50": openunreid},
    "swav": {"its code, ResNet-50 of width 2": swav},
    "barlow_twins": {"the code of barlowtwins, ResNet-50": barlow_twins},
    "dino": {"its code, ViT-Ti/16": dino},
    "dinov2": {"its code, ViT-S/14": dinov2, "with registers": dinov2_registers},
    "lightly": {"lightly {lightly}, ResNet-18": lightly},
    "stable_pretraining": {"stable-pretraining {stable-pretraining}, ResNet-18": stable_pretraining},
    "simclr": {
        "saved by TensorFlow {tensorflow-cpu}, features of the authors' code: ResNet-18": simclr,
        "ResNet-50": simclr_50,
        "ResNet-50 with selective kernels": simclr_50_selective,
    },
}


_NAMES = "names and shapes of its code, small plain network"


def tried(layout: str, how: str, make: Callable[[Path], Trial]) -> dict[str, Any]:
    """Import a file, compare features, write it and import that."""
    with tempfile.TemporaryDirectory() as folder:
        trial = make(Path(folder))
        contents = read(trial.path, inert())
        found = convert(contents, Options(**trial.options))
        assert found.layout.name == layout, f"{how} is taken for {found.layout.name}"
        encoder = found.config.build()
        encoder.load_state_dict(found.tensors)
        images = torch.randn(2, 3, trial.size, trial.size, generator=torch.Generator().manual_seed(0))
        images = images if trial.images is None else trial.images
        with torch.no_grad():
            ours, own = encoder.eval()(images).double(), trial.forward(images).double()
        flat = written(found.layout, found.config, found.tensors, found.head, found.network)
        heads = getattr(found.config, "num_heads", None)
        options = Options(layout=layout, heads=heads, architecture=trial.options.get("architecture", ""))
        again = convert(Contents(path=contents.path, tensors=flat, config={}, preprocessor={}, sha256=""), options)
    return {
        "layout": layout,
        "how": _with_versions(how),
        "difference": float((ours - own).abs().max() / own.abs().max()),
        "equal": all(torch.equal(again.tensors[name], tensor) for name, tensor in found.tensors.items()),
        "head": found.head is not None,
    }


def _with_versions(how: str) -> str:
    start, brace, rest = how.partition("{")
    name, _, end = rest.partition("}")
    return f"{start}{metadata.version(name)}{end}" if brace else how


def of_trial(said: str, how: str) -> bool:
    """Whether a record says of a trial how it was made, with whatever version of the package."""
    start, brace, rest = how.partition("{")
    return said.startswith(start) and said.endswith(rest.partition("}")[2]) if brace else said == how


def rows(record: list[dict[str, Any]]) -> str:
    """The table: one row for each layout."""
    lines = [
        "| layout | whose files | how it was tried | difference of features | out and in again | head |",
        "|---|---|---|---|---|---|",
    ]
    for name, layout in sorted(table().items()):
        tries = [entry for entry in record if entry["layout"] == name]
        if not tries:
            lines.append(f"| `{name}` | {layout.title} | not tried | | | |")
            continue
        how = "; ".join(entry["how"] for entry in tries)
        worst = max(entry["difference"] for entry in tries)
        equal = "equal" if all(entry["equal"] for entry in tries) else "not equal"
        head = "comes along" if any(entry["head"] for entry in tries) else ""
        lines.append(f"| `{name}` | {layout.title} | {how} | {worst:.1e} | {equal} | {head} |")
    notes = [f"- `{name}`: {layout.said}." for name, layout in sorted(table().items()) if layout.said]
    return "\n".join([*lines, "", *notes, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layouts", nargs="*", help="the layouts to try; none: all")
    parser.add_argument("--code", type=Path, help="a folder of checkouts, OWNER+NAME each")
    asked = parser.parse_args()
    look_in(asked.code)
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else []
    torch.manual_seed(0)
    for layout in asked.layouts or sorted(table()):
        found = []
        for how, make in TRIALS.get(layout, {}).items():
            try:
                found.append(tried(layout, how, make))
                print(json.dumps(found[-1]), flush=True)
            except Absent as error:
                print(f"{layout}: {error} is not here", flush=True)
                found += [entry for entry in record if entry["layout"] == layout and of_trial(entry["how"], how)]
        if not found and not any(entry["layout"] == layout for entry in record):
            found.append(tried(layout, _NAMES, by_names(layout)))
            print(json.dumps(found[-1]), flush=True)
        if found:
            record = [entry for entry in record if entry["layout"] != layout] + found
    record.sort(key=lambda entry: str(entry["layout"]))
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), rows(record)))


if __name__ == "__main__":
    main()
