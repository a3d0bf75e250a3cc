"""Packages of others: what selfsup asks of an installation, and the sentence for one that is not there."""

import importlib
from types import ModuleType

# What is imported, and the package that brings it; setup.cfg has the versions.
PACKAGES = {
    "PIL": "pillow",
    "accelerate": "accelerate",
    "faiss": "faiss-cpu",
    "kornia": "kornia",
    "matplotlib": "matplotlib",
    "numba": "numba",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "psutil": "psutil",
    "pyarrow": "pyarrow",
    "rich": "rich",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "simplejpeg": "simplejpeg",
    "sklearn": "scikit-learn",
    "tensorboard": "tensorboard",
    "timm": "timm",
    "torch": "torch",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "tyro": "tyro",
}


def optional(module: str, purpose: str) -> ModuleType:
    """Import a module that only some uses need.

    Args:
        module: the name that is imported, one of PACKAGES.
        purpose: what needs it, as the beginning of a sentence, and another way where there is one:
            "the kornia backend", "the flags of a command".

    Raises:
        ValueError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (sentence := missing(error, purpose)) is None:
            raise
        raise ValueError(sentence) from error


def missing(error: ModuleNotFoundError, purpose: str) -> str | None:
    """One sentence about a package of PACKAGES that is not installed; None where something else was not found."""
    package = PACKAGES.get(error.name or "")
    if package is None:
        return None
    return f"{purpose} needs the package {package}, which is not installed: pip install {package}"
