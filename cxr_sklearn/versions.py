"""The versions of what scores depend on, as model files and reports name them."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

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
