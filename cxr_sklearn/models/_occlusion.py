"""Occlusion: how far the score falls where a part of the image is hidden."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..exceptions import InputError
from ..images.batch import ImageBatch
from ._gradcam import Explainer
from ._steps import without_stores

#: Places of the patch along either side; the patch is as wide as two of them, so that neighbours overlap by half.
N_PLACES = 14


def occlusion_maps(steps: list[Any]) -> Explainer:
    """Return the function that makes maps, float (k, N_PLACES, N_PLACES), for fitted steps from loaded images on."""
    if not hasattr(steps[-1], "predict_proba"):
        raise InputError(f"{type(steps[-1]).__name__} has no predict_proba; wrap it in a CalibratedClassifierCV")
    *before, classifier = (without_stores(step) for step in steps)

    def scores(views: np.ndarray) -> np.ndarray:
        entering: Any = ImageBatch(views)
        for step in before:
            entering = step.transform(entering)
        return classifier.predict_proba(entering)[:, 1]

    def explain(images: ImageBatch) -> np.ndarray:
        drops = []
        for i in range(len(images)):  # one by one: the views of an image fill more than a batch
            whole, *hidden = scores(occluded_views(images.decode(i)[:, :, 0]))
            drops.append((whole - np.array(hidden)).reshape(N_PLACES, N_PLACES))
        return np.array(drops)

    return explain


def occluded_views(grey: np.ndarray) -> np.ndarray:
    """Return an image, ``uint8 (H, W)``, then its views with a patch of its mean grey at each place, row by row."""
    place = np.arange(N_PLACES)
    ends = (np.array([place - 0.5, place + 1.5]) / N_PLACES).clip(0, 1)  # half a place beyond its own on either side
    (top, bottom), (left, right) = (np.rint(ends * length).astype(int) for length in grey.shape)
    views = np.repeat(grey[None], 1 + N_PLACES**2, axis=0)
    for view, (i, j) in zip(views[1:], np.ndindex(N_PLACES, N_PLACES), strict=True):
        view[top[i] : bottom[i], left[j] : right[j]] = round(grey.mean())
    return views
