"""Dividing images into train, validation and test, patient by patient."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import pandas as pd

from ..exceptions import DataError


def balanced_subset(
    frame: pd.DataFrame,
    train: int = 240,
    val: int = 240,
    test: int | None = 234,
    random_state: int | None = None,
) -> pd.DataFrame:
    """Draw a subset with equally many images of both classes in each split, patient by patient.

    Training and validation images are both drawn from the official train split, since the official validation split
    of 16 images decides nothing. No patient is in two splits; of the last patient of a split and class, images may be
    left over, which are in none.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` returns it.
    train, val : int
        Images of each class.
    test : int or None
        Images of each class, from the test split; None takes all there are, balanced or not.
    random_state : int or None, default=None

    Returns
    -------
    DataFrame
        Rows of `frame`, sorted by path, with `split` as drawn.

    Raises
    ------
    DataError
        If a class has too few images, or a patient would be in two splits: in train and test already, or because of
        images of both classes.
    """
    for name, n in (("train", train), ("val", val), ("test", test)):
        if n is not None and (not isinstance(n, Integral) or n < 0):
            raise DataError(f"{name}={n!r} must be a number of images")
    draw = np.random.default_rng(random_state)
    parts = []
    for target, label in enumerate(("normal", "pneumonia")):
        rows = frame[frame["target"] == target]
        official = {split: rows[rows["split"] == split] for split in ("train", "test")}
        drawn = _draw_patients(official["train"], label, {"train": train, "val": val}, draw)
        drawn += [official["test"]] if test is None else _draw_patients(official["test"], label, {"test": test}, draw)
        parts += drawn
    subset = pd.concat(parts).sort_values("path")
    n_splits = subset.groupby("patient")["split"].nunique()
    if shared := n_splits.index[n_splits > 1].tolist():
        raise DataError(
            f"{len(shared)} patients would be in two splits, {shared[0]} among them; repair their rows first"
        )
    return subset


def _draw_patients(
    rows: pd.DataFrame, label: str, wanted: dict[str, int], draw: np.random.Generator
) -> list[pd.DataFrame]:
    """Fill the wanted splits one after the other; what a split leaves of its last patient is in none."""
    order = draw.permutation(rows["patient"].unique())
    # A stable sort by the patient's turn keeps a patient's images together.
    rows = rows.iloc[np.argsort(pd.Index(order).get_indexer(rows["patient"]), kind="stable")]
    n_all = len(rows)
    parts = []
    for split, n in wanted.items():
        part = rows.iloc[:n]
        if len(part) < n:
            raise DataError(
                f"{n} {label} images of patients in no other split were asked for as {split}, but {len(part)} of "
                f"{n_all} are left"
            )
        parts.append(part.assign(split=split))
        rows = rows[~rows["patient"].isin(part["patient"])]
    return parts
