"""Feature rows of images, computed only where the store has none: the loop that every cached transformer shares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext

import numpy as np
from joblib import Parallel, delayed, effective_n_jobs

from .exceptions import ImageReadError
from .images import ImageBatch
from .store import FeatureStore, NoStore

#: From the images of a chunk and their decoded pixels, each ``uint8 (H, W, 3)``, to ``float32 (k, d)``.
Compute = Callable[[ImageBatch, list[np.ndarray]], np.ndarray]
#: The rows of some images, how many of them were computed here (not by another process meanwhile), and how many images
#: were looked at.
Computed = Generator[tuple[dict[bytes, np.ndarray], int, int]]
#: A worker gets at most so many chunks at a time: it decodes one while it computes another, and what it had in hand is
#: lost if it dies.
_CHUNKS_AT_ONCE = 8


def stored_rows(
    batch: ImageBatch,
    store: FeatureStore | NoStore,
    compute: Compute,
    *,
    chunk_size: int,
    advance: Callable[[int], None],
    n_jobs: int | None = None,
) -> tuple[np.ndarray, int]:
    """Return one feature row per image and how many images had to be computed; as :func:`readable_rows` does it.

    Raises
    ------
    ImageReadError
        If images cannot be read; the rows of all others are in the store by then.
    StoreError
        If the store cannot be read or written.
    """
    rows, n_computed, failures = readable_rows(
        batch, store, compute, chunk_size=chunk_size, advance=advance, n_jobs=n_jobs
    )
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
    n_jobs: int | None = None,
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
    n_jobs : int or None, default=None
        Workers of the joblib backend that share the missing images out; they compute, and only the caller writes.

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
    n_workers = 1 if _is_worker() else min(effective_n_jobs(n_jobs), -(-len(pending) // chunk_size))
    missing, wanted = list(pending), batch[np.array([first for first, *_ in pending.values()], dtype=np.intp)]
    computing = (
        _compute(missing, wanted, store, compute, chunk_size, failures)
        if n_workers <= 1
        else _share_out(missing, wanted, store, compute, chunk_size, failures, n_workers)
    )
    with closing(computing), store.kept_open() if pending else nullcontext():
        for fresh, n, n_tried in computing:
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
    keys: list[bytes],
    wanted: ImageBatch,
    store: FeatureStore | NoStore,
    compute: Compute,
    chunk_size: int,
    failures: dict[str, str],
) -> Computed:
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


def _share_out(
    keys: list[bytes],
    wanted: ImageBatch,
    store: FeatureStore | NoStore,
    compute: Compute,
    chunk_size: int,
    failures: dict[str, str],
    n_workers: int,
) -> Computed:
    n_chunks = -(-len(keys) // chunk_size)
    step = chunk_size * min(max(n_chunks // (4 * n_workers), 1), _CHUNKS_AT_ONCE)
    shares = [slice(start, start + step) for start in range(0, len(keys), step)]
    tasks = (delayed(readable_rows)(wanted[share], NoStore(), compute, chunk_size=chunk_size, advance=_tell_nobody)
             for share in shares)  # fmt: skip
    answers = Parallel(n_jobs=n_workers, batch_size=1, return_as="generator")(tasks)
    for share, (rows, _, failed) in zip(shares, answers, strict=True):
        failures |= failed
        images = range(len(keys))[share]
        computed = {keys[i]: row for i, row in zip(images, rows, strict=True) if wanted.name(i) not in failed}
        with store.claim(list(computed)) as (missing, kept):
            kept |= {key: computed[key] for key in missing}
        yield kept, len(missing), len(images)


def _is_worker() -> bool:
    """Whether this is a task on a Dask worker: the folds there would each share the same images out once more."""
    if "distributed" not in sys.modules:
        return False
    try:
        sys.modules["distributed"].get_worker()
    except ValueError:
        return False
    return True


def _tell_nobody(steps: int) -> None:
    pass


def _indices(keys: Sequence[bytes], readable: dict[bytes, tuple[int, np.ndarray]]) -> np.ndarray:
    return np.array([readable[key][0] for key in keys])
