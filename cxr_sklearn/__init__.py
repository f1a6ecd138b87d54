"""Chest X-rays to trustworthy pneumonia classifiers, the scikit-learn way."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .augment import ImageAugmenter as ImageAugmenter
    from .classifiers.scratch_cnn import ScratchCNNClassifier as ScratchCNNClassifier
    from .datasets import load_folder as load_folder
    from .embedder import FrozenEmbedder as FrozenEmbedder
    from .evaluation.compare import compare as compare
    from .evaluation.shortcuts import ShortcutFeatures as ShortcutFeatures
    from .images import ImageBatch as ImageBatch
    from .images import ImageLoader as ImageLoader
    from .store import FeatureStore as FeatureStore
    from .synthetic import make_radiographs as make_radiographs
    from .synthetic import write_radiographs as write_radiographs

__version__ = "0.1.0"

_HOMES = {
    "FeatureStore": "store",
    "FrozenEmbedder": "embedder",
    "ImageAugmenter": "augment",
    "ImageBatch": "images",
    "ImageLoader": "images",
    "ScratchCNNClassifier": "classifiers.scratch_cnn",
    "ShortcutFeatures": "evaluation.shortcuts",
    "compare": "evaluation.compare",
    "load_folder": "datasets",
    "make_radiographs": "synthetic",
    "write_radiographs": "synthetic",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
