"""The versions of what scores depend on, as model files and reports name them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .keras_runtime import keras_backend

_PACKAGES = ("cxr-sklearn", "scikit-learn", "keras", "numpy", "pillow", "skops")


def versions_here() -> dict[str, str]:
    """Return the versions of what scores depend on, the backend of Keras among them."""
    backend = keras_backend()
    try:
        found = f"{backend} {version(backend)}"
    except PackageNotFoundError:
        found = f"{backend}, which is not installed"
    return {name: version(name) for name in _PACKAGES} | {"Keras backend": found}


class ReadsEarlierFiles:
    """For estimators that have gained parameters: a file of before they had them gives each its default.

    So a new parameter's default must be what was done before there was a choice.
    """

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the attributes of a saved estimator."""
        parameters = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        super().__setstate__({**defaults, **state})  # type: ignore[misc]
