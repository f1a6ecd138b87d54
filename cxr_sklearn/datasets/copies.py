"""Images that are the same radiograph: byte by byte, or to the eye."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

#: Correlation from which two images are one radiograph, saved twice. Among 5,000 radiographs of the public set no two
#: different ones exceed .80; saved again as JPEG of quality 30, or at half the size, one stays above .99.
SIMILAR = 0.95
_BLOCK = 1024


def identical_groups(keys: Sequence[bytes | None]) -> list[np.ndarray]:
    """Return the positions of equal keys, a group of two or more each; None is equal to nothing."""
    positions: dict[bytes, list[int]] = {}
    for i, key in enumerate(keys):
        if key is not None:
            positions.setdefault(key, []).append(i)
    return [np.array(group) for group in positions.values() if len(group) > 1]


def similar_groups(spectra: np.ndarray) -> list[np.ndarray]:
    """Return the positions of images that look alike, a group of two or more each.

    Two images are compared by the correlation of their low frequencies, weighted so that all of them count: the
    spectrum of radiographs falls with the frequency, and the lowest ones are much the same in all chests. The measure
    hardly changes with size, compression, inversion or a linear change of the grey levels; it does with one that cuts
    them off or bends them, and with a crop, a border, a marker, a turn or a mirror image.

    Parameters
    ----------
    spectra : ndarray of shape (n, k * k - 1)
        Of :func:`cxr_sklearn.descriptors.describe`; none of them of a blank image.

    Returns
    -------
    list of ndarray of int
    """
    n, side = len(spectra), round((spectra.shape[1] + 1) ** 0.5)
    frequency = np.hypot(*np.meshgrid(np.arange(side), np.arange(side))).ravel()[1:]
    weighted = (spectra * frequency**1.5).astype(np.float32)
    weighted /= np.linalg.norm(weighted, axis=1, keepdims=True)
    rows, columns = [np.empty(0, int)], [np.empty(0, int)]
    for start in range(0, n, _BLOCK):
        alike = np.abs(weighted[start : start + _BLOCK] @ weighted[start:].T) >= SIMILAR
        i, j = np.nonzero(np.triu(alike, 1))
        rows.append(i + start)
        columns.append(j + start)
    i, j = np.concatenate(rows), np.concatenate(columns)
    _, labels = connected_components(coo_array((np.ones(len(i), bool), (i, j)), shape=(n, n)), directed=False)
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return [group for group in groups if len(group) > 1]
