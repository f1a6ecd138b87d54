"""Drawn radiographs: one thorax after another, as either of two hospitals would take it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FloatMap = NDArray[np.floating[Any]]
# The map is drawn beyond the image's edge, so that a shifted or turned pose does not run out of body.
_MARGIN = 1.15
_IMAGES_PER_PATIENT = (0.4, 0.3, 0.2, 0.1)


def draw_patient(subtype: str | None, size: int, style: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one patient and take one to four images.

    Parameters
    ----------
    subtype : {"bacteria", "virus"} or None
        Of the pneumonia; None draws a healthy patient.
    size : int
        Width and height in pixels.
    style : {"A", "B"}
        The hospital.
    rng : Generator

    Returns
    -------
    ndarray of shape (n_images, size, size) and dtype uint8
    """
    thorax = _draw_thorax(round(size * _MARGIN), rng)
    attenuation = _soft_tissue(thorax, rng) + _skeleton(thorax, rng) + _vessels(thorax, rng)
    if subtype is not None:
        attenuation += _opacities(subtype, thorax, rng)
    n_images = 1 + int(rng.choice(len(_IMAGES_PER_PATIENT), p=_IMAGES_PER_PATIENT))
    expose = {"A": _expose_a, "B": _expose_b}[style]
    return np.stack([expose(_pose(attenuation, size, rng), rng) for _ in range(n_images)])


class _Thorax(NamedTuple):
    """The geometry that several organs share; the maps broadcast to (canvas, canvas)."""

    x: FloatMap
    y: FloatMap
    cage: FloatMap  # distance of the ribs' inner side from the midline at each height
    apex: float
    base: float
    lungs: FloatMap  # 1 in aerated lung, 0 outside
    body: FloatMap


def _inside(distance: FloatMap, softness: float) -> FloatMap:
    """Return a mask with a soft edge: 1 where the distance to the edge is positive, 0 where it is negative."""
    return 0.5 + 0.5 * np.tanh(distance / (2 * softness))


def _blob(t: _Thorax, x: float, y: float, rx: float, ry: float) -> FloatMap:
    return np.exp(-(((t.x - x) / rx) ** 2) - ((t.y - y) / ry) ** 2)


def _draw_thorax(canvas: int, rng: np.random.Generator) -> _Thorax:
    axis = np.linspace(-_MARGIN, _MARGIN, canvas, dtype=np.float32)
    x, y = axis[np.newaxis, :], axis[:, np.newaxis]
    side, apex, base = abs(x), rng.uniform(-0.82, -0.7), rng.uniform(0.42, 0.66)
    width, bulge, hilum = rng.uniform(0.68, 0.84), rng.uniform(2.0, 2.8), rng.uniform(0.1, 0.15)
    depth = np.clip((y - apex) / (base - apex), 0, 1)
    cage = width * (1 - (1 - depth) ** bulge) ** (1 / bulge) * (1 + 0.06 * depth)
    lift = rng.uniform(0.0, 0.08) * _inside(-x, 0.01)  # the liver holds the dome on image left up
    diaphragm = base - rng.uniform(0.14, 0.24) * np.cos((side - 0.36) * 2.9) + 0.1 - lift
    lungs = _inside(cage - side, 0.02) * _inside(side - hilum - 0.05 * depth, 0.02) * _inside(diaphragm - y, 0.015)
    neck, shoulders = 0.3, rng.uniform(0.9, 1.05)
    outline = neck + (shoulders - neck) * _inside(y + rng.uniform(0.78, 0.9), 0.05) - 0.06 * np.clip(y, 0, 1)
    return _Thorax(x, y, cage, apex, base, lungs * (1 - _heart(x, y, base, rng)), _inside(outline - side, 0.02))


def _heart(x: FloatMap, y: FloatMap, base: float, rng: np.random.Generator) -> FloatMap:
    """Return the shadow of the heart, mostly on image right."""
    rx, ry, tilt = rng.uniform(0.3, 0.42), rng.uniform(0.25, 0.34), rng.uniform(0.4, 0.8)
    dx, dy = x - rng.uniform(0.08, 0.14), y - (base - rng.uniform(0.2, 0.26))
    along, across = dx * np.cos(tilt) + dy * np.sin(tilt), dy * np.cos(tilt) - dx * np.sin(tilt)
    return _inside(1 - np.hypot(along / rx, across / ry), 0.07)


def _soft_tissue(t: _Thorax, rng: np.random.Generator) -> FloatMap:
    abdomen, mediastinum = _inside(t.y - t.base + 0.1, 0.15), np.exp(-((t.x / 0.22) ** 2))
    trachea = 0.22 * _inside(0.05 - abs(t.x - 0.01), 0.015) * _inside(-0.3 - t.y, 0.05)
    gas = rng.uniform(0.0, 0.4) * _blob(t, rng.uniform(0.3, 0.5), t.base + rng.uniform(0.08, 0.2), 0.13, 0.08)
    breasts = rng.uniform(0.0, 0.2) * _inside(1 - ((abs(t.x) - 0.5) / 0.36) ** 2 - ((t.y - 0.3) / 0.36) ** 2, 0.15)
    tissue = t.body * (0.85 + 0.25 * abdomen + 0.25 * mediastinum)
    return tissue - trachea - gas + breasts - rng.uniform(0.62, 0.75) * t.lungs


