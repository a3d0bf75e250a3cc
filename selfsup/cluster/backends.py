"""Who searches for neighbours and clusters."""

from typing import Literal

Backend = Literal["auto", "torch", "faiss"]


def has_faiss() -> bool:
    """Whether faiss can be imported here."""
    try:
        import faiss  # noqa: F401
    except ImportError:
        return False
    return True
