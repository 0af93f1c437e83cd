"""Packages that are imported when they are needed, and what to install where one is missing."""

import importlib
import sys
from types import ModuleType

from keras_transformer_runtime.distribution import installed

# By the name that is imported: the name that is installed, and our extra that brings it.
PACKAGES = {
    "ai_edge_litert": ("ai-edge-litert", "litert"),
    "ai_edge_quantizer": ("ai-edge-quantizer", "int4"),
    "jax": ("jax", "jax"),
    "jinja2": ("jinja2", "pretrained"),
    "litert_lm": ("litert-lm-api", "litertlm"),
    "litert_lm_builder": ("litert-lm-builder", "litertlm"),
    "matplotlib": ("matplotlib", "plot"),
    "onnxruntime": ("onnxruntime", "onnx"),
    "sacrebleu": ("sacrebleu", "bleu"),
    "sentencepiece": ("sentencepiece", "text"),
    "tensorflow": ("tensorflow", "tensorflow"),
    "tensorflow_text": ("tensorflow-text", "text"),
    "tf2onnx": ("tf2onnx", "onnx"),
    "tokenizers": ("tokenizers", "pretrained"),
    "torch": ("torch", "torch"),
}


def needed(module: str, owner: str, otherwise: str = "") -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: Its full name, "ai_edge_litert.interpreter" say.
        owner: Who needs it, the subject of the error's sentence.
        otherwise: What else can be done, the end of the sentence: " or give ids".

    Raises:
        ImportError: If the package is not installed: it names the extra that brings it. An error inside a package
            that is installed comes as it is.

    Example:

    >>> needed("json.decoder", "A reader").__name__
    'json.decoder'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in PACKAGES or sys.modules.get(package) is not None:  # it is there, and lacks a part
            raise
        raise ImportError(missing(package, owner, otherwise), name=package) from error


def missing(package: str, owner: str, otherwise: str = "") -> str:
    """What to say where a package is not installed."""
    name, extra = PACKAGES[package]
    return (
        f"{owner} needs the package {name}, which is not installed: pip install {name}, "
        f"or install {installed()}[{extra}]{otherwise and ', '}{otherwise}."
    )
