"""DINO (Caron et al. 2021): checkpoints of training, facebookresearch/dino, main_dino.py."""

from selfsup.convert.layout import Layout, Preprocessing
from selfsup.convert.resnets import TORCHVISION
from selfsup.convert.vits import TIMM

LAYOUT = Layout(
    name="dino",
    title="DINO, checkpoints of facebookresearch/dino; its published backbones are of the layouts timm and torchvision",
    encoders={"teacher": ("teacher::backbone.",), "student": ("student::backbone.",)},
    networks=(TIMM, TORCHVISION),
    dropped={r"head\.": "the head"},
    outside={r"dino_loss::": "the centre of the loss"},
    preprocessing=lambda config: Preprocessing(interpolation="bicubic"),
    inert=("argparse.Namespace", "pathlib.PosixPath"),
)
