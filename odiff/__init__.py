"""odiff: self-configuring diffusion pretraining, segmentation and diagnosis for joint MRI."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odiff.learning.pretrained_model import load_pretrained

__all__ = ["__version__", "load_pretrained"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`load_pretrained` on demand, so that importing odiff imports no torch."""
    if name != "load_pretrained":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from odiff.learning.pretrained_model import load_pretrained

    return load_pretrained
