"""Images with their classes and weights, and the part of them that is held out for early stopping."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import StratifiedGroupKFold

from ..exceptions import ImageReadError, InputError
from ..images import ImageBatch
from ..routing import check_groups


@dataclass(frozen=True)
class Examples:
    """Images with their classes as integers and their weights."""

    images: ImageBatch
    target: np.ndarray
    weight: np.ndarray

    def take(self, rows: np.ndarray) -> Examples:
        """Return the examples at the given positions."""
        return Examples(self.images[rows], self.target[rows], self.weight[rows])

    def __len__(self) -> int:
        return len(self.target)


def hold_out(examples: Examples, groups: ArrayLike | None, fraction: float, seed: int) -> tuple[Examples, Examples]:
    """Split off whole groups, about `fraction` of the images, by class.

    Raises
    ------
    ValueError
        If there are too few groups for every class to be on both sides.
    """
    classes = np.unique(examples.target)
    by = check_groups(groups, len(examples))
    n_groups = [len(np.unique(by[examples.target == k])) for k in classes]
    n_splits = min(round(1 / fraction), max(n_groups))
    if min(n_groups) < 2:
        raise InputError(
            "early stopping holds images out, which needs two or more images (or groups) of every class; "
            "pass X_val and y_val, or early_stopping=False"
        )
    folds = StratifiedGroupKFold(n_splits, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # A class with fewer groups than folds is absent from some folds; the next lines see to that.
        warnings.filterwarnings("ignore", message="The least populated class")
        splits = list(folds.split(by, examples.target, by))
    complete = [s for s in splits if all(len(np.unique(examples.target[rows])) == len(classes) for rows in s)]
    if not complete:
        raise InputError(
            "no hold-out of whole groups leaves every class on both sides; pass X_val and y_val, or "
            "early_stopping=False"
        )
    train, held_out = complete[0]
    return examples.take(train), examples.take(held_out)


@contextmanager
def every_unreadable(*batches: ImageBatch) -> Iterator[None]:
    """Where one image cannot be read, look at all of them, so that one error lists every one."""
    try:
        yield
    except ImageReadError as error:
        failures = dict(error.failures)
        for batch in batches:
            failures |= batch.failures()
        # Several views may be of one file.
        raise ImageReadError(failures, len({batch.name(i) for batch in batches for i in range(len(batch))})) from error