def _skeleton(t: _Thorax, rng: np.random.Generator) -> FloatMap:
    side, gap, start, slope = abs(t.x), rng.uniform(0.15, 0.19), rng.uniform(0, 1), rng.uniform(0.5, 0.9)
    posterior = np.cos(2 * np.pi * ((t.y - slope * (side - 0.15) ** 2) / gap + start))
    anterior = np.cos(2 * np.pi * ((t.y + slope * side - 0.5 * side**2) / (1.2 * gap) + start))
    ribs = 0.12 * _inside(posterior - 0.35, 0.12) + 0.07 * _inside(anterior - 0.3, 0.15) * _inside(side - 0.32, 0.05)
    ribs *= _inside(t.cage + 0.03 - side, 0.015) * _inside(t.base + 0.1 - t.y, 0.06)
    spine = _inside(0.085 - side, 0.012) * (0.1 + 0.025 * np.cos(2 * np.pi * t.y / rng.uniform(0.14, 0.18)))
    collar = t.y - rng.uniform(-0.66, -0.56) + 0.22 * (side - 0.08) - 0.05 * np.sin(side * 7)
    clavicles = 0.2 * _inside(0.035 - abs(collar), 0.01) * _inside(side - 0.08, 0.015) * _inside(0.8 - side, 0.02)
    return ribs + spine + clavicles * t.body


def _vessels(t: _Thorax, rng: np.random.Generator) -> FloatMap:
    """Return branches that fan out from each hilum and become thinner towards the pleura."""
    dx, dy, noise = abs(t.x) - 0.2, t.y + 0.05, rng.standard_normal((64, 12)).astype(np.float32)
    radius, angle = np.hypot(dx, dy), np.arctan2(dy, dx) + 2 * np.sign(t.x)
    branches = ndimage.map_coordinates(noise, [angle * 9, radius * 9], order=1, mode="wrap")
    return 0.12 * np.exp(-((dx / 0.09) ** 2) - (dy / 0.16) ** 2) + 0.07 * t.lungs * np.exp(-radius / 0.35) * branches


def _opacities(subtype: str, t: _Thorax, rng: np.random.Generator) -> FloatMap:
    """Return patchy opacities: one in a zone of one lung for bacteria, several fainter ones in both for a virus."""
    coarse = rng.uniform(0.4, 1.6, (14, 14)).astype(np.float32)
    patchiness = ndimage.zoom(coarse, len(t.y) / len(coarse), order=1)
    if subtype == "bacteria":
        x, y = float(rng.choice((-1, 1))) * rng.uniform(0.3, 0.5), rng.uniform(t.apex + 0.3, t.base - 0.15)
        lobe = _blob(t, x, y, rng.uniform(0.2, 0.32), rng.uniform(0.16, 0.28))
        return rng.uniform(0.36, 0.55) * _inside(lobe * patchiness - 0.45, 0.12) * t.lungs
    patches = np.zeros_like(t.lungs)
    for i in range(rng.integers(6, 11)):
        x, y = (-1) ** i * rng.uniform(0.2, 0.6), rng.uniform(t.apex + 0.25, t.base - 0.1)
        patches += rng.uniform(0.18, 0.36) * _blob(t, x, y, rng.uniform(0.08, 0.15), rng.uniform(0.08, 0.15))
    return patches * patchiness * t.lungs


def _pose(attenuation: FloatMap, size: int, rng: np.random.Generator) -> FloatMap:
    """Return what reaches the detector: the patient turned, moved and magnified a little, and uneven scatter."""
    angle, scale = rng.normal(0, 0.05), rng.normal(1.0, 0.05)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corner = (len(attenuation) - 1) / 2 + rng.normal(0, 0.04, 2) * size - turn @ np.full(2, (size - 1) / 2)
    image = ndimage.affine_transform(attenuation, turn, corner, (size, size), order=1, mode="nearest")
    axis, scatter = np.linspace(-1, 1, size, dtype=np.float32), rng.normal(0, 0.06, 2)
    image += scatter[0] * axis + scatter[1] * axis[:, np.newaxis]
    return image


def _expose_a(image: FloatMap, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Expose automatically for brightness and contrast, with the noise of single pixels."""
    image = (image - image.mean()) / image.std()
    image += rng.uniform(0.04, 0.1) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(rng.uniform(110, 145) + rng.uniform(46, 62) * image, 0, 255).astype(np.uint8)


def _expose_b(image: FloatMap, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Expose for a soft picture: from the darkest to the brightest part, dark tones lifted, with coarser noise."""
    size = len(image)
    darkest, brightest = np.quantile(image, (0.02, 0.98))
    image = np.clip((image - darkest) / (brightest - darkest), 0, 1.15) ** rng.uniform(0.57, 0.73)
    grain = ndimage.gaussian_filter(rng.standard_normal(image.shape, dtype=np.float32), 0.003 * size)
    image += rng.uniform(0.01, 0.02) / grain.std() * grain
    image = 30 + rng.uniform(170, 195) * image
    _mark_side(image, rng)
    return np.clip(image * _collimator(size, rng), 0, 255).astype(np.uint8)


def _mark_side(image: FloatMap, rng: np.random.Generator) -> None:
    """Lay a letter of lead, an L, beside the patient's left shoulder."""
    size = len(image)
    left, top = (size * rng.uniform((0.84, 0.1), (0.88, 0.16))).astype(int)
    stroke, height, width = (max(round(size * part), 1) for part in (0.012, 0.06, 0.036))
    image[top : top + height, left : left + stroke] = 250
    image[top + height - stroke : top + height, left : left + width] = 250


def _collimator(size: int, rng: np.random.Generator) -> FloatMap:
    """Return 1 in the field of the beam and nearly 0 on the border that its shutters leave unexposed."""
    left, top, right, bottom = (size * rng.uniform(0.01, 0.04, 4)).round().astype(int)
    field = np.full((size, size), 0.02, dtype=np.float32)
    field[top : size - bottom, left : size - right] = 1
    return field
