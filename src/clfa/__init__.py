"""clfa: understanding posts that mix text and an image, by contrastive cross-modal feature alignment.

`from clfa import Predictor` loads a trained run; `fit`, `train`, `check`, `audit` … do what commands of these names do and
return their results; everything else lives in the module named after it.
"""

from importlib import import_module

from clfa.errors import UserError

__version__ = "0.1.0"
# by name, and imported on first use: torch and transformers take seconds, `clfa --help` must not
_HOMES = {
    "Predictor": "clfa.serving.predictor",
    "audit": "clfa.evidence.audit",
    "check": "clfa.data.check",
    "compare": "clfa.evidence.compare",
    "correct": "clfa.data.corrections",
    "evaluate": "clfa.evidence.evaluate",
    "fit": "clfa.studies.fit",
    "probe": "clfa.evidence.probe",
    "select": "clfa.evidence.selection",
    "sweep": "clfa.studies.sweep",
    "train": "clfa.training.train",
}
_EXTRAS = {
    "onnxruntime": "onnx",
    "tokenizers": "onnx",
    "onnxscript": "export",
    "onnx": "export",
    "ray": "ray",
} | dict.fromkeys(("fastapi", "uvicorn", "prometheus_client", "python_multipart", "defusedxml"), "serve")
__all__ = ["__version__", *_HOMES]


def lacking(error: ModuleNotFoundError) -> str:
    """What to install where a package is missing: `pip install clfa` alone brings what an exported model needs."""
    extra = _EXTRAS.get((error.name or "").partition(".")[0], "train")
    return f"the package {error.name} is not installed: pip install 'clfa[{extra}]'"


def __getattr__(name: str):
    if name in _HOMES:
        try:
            return getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            raise UserError(f"clfa.{name}: {lacking(error)}") from error
    raise AttributeError(f"module 'clfa' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
