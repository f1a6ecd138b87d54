"""Every error this package raises on purpose."""

from __future__ import annotations

from collections.abc import Mapping


class CXRError(Exception):
    """Base class of the errors raised by cxr_sklearn."""


class DataError(CXRError, ValueError):
    """A folder or table of images cannot be used as it is."""


class ImageReadError(CXRError, OSError):
    """One or more images cannot be read.

    Parameters
    ----------
    failures : mapping of str to str
        Reason for each unreadable image, keyed by its path.
    n_images : int
        How many images were asked for in all.

    Attributes
    ----------
    failures : dict of str to str
    n_images : int
    """

    def __init__(self, failures: Mapping[str, str], n_images: int) -> None:
        self.failures = dict(failures)
        self.n_images = n_images
        lines = [f"{path}: {reason}" for path, reason in self.failures.items()]
        listed = f". {lines[0]}" if len(lines) == 1 else "\n  ".join([":", *lines])
        super().__init__(f"{len(lines)} of {n_images} images cannot be read; repair or remove them{listed}")

    def __reduce__(self) -> tuple[type, tuple[dict[str, str], int]]:
        # OSError would be rebuilt from its message alone, which breaks it on the way back from a worker process.
        return type(self), (self.failures, self.n_images)


class DataUnavailableError(CXRError, OSError):
    """A public set of images is neither here nor to be had."""


class WeightsUnavailableError(CXRError, OSError):
    """The weights of a backbone are neither here nor to be had."""


class BackendError(CXRError, ImportError):
    """Keras cannot be imported on the backend that is chosen."""


class StoreError(CXRError, OSError):
    """The feature store cannot be opened, read or written."""


class StoreDamagedError(StoreError):
    """A file of the feature store was damaged and has been set aside."""


class InputError(CXRError, ValueError):
    """A parameter or argument is wrong."""


class RecipeError(CXRError, ValueError):
    """A recipe file cannot be found or does not define a pipeline."""


class TrainingError(CXRError, ValueError):
    """A classifier cannot be trained as it was asked to, or its own code fails."""


class ModelError(CXRError, ValueError):
    """A model file cannot be loaded, or a pipeline cannot be saved."""
