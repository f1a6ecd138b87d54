"""What a model file holds."""

from __future__ import annotations

from typing import Any, NamedTuple

from sklearn.pipeline import Pipeline


class SavedModel(NamedTuple):
    """What a model file holds."""

    pipeline: Pipeline
    #: :class:`DomainDetector` of the training images, if one was saved.
    domain: Any
    #: What :func:`save` returned, or what it is to be given.
    manifest: dict[str, Any]

    @property
    def threshold(self) -> float:
        """The score from which an image is called pneumonia; 0.5 where nothing was said of it."""
        return float(self.manifest.get("threshold", 0.5))
