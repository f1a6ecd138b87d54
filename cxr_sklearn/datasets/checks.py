"""What is wrong with a set of radiographs before anything is trained on it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ..descriptors import BLANK, MODES, Descriptors, describe
from .copies import identical_groups, similar_groups
from .findings import leak_sentences, warning_sentences
from .folder import SPLIT_NAMES, checked_frame, names_no_patient
from .giveaways import auc_of

#: Correlation with the typical image below which one is a negative; the least typical radiograph has +.2.
INVERTED = -0.2
#: So few images have no typical one.
_MIN_TYPICAL = 10


def check(frame: pd.DataFrame, *, store: str | os.PathLike[str] | None = "auto", verbose: int = 0) -> dict[str, Any]:
    """Look for what makes results wrong: leaks between splits, copies, unreadable files, labels given away.

    Every file is decoded once; what was found out about it is kept in the store, so a second check is quick. A
    near-identical image is the same radiograph saved again: compressed, resized, as a negative, or a little brighter. A
    crop, a border, a marker, a turn, a mirrored copy or a strong change of contrast is not found.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` or :func:`load_frame` returns it; `path`, `target`, `split` and `patient` are used, and
        `subtype` if it has it.
    store : str, path or None, default="auto"
        As for :class:`FrozenEmbedder`.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    dict
        What `cxr-sklearn check --json` prints:

        - "images", "patients", "patients_unknown" (images whose names tell no patient), "left_out" (image files that
          :func:`load_folder` passed by, being in no class folder) and "counts", a list with "images" and "patients" by
          "split", "label" and "subtype";
        - "unreadable": the reason by path;
        - "identical" and "near_identical": groups with their "paths", "splits", "labels" and "patients"; a
          near-identical group holds at least two different files;
        - "patients_in_several_splits": the splits by patient;
        - "width", "height": smallest, median and largest, in pixels; "modes": images by Pillow's mode and label;
        - "auc": how well "size" and "mode" alone predict the label, cross-validated by patient; None for too few;
        - "blank", "inverted": paths;
        - "leaks", "warnings": sentences. The set is fit for use when there are no leaks and no unreadable files.

    Raises
    ------
    DataError
        If the frame lacks a column or a value, or has one that is unknown.
    ImageReadError
        If a file changes while it is being read.
    StoreError
        If the store cannot be read or written.

    References
    ----------
    Zauner (2010). Implementation and benchmarking of perceptual image hash functions. Near-identical images are found
    as there by the low frequencies of their cosine transform, compared as numbers instead of bits.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from cxr_sklearn import load_folder, write_radiographs
    >>> from cxr_sklearn.datasets import check
    >>> with TemporaryDirectory() as folder:
    ...     _ = write_radiographs(folder, 40, size=64, random_state=0)
    ...     check(load_folder(folder), store=None)["leaks"]
    []
    """
    rows = checked_frame(frame).reset_index(drop=True)
    seen = describe(rows["path"], store, "Checking images", verbose)
    readable = ~rows["path"].isin(seen.failures).to_numpy()
    is_blank = readable & (seen.measures["contrast"].to_numpy() < BLANK)
    found = {
        "images": len(rows),
        "patients": int(rows["patient"].nunique()),
        "patients_unknown": int(names_no_patient(rows).sum()),
        "left_out": frame.attrs.get("left_out", (0, []))[0],
        "counts": _counts(rows),
        "unreadable": seen.failures,
        **_copies(rows, seen, readable & ~is_blank),
        "patients_in_several_splits": _in_several_splits(rows),
        **_sizes_and_modes(rows[readable], seen.measures[readable]),
        "blank": rows["path"][is_blank].tolist(),
        "inverted": rows["path"][_inverted(seen.spectra, readable & ~is_blank)].tolist(),
    }
    return {**found, "leaks": leak_sentences(found), "warnings": warning_sentences(found, frame.attrs)}


def _counts(rows: pd.DataFrame) -> list[dict[str, Any]]:
    by = {name: rows[name] if name in rows else pd.Series(None, rows.index, dtype="str")
          for name in ("split", "label", "subtype")}  # fmt: skip
    table = pd.DataFrame(by).assign(patient=rows["patient"])
    counted = table.groupby(list(by), dropna=False)["patient"].agg(["size", "nunique"]).reset_index()
    counted = counted.sort_values("split", key=lambda split: split.map(SPLIT_NAMES.index, "ignore"), kind="stable")
    return [
        {
            **{name: None if pd.isna(row[name]) else row[name] for name in by},
            "images": row["size"],
            "patients": row["nunique"],
        }
        for row in counted.to_dict("records")
    ]


def _in_several_splits(rows: pd.DataFrame) -> dict[str, list[str]]:
    used = rows[rows["split"].notna()]
    splits = used.groupby("patient")["split"].unique()
    return {str(patient): _in_order(names) for patient, names in splits.items() if len(names) > 1}


def _in_order(splits: Iterable[str]) -> list[str]:
    return sorted(set(splits), key=SPLIT_NAMES.index)


def _copies(rows: pd.DataFrame, seen: Descriptors, comparable: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Groups of identical files, and of images that look alike although their files differ."""
    identical = identical_groups(seen.keys)
    # One of each content is compared with the others; its copies belong to the same group.
    copies = {int(group[0]): group for group in identical}
    repeated = np.zeros(len(rows), dtype=bool)
    for group in identical:
        repeated[group[1:]] = True
    firsts = np.flatnonzero(comparable & ~repeated)
    near = [
        np.sort(np.concatenate([copies.get(i, np.array([i])) for i in firsts[group].tolist()]))
        for group in similar_groups(seen.spectra[firsts])
    ]
    return {"identical": _groups(rows, identical), "near_identical": _groups(rows, near)}


def _groups(rows: pd.DataFrame, groups: Iterable[np.ndarray]) -> list[dict[str, Any]]:
    described = []
    for group in groups:
        part = rows.iloc[group]
        # One of each split first: these are the ones that a sentence shows.
        part = part.iloc[np.argsort(part.groupby("split", dropna=False).cumcount(), kind="stable")]
        described.append(
            {"paths": part["path"].tolist(), "splits": _in_order(part["split"].dropna()),
             "labels": sorted(part["label"].unique()), "patients": sorted(part["patient"].unique())}
        )  # fmt: skip
    return described


def _sizes_and_modes(rows: pd.DataFrame, measures: pd.DataFrame) -> dict[str, Any]:
    if not len(rows):
        return {"width": None, "height": None, "modes": {}, "auc": {"size": None, "mode": None}}
    width, height, mode = (measures[name].to_numpy() for name in ("width", "height", "mode"))
    modes = pd.Series([MODES[int(code)] if code >= 0 else "other" for code in mode], rows.index)
    return {
        "width": _range(width),
        "height": _range(height),
        "modes": {
            str(name): {str(label): int(n) for label, n in part.value_counts().items()}
            for name, part in rows["label"].groupby(modes)
        },
        "auc": {
            "size": auc_of(np.stack([width, height, width / height], axis=1), rows),
            "mode": auc_of(mode[:, None] == np.unique(mode), rows),
        },
    }


def _range(values: np.ndarray) -> list[int]:
    return [int(values.min()), int(np.median(values)), int(values.max())]


def _inverted(spectra: np.ndarray, comparable: np.ndarray) -> np.ndarray:
    """Positions of images that look like the negative of the typical one."""
    rows = np.flatnonzero(comparable)
    if len(rows) < _MIN_TYPICAL:
        return rows[:0]
    unit = spectra[rows] / np.linalg.norm(spectra[rows], axis=1, keepdims=True)
    # The median, so that a few negatives do not make themselves typical.
    typical = np.median(unit, axis=0)
    return rows[unit @ (typical / np.linalg.norm(typical)) < INVERTED]
