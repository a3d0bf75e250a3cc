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
    "mlflow": "mlflow-skinny",
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
    "wandb": "wandb",
}

# Without these no command works, or no training: what is imported.
NEEDED = ("torch", "numpy", "PIL", "safetensors", "accelerate", "psutil", "rich", "scipy", "tyro")

# What is installed with selfsup, and what is lost without it.
LOST = {
    "faiss": "neighbours are searched by torch, which is slower among many images",
    "kornia": 'there is no backend "kornia" of views, which only comparisons need',
    "matplotlib": "selfsup compare does not work",
    "numba": "views on a CPU and crops of files are made in other ways, which are slower",
    "simplejpeg": "JPEG files are decoded by Pillow, which is slower",
    "tensorboard": "no event files are written; metrics.jsonl is",
    "torchvision": "--data.root torchvision:NAME does not work",
}

# Extras of `pip install 'selfsup[NAME]'`: what each imports, and what it is for.
EXTRAS = {
    "datasets": (("datasets",), "data sets of Hugging Face's hub (hf:NAME)"),
    "huggingface": (("transformers",), "exports to Hugging Face"),
    "mlflow": (("mlflow",), "runs that are logged to MLflow (--log-to mlflow)"),
    "onnx": (("onnx", "onnxruntime", "onnxscript"), "exports to ONNX"),
    "parquet": (("pyarrow",), "Arrow and Parquet files"),
    "report": (("sklearn",), "t-SNE in reports"),
    "timm": (("timm",), "encoders of timm"),
    "wandb": (("wandb",), "runs that are logged to Weights & Biases (--log-to wandb)"),
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
