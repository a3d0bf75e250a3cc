"""Tries every layout of docs/weights.md on files that the other project's own code has written, and writes the table.

    python -m tools.benchmarks.verify_weights [--code DIR] [layout ...]

Packages that are installed are used (transformers, lightly, timm, tensorflow, lightly_train); of what is no package the
code is taken from DIR/OWNER+NAME, a checkout each, such as DIR/facebookresearch+moco. What is not there keeps the
figures that docs/weights.json has of it. Whose code cannot be had is tried by its names on small plain networks, those
of tests/support/foreign_files.py. Each file is imported, its features are compared with those of the network's own
forward pass, and the encoder is written in the same layout and imported again.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parents[1] / "checkout.py"))["again_as_module"](__file__)

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module, metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selfsup.convert.conversion import convert
from selfsup.convert.options import Options
from selfsup.convert.reading import Contents, read
from selfsup.convert.table import inert, table
from selfsup.convert.writing import written
from tests.support.figures import recipe_weight
from tests.support.foreign_files import FILES, module, wrapped
from tests.support.foreign_networks import randomised
from tests.support.places import GOLDEN
from tools.checkout import ROOT

RECORD, DOCUMENT = ROOT / "docs" / "weights.json", ROOT / "docs" / "weights.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"


@dataclass
class Trial:
    """A file that was written, and what its own network computes."""

    path: Path
    forward: Callable[[Tensor], Tensor]
    size: int = 64
    options: dict[str, Any] = field(default_factory=dict)
    images: Tensor | None = None


class Absent(Exception):
    """The package or the code is not here."""


CODE: Path | None = None


def code(name: str, *modules: str) -> list[Any]:
    """Modules of a checkout; those of another checkout that have the same names are forgotten."""
    folder = CODE / name if CODE else None
    if folder is None or not folder.is_dir():
        raise Absent(name)
    for top in {word.partition(".")[0] for word in modules} | {"models", "lib", "networks", "moco", "resnet", "utils"}:
        for known in [word for word in sys.modules if word == top or word.startswith(f"{top}.")]:
            del sys.modules[known]
    sys.path.insert(0, str(folder))
    try:
        return [import_module(word) for word in modules]
    except ImportError as error:
        raise Absent(f"{name} ({error})") from error
    finally:
        sys.path.remove(str(folder))


def package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise Absent(name) from error


def saved(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


def of_torchvision(folder: Path) -> Trial:
    net = randomised(package("torchvision.models").resnet50())
    path = saved(folder, net.state_dict())
    net.fc = nn.Identity()
    return Trial(path, net)


def timm_resnet(folder: Path) -> Trial:
    net = randomised(package("timm").create_model("resnet34", num_classes=5))
    path = saved(folder, net.state_dict())
    net.reset_classifier(0)
    return Trial(path, net)


def vicreg(folder: Path) -> Trial:
    (resnet,) = code("facebookresearch+vicreg/.", "resnet")
    net, _ = resnet.resnet50x2()
    return Trial(saved(folder, randomised(net).state_dict()), net)


def lightly_train(folder: Path) -> Trial:
    export, helpers = package("lightly_train._commands.common_helpers"), package("torchvision.models")
    net = randomised(helpers.resnet18())
    out = folder / "exported_last.pt"
    export.export_model(model=net, format=export.ModelFormat.TORCH_STATE_DICT, out=out)
    net.fc = nn.Identity()
    return Trial(out, net)


def timm_vit(folder: Path) -> Trial:
    timm, files = package("timm"), package("safetensors.torch")
    net = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=5))
    files.save_file({n: t.contiguous() for n, t in net.state_dict().items()}, folder / "model.safetensors")
    net.reset_classifier(0)
    return Trial(folder / "model.safetensors", net, 224)


def timm_convnext(folder: Path) -> Trial:
    net = randomised(package("timm").create_model("convnext_atto", num_classes=5))
    path = saved(folder, net.state_dict())
    net.reset_classifier(0)
    return Trial(path, net, options={"architecture": "convnext_atto"})


def _hugging_face(folder: Path, model: str, config: str, **settings: Any) -> Trial:
    transformers = package("transformers")
    net = randomised(getattr(transformers, model)(getattr(transformers, config)(**settings)))
    net.save_pretrained(folder)
    if model == "ResNetModel":
        return Trial(folder, lambda images: net(images).pooler_output.flatten(1))
    return Trial(folder, lambda images: net(images).last_hidden_state[:, 0], settings["image_size"])


_VIT = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "image_size": 112}


def hf_resnet(folder: Path) -> Trial:
    return _hugging_face(folder, "ResNetModel", "ResNetConfig")


def hf_vit(folder: Path) -> Trial:
    return _hugging_face(folder, "ViTModel", "ViTConfig", intermediate_size=768, patch_size=16, **_VIT)


def hf_dinov2(folder: Path) -> Trial:
    return _hugging_face(folder, "Dinov2Model", "Dinov2Config", patch_size=14, **_VIT)


def hf_dinov2_gated(folder: Path) -> Trial:
    wide = _VIT | {"hidden_size": 384, "num_attention_heads": 6}
    return _hugging_face(folder, "Dinov2Model", "Dinov2Config", patch_size=14, use_swiglu_ffn=True, **wide)


def hf_dinov2_registers(folder: Path) -> Trial:
    return _hugging_face(folder, "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", patch_size=14, **_VIT)


def moco(folder: Path, mlp: bool = True) -> Trial:
    (builder,) = code("facebookresearch+moco", "moco.builder")
    from torchvision.models import resnet50

    net = randomised(builder.MoCo(resnet50, dim=128, K=64, mlp=mlp))
    path = saved(folder, {"epoch": 1, "arch": "resnet50", "state_dict": wrapped(net.state_dict()), "optimizer": {}})
    net.encoder_q.fc = nn.Identity()
    return Trial(path, net.encoder_q)


def moco_v1(folder: Path) -> Trial:
    return moco(folder, mlp=False)


def moco_v3_resnet(folder: Path) -> Trial:
    (builder,) = code("facebookresearch+moco-v3", "moco.builder")
    from torchvision.models import resnet50

    net = randomised(builder.MoCo_ResNet(resnet50, 256, 4096, 1.0))
    path = saved(folder, {"epoch": 1, "arch": "resnet50", "state_dict": wrapped(net.state_dict())})
    net.base_encoder.fc = nn.Identity()
    return Trial(path, net.base_encoder)


def moco_v3_vit(folder: Path) -> Trial:
    layers = package("timm.layers")  # which the code knows by an older name, as it does what follows
    package("timm.models.vision_transformer").VisionTransformer.num_tokens = 1
    sys.modules["timm.models.layers"] = sys.modules["timm.models.layers.helpers"] = layers
    builder, vits = code("facebookresearch+moco-v3", "moco.builder", "vits")
    net = randomised(builder.MoCo_ViT(vits.vit_small, 256, 512, 0.2))
    path = saved(folder, {"epoch": 1, "arch": "vit_small", "state_dict": wrapped(net.state_dict())})
    net.base_encoder.head = nn.Identity()
    return Trial(path, net.base_encoder, 224)


def pycontrast(folder: Path) -> Trial:
    networks = code("HobbitLong+PyContrast/pycontrast", "networks.build_backbone")[0]
    net = randomised(networks.RGBSingleHead("resnet50x2", "mlp", 128))
    content = {
        "model": wrapped(net.state_dict()),
        "contrast": {"memory": torch.ones(4, 128)},
        "optimizer": {},
        "epoch": 1,
    }
    return Trial(saved(folder, content), lambda images: net(images, mode=2))


def cmc(folder: Path) -> Trial:
    (resnet,) = code("HobbitLong+CMC", "models.resnet")
    net = randomised(resnet.InsResNet50())
    content = {"opt": argparse.Namespace(model="resnet50"), "model": net.state_dict(), "contrast": {}, "optimizer": {}}
    # Layer 6 is what is pooled before the linear layer; its pool is of 7 x 7 pixels.
    return Trial(saved(folder, content), lambda images: net(images, layer=6), 224)


def supcontrast(folder: Path) -> Trial:
    networks, util = code("HobbitLong+SupContrast", "networks.resnet_big", "util")
    net = randomised(networks.SupConResNet("resnet50"))
    path = folder / "weights.pth"
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    util.save_model(net, optimizer, argparse.Namespace(model="resnet50", epochs=1), 1, path)
    return Trial(path, net.encoder, 32)


def lemniscate(folder: Path) -> Trial:
    resnet, averages = code("zhirongw+lemniscate.pytorch", "models.resnet", "lib.LinearAverage")
    net = randomised(resnet.resnet18(low_dim=128))
    bank = averages.LinearAverage(128, 16, 0.07, 0.5)
    content = {"epoch": 1, "arch": "resnet18", "state_dict": wrapped(net.state_dict()), "lemniscate": bank}
    path = saved(folder, content)
    net.fc, net.l2norm = nn.Identity(), nn.Identity()
    return Trial(path, net, 224)


def lemniscate_cifar(folder: Path) -> Trial:
    resnet, averages = code("zhirongw+lemniscate.pytorch", "models.resnet_cifar", "lib.LinearAverage")
    net = randomised(resnet.ResNet18())
    path = saved(folder, {"net": net.state_dict(), "lemniscate": averages.LinearAverage(128, 16, 0.1, 0.5), "acc": 0.8})
    net.linear, net.l2norm = nn.Identity(), nn.Identity()
    return Trial(path, net, 32)


def spcl(folder: Path, two: bool = False) -> Trial:
    resnet, dsbn = code("yxgeee+SpCL", "spcl.models.resnet", "spcl.models.dsbn")
    net = resnet.resnet50(pretrained=False, norm=True, cut_at_pooling=False)
    if two:
        dsbn.convert_dsbn(net)
    randomised(net)
    path = saved(folder, {"state_dict": wrapped(net.state_dict()), "epoch": 1, "best_mAP": 0.5})
    return Trial(path, lambda images: net.gap(net.base(images)).flatten(1))


def spcl_two_domains(folder: Path) -> Trial:
    return spcl(folder, two=True)


def openunreid(folder: Path) -> Trial:
    (resnet,) = code("open-mmlab+OpenUnReID", "openunreid.models.backbones.resnet")
    (embedding,) = code("open-mmlab+OpenUnReID", "openunreid.models.layers.embedding")
    net = resnet.resnet50(pretrained=False)
    whole = randomised(module(backbone=net, head=embedding.Embedding(2048)))
    path = saved(folder, {"epoch": 1, "best_mAP": 0.5, "state_dict": wrapped(whole.state_dict())})
    return Trial(path, lambda images: net(images).mean((2, 3)))


def swav(folder: Path) -> Trial:
    (resnet,) = code("facebookresearch+swav/src", "resnet50")
    settings = {"normalize": True, "hidden_mlp": 512, "output_dim": 128, "nmb_prototypes": 16}
    net = randomised(resnet.resnet50w2(**settings))
    path = saved(folder, {"epoch": 1, "state_dict": wrapped(net.state_dict()), "optimizer": {}})
    return Trial(path, net.forward_backbone)


def barlow_twins(folder: Path) -> Trial:
    (main,) = code("facebookresearch+barlowtwins", "main")
    net = randomised(main.BarlowTwins(argparse.Namespace(projector="64-64-64", batch_size=8, lambd=0.01)))
    path = saved(folder, {"epoch": 1, "model": wrapped(net.state_dict()), "optimizer": {}})
    return Trial(path, net.backbone)


def dino(folder: Path) -> Trial:
    (vits,) = code("facebookresearch+dino", "vision_transformer")
    teacher, student = (module(backbone=vits.vit_tiny(patch_size=16), head=vits.DINOHead(192, 64)) for _ in range(2))
    randomised(teacher)
    content = {
        "student": wrapped(student.state_dict()),
        "teacher": teacher.state_dict(),
        "args": argparse.Namespace(arch="vit_tiny"),
        "dino_loss": {"center": torch.zeros(1, 64)},
        "epoch": 1,
    }
    return Trial(saved(folder, content), teacher.backbone, 224)


def dinov2(folder: Path, registers: int = 0) -> Trial:
    (vits,) = code("facebookresearch+dinov2", "dinov2.models.vision_transformer")
    settings = {"img_size": 112, "patch_size": 14, "init_values": 1.0, "block_chunks": 0}
    net = randomised(vits.vit_small(**settings, num_register_tokens=registers))
    return Trial(saved(folder, net.state_dict()), net, 112)


def dinov2_registers(folder: Path) -> Trial:
    return dinov2(folder, registers=4)


def lightly(folder: Path) -> Trial:
    heads = package("lightly.models.modules.heads")
    from torchvision.models import resnet18

    net = nn.Sequential(*list(resnet18().children())[:-1])
    whole = randomised(module(backbone=net, projection_head=heads.MoCoProjectionHead(512, 512, 128)))
    path = saved(folder, {"state_dict": whole.state_dict(), "optimizer_states": []})
    return Trial(path, lambda images: net(images).flatten(1))


def stable_pretraining(folder: Path) -> Trial:
    backbones, methods = (package(f"stable_pretraining.{name}") for name in ("backbone.utils", "methods.simclr"))
    net = backbones.from_torchvision("resnet18", low_resolution=True)
    whole = randomised(module(backbone=net, projector=methods._build_projector(512, [64, 32])))
    return Trial(saved(folder, {"state_dict": whole.state_dict()}), net, 32)


def simclr(folder: Path, case: str = "r18") -> Trial:
    """Weights of the recipe in tests/golden, saved by TensorFlow, and the features that the authors' code gave."""
    tensorflow = package("tensorflow")
    recipe = json.loads((GOLDEN / "simclr_resnet_weights.json").read_text())[case]
    names = _simclr_names(recipe["tensors"])
    graph = tensorflow.Graph()
    with graph.as_default():
        for name, tensor in zip(names, recipe["tensors"], strict=True):
            value = recipe_weight(tensor["index"], tensor["kind"], tensor["shape"], tensor["scale"]).numpy()
            tensorflow.compat.v1.get_variable(name, initializer=value)
        saver = tensorflow.compat.v1.train.Saver()
        with tensorflow.compat.v1.Session() as session:
            session.run(tensorflow.compat.v1.global_variables_initializer())
            saver.save(session, str(folder / "model.ckpt"), global_step=1)
    figures = np.load(GOLDEN / f"simclr_resnet_{case}_0.npz")
    images = torch.from_numpy(figures["image_uint8"]).float().div(255).permute(0, 3, 1, 2)
    return Trial(folder / "model.ckpt-1.index", lambda _: torch.from_numpy(figures["features"]), images=images)


