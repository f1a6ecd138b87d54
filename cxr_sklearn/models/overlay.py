"""A radiograph with its heat map over it, as a picture."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike

from .._drawing import Figure, cm, colors, drawn_alike, mpl
from .._io import atomic_write, user_path
from ..exceptions import InputError

#: Perceptually uniform, and none of its colours is a grey of the radiograph.
_COLOURS = mpl.colormaps["plasma"]
#: Opacity of the hottest place; the radiograph must be seen through it.
_OPACITY = 0.6
#: By the ending of the file.
_FORMATS = {
    **{"": "png", ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".tif": "tiff", ".tiff": "tiff", ".webp": "webp"},
    **{".pdf": "pdf", ".svg": "svg"},
}
_CAVEAT = "What the classifier responded to. This is not a diagnosis."


def write_overlay(
    path: str | os.PathLike[str], image: ArrayLike, heat: ArrayLike, *, score: float, threshold: float | None = None
) -> None:
    """Draw a heat map over its radiograph and write it as a picture.

    Parameters
    ----------
    path : str or path
        A file there is replaced. Its ending says the format: ``.png`` (also without one), ``.jpg``, ``.tif``,
        ``.webp``, ``.pdf`` or ``.svg``.
    image : array-like of shape (H, W) or (H, W, 3) and dtype uint8
    heat : array-like of shape (H, W)
        From 0 to 1, as :func:`explain` returns it; the colder, the more transparent.
    score : float
        Probability of pneumonia.
    threshold : float or None, default=None
        Where scores become decisions; None leaves the decision out.

    Raises
    ------
    ValueError
        If image and map differ in size, the map is not within 0 and 1, or the ending is of another format.
    OSError
        If the file cannot be written.
    """
    file, kind = user_path(path), picture_format(path)
    grey, warmth = np.asarray(image), np.asarray(heat, dtype=float)
    grey = grey[:, :, 0] if grey.ndim == 3 else grey
    if grey.ndim != 2 or grey.shape != warmth.shape:
        raise InputError(f"an image of shape {np.shape(image)} and a map of shape {warmth.shape} do not fit together")
    if not ((warmth >= 0) & (warmth <= 1)).all():
        raise InputError("the map holds values outside 0 to 1; pass one that `explain` returned")
    height, width = grey.shape
    with drawn_alike({"font.size": 10, "text.parse_math": False}):
        figure = Figure(figsize=(6.2, 0.9 + 5.2 * min(max(height / width, 0.5), 2)), dpi=150, layout="constrained")
        axes = figure.subplots()
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
        axes.imshow(warmth, cmap=_COLOURS, vmin=0, vmax=1, alpha=_OPACITY * warmth, interpolation="bilinear")
        axes.set_axis_off()
        axes.set_title(_title(score, threshold))
        bar = figure.colorbar(cm.ScalarMappable(colors.Normalize(0, 1), _COLOURS), ax=axes, shrink=0.8, pad=0.03)
        bar.set_label("Raises the score (1: most)" if warmth.any() else "Nothing in the image raises the score")
        figure.supxlabel(_CAVEAT, fontsize=10)
        with atomic_write(file) as draft:
            figure.savefig(draft, format=kind)


def picture_format(path: str | os.PathLike[str]) -> str:
    """Return the format that the ending of a file says, for a check before the work begins.

    Raises
    ------
    InputError
        If it is not one in which a picture can be written.
    """
    suffix = user_path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(
            f"{path}: a picture cannot be written as {suffix}; choose from {', '.join(filter(None, _FORMATS))}"
        )
    return _FORMATS[suffix]


def _title(score: float, threshold: float | None) -> str:
    if threshold is None:
        return f"Score for pneumonia: {score:.3f}"
    decision = "pneumonia" if score >= threshold else "normal"
    return f"Score for pneumonia: {score:.3f} (threshold {threshold:.3f}: {decision})"
