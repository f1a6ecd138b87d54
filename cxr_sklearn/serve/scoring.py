"""From the bytes of one file to an answer, without a file."""

from __future__ import annotations

from threading import Lock
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from ..decoding import Decoding, reason_of, size_and_mode
from ..descriptors import _SIZE
from ..exceptions import ModelError
from ..explanation.maps import explain
from ..explanation.taken_apart import fitted_steps
from ..loader import ImageLoader
from ..persistence import SavedModel
from .pictures import heat_picture, picture

#: How the domain detector decodes files.
_FROM_AFAR = Decoding(_SIZE, _SIZE, "stretch")


class Answer(BaseModel):
    """What a model says of one file."""

    filename: str
    score: float | None = Field(description="Probability of pneumonia; null where the file cannot be read.")
    decision: Literal["pneumonia", "normal"] | None = Field(
        description="Pneumonia where the score is at the threshold or above."
    )
    threshold: float
    domain: Literal["in", "out"] | None = Field(
        description="Out: unlike the images that the model was trained on, so the score means nothing. "
        "Null: the model cannot tell."
    )
    error: str | None = Field(description="Why the file cannot be read.")
    heat: str | None = Field(None, description="PNG data URL whose opacity is what raised the score.")
    picture: str | None = Field(None, description="JPEG data URL of the image as the model takes it.")


class Scorer:
    """Answers for one image at a time, whichever thread asks: networks are not safe to share, and memory is finite.

    Parameters
    ----------
    model : SavedModel
        Whose parts keep nothing: loaded with ``store=None``.

    Raises
    ------
    ModelError
        If the model cannot score images that are no files.
    """

    def __init__(self, model: SavedModel) -> None:
        first = fitted_steps(model.pipeline)[0]
        self.threshold = float(model.manifest.get("threshold", 0.5))
        self.tells_domain = model.domain is not None
        self._model = model
        self._lock = Lock()
        #: How the pipeline decodes files, if one size is all that it looks at.
        self._taken = first._decoding() if isinstance(first, ImageLoader) else None
        self.explains = self._taken is not None
        blank = np.zeros((64, 64), dtype=np.uint8)
        try:
            self._score(blank if self._taken is None else self._taken(blank))
        except Exception as error:  # a pipeline can hold parts of the user's own
            raise ModelError(
                f"the model cannot score images that are no files: {type(error).__name__}: {error}"
            ) from error

    def answer(self, filename: str, content: bytes, *, heat: bool, with_picture: bool) -> Answer:
        """Score one file.

        Parameters
        ----------
        filename : str
            For the answer.
        content : bytes
            Of any format that :class:`ImageLoader` reads.
        heat, with_picture : bool
            Whether the answer is to hold these.
        """
        with self._lock:
            try:
                afar, pixels = _FROM_AFAR(content), self._pixels(content)
                shown = picture(content, self._taken) if with_picture else None
            except Exception as error:  # noqa: BLE001 - there is no telling what bytes make a codec raise
                return self._answer(filename, error=reason_of(error))
            score = self._score(pixels)
            if not np.isfinite(score):
                return self._answer(filename, error="the model gives it no score")
            return self._answer(
                filename,
                score=score,
                decision="pneumonia" if score >= self.threshold else "normal",
                domain=self._domain(afar),
                heat=heat_picture(explain(self._model.pipeline, pixels[None])[0]) if heat and self.explains else None,
                picture=shown,
            )

    def _answer(self, filename: str, **known: Any) -> Answer:
        facts = {"score": None, "decision": None, "domain": None, "error": None, **known}
        return Answer(filename=filename, threshold=self.threshold, **facts)

    def _pixels(self, content: bytes) -> np.ndarray:
        if self._taken is not None:  # the very pixels that the pipeline would decode from a file
            return self._taken(content)
        width, height, _ = size_and_mode(content)
        return Decoding(height, width, "stretch")(content)

    def _score(self, pixels: np.ndarray) -> float:
        positive = list(self._model.pipeline.classes_).index(1)
        return float(self._model.pipeline.predict_proba(pixels[None])[0, positive])

    def _domain(self, afar: np.ndarray) -> str | None:
        if self._model.domain is None:
            return None
        return "in" if self._model.domain.predict(afar[None])[0] == 1 else "out"
