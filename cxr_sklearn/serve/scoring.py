"""From the bytes of one file to an answer, with its picture and heat map."""

from __future__ import annotations

import base64
import io
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import ExifTags, Image
from pydantic import BaseModel, Field

from ..exceptions import ImageReadError, ModelError
from ..images._decoding import FORMATS, Decoding, reason_of, size_and_mode
from ..models.exported import ExportedModel

if TYPE_CHECKING:
    from ..models.model import CXRModel

_LONGEST_SIDE = 640
#: EXIF orientations that exchange width and height.
_LYING = (5, 6, 7, 8)


def picture(content: bytes, taken: Decoding | None) -> str:
    """Return an image that can be decoded as the data URL of a JPEG, upright and of the part that the model takes.

    Parameters
    ----------
    content : bytes
    taken : Decoding or None
        How the model decodes images, if it looks at one size of them.
    """
    crop = 1.0 if taken is None else taken.crop
    if taken is None or taken.resize == "stretch":
        width, height = (side * crop for side in _upright_size(content))
        resize, largest = "stretch", 1.0
    else:
        width, height, resize = taken.width, taken.height, taken.resize
        largest = np.inf
    scale = min(largest, _LONGEST_SIDE / max(width, height))
    shown = Decoding(max(round(height * scale), 1), max(round(width * scale), 1), resize, crop)(content)
    return _data_url(Image.fromarray(shown), "JPEG")


def heat_picture(heat: np.ndarray) -> str:
    """Return a heat map as the data URL of a PNG: opacity is heat, and colour goes from yellow to red with it.

    Parameters
    ----------
    heat : ndarray of shape (H, W)
        From 0 to 1.
    """
    level = np.rint(255 * np.clip(heat, 0, 1)).astype(np.uint8)
    full, none = np.full_like(level, 255), np.zeros_like(level)
    return _data_url(Image.fromarray(np.dstack([full, 255 - level, none, level])), "PNG")


def _upright_size(content: bytes) -> tuple[int, int]:
    width, height, _ = size_and_mode(content)
    if content[128:132] == b"DICM":
        return width, height
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        # Pillow tells the size of a TIFF as it is upright.
        is_lying = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation) in _LYING
    return (height, width) if is_lying else (width, height)


def _data_url(image: Image.Image, format: str) -> str:
    file = io.BytesIO()
    image.save(file, format)
    return f"data:image/{format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


class Answer(BaseModel):
    """What a model says of one file."""

    filename: str
    score: float | None = Field(description="Probability of pneumonia; null if there is an error.")
    decision: Literal["pneumonia", "normal"] | None = Field(
        description="Pneumonia where the score is at the threshold or above."
    )
    threshold: float
    domain: Literal["in", "out"] | None = Field(
        description="Out: unlike the images that the model was trained on, so the score means nothing. "
        "Null: the model cannot tell."
    )
    error: str | None = Field(description="Why there is no score.")
    heat: str | None = Field(None, description="PNG data URL whose opacity is what raised the score.")
    picture: str | None = Field(None, description="JPEG data URL of the image as the model takes it.")


class Scorer:
    """Scores one image at a time, also when several threads ask: networks are not thread-safe, and memory is finite.

    The model is given the content of the file in place of its path, so scores and decisions are those of the file.

    Parameters
    ----------
    model : CXRModel or ExportedModel
        Loaded with ``store=None``, so that nothing of the images is kept.

    Raises
    ------
    ModelError
        If the model cannot score images that are not files.
    """

    def __init__(self, model: CXRModel | ExportedModel) -> None:
        self.model = model
        self._lock = Lock()
        #: How the model decodes files, if it looks at one size of them.
        self._taken = _checked_decoding(model)
        self.explains = self._taken is not None and not isinstance(model, ExportedModel)
        blank = _blank()
        try:
            self._decided(blank)
            self._domain(blank)  # joblib counts the cores at its first call, with a program of its own
        except Exception as error:  # a pipeline can hold parts of the user's own
            raise ModelError(
                f"the model cannot score images that are not files: {type(error).__name__}: {error}"
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
                score, decision = self._decided(content)
                domain = self._domain(content)
            except ImageReadError as error:
                (reason,) = error.failures.values()
                return self._answer(filename, error=reason)
            try:
                shown = picture(content, self._taken) if with_picture else None
            except Exception as error:  # noqa: BLE001 - there is no telling what bytes make a codec raise
                return self._answer(filename, error=reason_of(error))
            if not np.isfinite(score):
                return self._answer(filename, error="the model gives it no score")
            return self._answer(
                filename,
                score=score,
                decision=self.model.class_names[decision],
                domain=domain,
                heat=self._heat(content) if heat and self.explains else None,
                picture=shown,
            )

    def _answer(self, filename: str, **known: Any) -> Answer:
        facts = {"score": None, "decision": None, "domain": None, "error": None, **known}
        return Answer(filename=filename, threshold=self.model.threshold, **facts)

    def _decided(self, content: bytes) -> tuple[float, int]:
        """Return the score, which may be NaN, and the position of the class that is decided for."""
        if isinstance(self.model, ExportedModel):
            scores, decisions = self.model.scores_and_decisions([content])
        else:
            probabilities = self.model.predict_proba([content])
            scores, decisions = probabilities[:, 1], self.model.decide(probabilities)
        return float(scores[0]), int(decisions[0])

    def _heat(self, content: bytes) -> str:
        from ..models.explain import explain

        return heat_picture(explain(self.model, [content])[0])

    def _domain(self, content: bytes) -> str | None:
        if isinstance(self.model, ExportedModel) or self.model.domain is None:
            return None
        return "in" if self.model.domain.predict([content])[0] == 1 else "out"


def _checked_decoding(model: CXRModel | ExportedModel) -> Decoding | None:
    if isinstance(model, ExportedModel):
        return model.decoding
    # An exported model is served without these, which take seconds to import.
    from ..models._steps import loader_of
    from ..models.model import check_threshold

    check_threshold(model.threshold)
    loader = loader_of(model)
    return None if loader is None else loader.decoding()


def _blank() -> bytes:
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "PNG")
    return file.getvalue()
