"""Chest X-rays to trustworthy pneumonia classifiers, the scikit-learn way."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .augment import ImageAugmenter as ImageAugmenter
    from .classifiers.finetuned import FineTunedClassifier as FineTunedClassifier
    from .classifiers.scratch_cnn import ScratchCNNClassifier as ScratchCNNClassifier
    from .datasets import balanced_subset as balanced_subset
    from .datasets import fetch_chest_xray as fetch_chest_xray
    from .datasets import group_split as group_split
    from .datasets import load_folder as load_folder
    from .datasets import load_frame as load_frame
    from .datasets import write_subset as write_subset
    from .domain import DomainDetector as DomainDetector
    from .embedder import FrozenEmbedder as FrozenEmbedder
    from .evaluation.discrepancy import diagnose_discrepancy as diagnose_discrepancy
    from .evaluation.shortcuts import ShortcutFeatures as ShortcutFeatures
    from .evaluation.stress import stress_test as stress_test
    from .explanation.maps import explain as explain
    from .images import ImageBatch as ImageBatch
    from .loader import ImageLoader as ImageLoader
    from .persistence import load as load
    from .persistence import save as save
    from .resampling import AugmentedClassifier as AugmentedClassifier
    from .resampling import BalancedClassifier as BalancedClassifier
    from .store import FeatureStore as FeatureStore
    from .study.compare import compare as compare
    from .study.learning_curve import learning_curve as learning_curve
    from .study.train import train as train
    from .synthetic import make_radiographs as make_radiographs
    from .synthetic import write_radiographs as write_radiographs

__version__ = "0.1.0"

_HOMES = {
    "AugmentedClassifier": "resampling",
    "BalancedClassifier": "resampling",
    "DomainDetector": "domain",
    "FeatureStore": "store",
    "FineTunedClassifier": "classifiers.finetuned",
    "FrozenEmbedder": "embedder",
    "ImageAugmenter": "augment",
    "ImageBatch": "images",
    "ImageLoader": "loader",
    "ScratchCNNClassifier": "classifiers.scratch_cnn",
    "ShortcutFeatures": "evaluation.shortcuts",
    "balanced_subset": "datasets",
    "compare": "study.compare",
    "diagnose_discrepancy": "evaluation.discrepancy",
    "explain": "explanation.maps",
    "fetch_chest_xray": "datasets",
    "group_split": "datasets",
    "learning_curve": "study.learning_curve",
    "load": "persistence",
    "load_folder": "datasets",
    "load_frame": "datasets",
    "make_radiographs": "synthetic",
    "save": "persistence",
    "stress_test": "evaluation.stress",
    "train": "study.train",
    "write_radiographs": "synthetic",
    "write_subset": "datasets",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
