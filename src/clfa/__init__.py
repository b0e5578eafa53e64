"""clfa: understanding posts that mix text and an image, by contrastive cross-modal feature alignment.

`from clfa import Predictor` loads a trained run; everything else lives in the module named after it.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["Predictor", "__version__"]

if TYPE_CHECKING:
    from clfa.serving.predictor import Predictor


def __getattr__(name: str):
    # imported on first use: torch and transformers take seconds, `clfa --help` must not
    if name == "Predictor":
        from clfa.serving.predictor import Predictor

        return Predictor
    raise AttributeError(f"module 'clfa' has no attribute {name!r}")
