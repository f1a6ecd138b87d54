"""Feature rows of images, computed only where the store has none: the loop that every cached transformer shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .exceptions import ImageReadError
from .images import ImageBatch
from .store import FeatureStore, NoStore

#: From the images of a chunk and their decoded pixels, each ``uint8 (H, W, 3)``, to ``float32 (k, d)``.
Compute = Callable[[ImageBatch, list[np.ndarray]], np.ndarray]


def stored_rows(
    batch: ImageBatch,
    store: FeatureStore | NoStore,
    compute: Compute,
    *,
    chunk_size: int,
    advance: Callable[[int], None],
) -> tuple[np.ndarray, int]:
    """Return one feature row per image and how many images had to be computed; as :func:`readable_rows` does it.

    Raises
    ------
    ImageReadError
        If images cannot be read; the rows of all others are in the store by then.
    StoreError
        If the store cannot be read or written.
    """
    rows, n_computed, failures = readable_rows(batch, store, compute, chunk_size=chunk_size, advance=advance)
    if failures:
        raise ImageReadError(failures, len(batch))
    return rows, n_computed


def readable_rows(
    batch: ImageBatch,
    store: FeatureStore | NoStore,
    compute: Compute,
    *,
    chunk_size: int,
    advance: Callable[[int], None],
) -> tuple[np.ndarray, int, dict[str, str]]:
    """Return one feature row per image, how many images had to be computed, and which cannot be read.

    Images are decoded ahead in threads and computed in chunks; a finished chunk is in the store before the next one
    starts. Images with equal content keys are computed once.

    Parameters
    ----------
    batch : ImageBatch of n images
    store : FeatureStore or NoStore
    compute : callable
    chunk_size : int
        Images per call of `compute`.
    advance : callable
        Told how many images are done, for a progress bar.

    Returns
    -------
    rows : ndarray of shape (n, d) and dtype float32
        Zeros where an image cannot be read; d is 0 where none can.
    n_computed : int
    failures : dict of str to str
        The reason for each unreadable image, by path.

    Raises
    ------
    StoreError
        If the store cannot be read or written.
    """
    batch = batch.pinned(store.digests)
    keys, failures = batch.content_keys()
    rows, found = store.read([key or b"" for key in keys])
    pending: dict[bytes, list[int]] = {}
    for i in np.flatnonzero(~found).tolist():
        if (key := keys[i]) is not None:
            pending.setdefault(key, []).append(i)
    advance(len(batch) - len(pending))
    n_computed = 0
    for fresh, n, n_tried in _compute(batch, pending, store, compute, chunk_size, failures):
        for key, row in fresh.items():
            if rows.shape[1] == 0:
                rows = np.zeros((len(batch), len(row)), dtype=np.float32)
            rows[pending[key]] = row
        n_computed += n
        advance(n_tried)
    for first, *others in pending.values():
        if reason := failures.get(batch.name(first)):
            failures |= {batch.name(i): reason for i in others}
    return rows, n_computed, failures


def _compute(
    batch: ImageBatch,
    pending: dict[bytes, list[int]],
    store: FeatureStore | NoStore,
    compute: Compute,
    chunk_size: int,
    failures: dict[str, str],
) -> Iterator[tuple[dict[bytes, np.ndarray], int, int]]:
    """Yield the rows of each chunk, how many were computed here (not by another process meanwhile), and its size."""
    wanted = batch[np.array([positions[0] for positions in pending.values()], dtype=np.intp)]
    keys = list(pending)
    for start, chunk in zip(range(0, len(keys), chunk_size), wanted.decode_ahead(chunk_size), strict=True):
        readable: dict[bytes, tuple[int, np.ndarray]] = {}
        for i, pixels in enumerate(chunk, start):
            if isinstance(pixels, ImageReadError):
                failures |= pixels.failures
            else:
                readable[keys[i]] = (i, pixels)
        with store.claim(list(readable)) as (missing, rows):
            if missing:
                computed = compute(wanted[_indices(missing, readable)], [readable[key][1] for key in missing])
                rows.update(zip(missing, computed, strict=True))
        yield rows, len(missing), len(chunk)


def _indices(keys: Sequence[bytes], readable: dict[bytes, tuple[int, np.ndarray]]) -> np.ndarray:
    return np.array([readable[key][0] for key in keys])