def _simclr_names(tensors: list[dict[str, Any]]) -> list[str]:
    """TensorFlow's names, by counting the modules in the order in which they were made."""
    words = {"kernel": "conv2d", "gamma": "batch_normalization"}
    numbers: dict[str, int] = {}
    names, norm = [], ""
    for tensor in tensors:
        role, kind = tensor["role"], tensor["kind"]
        if role.startswith("head"):
            layer = int(role.split(".")[1].removeprefix("layer")) - 1
            part = "dense" if kind == "kernel" else "batch_normalization"
            names.append(f"head_contrastive/nl_{layer}/{part}/{kind}")
            continue
        if kind in words:
            number = numbers[kind] = numbers.get(kind, -1) + 1
            place = f"base_model/{words[kind]}" + (f"_{number}" if number else "")
            norm = place if kind == "gamma" else norm
        names.append(f"{place if kind in words else norm}/{kind}")
    return names


def simclr_50(folder: Path) -> Trial:
    return simclr(folder, "r50")


def simclr_50_selective(folder: Path) -> Trial:
    return simclr(folder, "r50sk")


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


def with_table(text: str, record: list[dict[str, Any]]) -> str:
    """The document with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{rows(record)}{END}{after}"


def main() -> None:
    global CODE
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layouts", nargs="*", help="the layouts to try; none: all")
    parser.add_argument("--code", type=Path, help="a folder of checkouts, OWNER+NAME each")
    asked = parser.parse_args()
    CODE = asked.code
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
    DOCUMENT.write_text(with_table(DOCUMENT.read_text(), record))


if __name__ == "__main__":
    main()
