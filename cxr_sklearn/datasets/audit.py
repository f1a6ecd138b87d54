"""check: leaks, copies and other faults of a set of radiographs that make results wrong."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from .._settings import one_blas_thread, usual_settings
from .._validation import checks_types
from ..features._image_stats import BLANK, MODES, ImageStats, image_stats
from ._frame import MIN_IMAGES_PER_CLASS, SPLIT_NAMES, checked_frame, counted, names_no_patient
from .shift import draw_patients, shift_columns, shift_sentences, split_shift

#: Correlation with the typical image below which an image is a negative; that of radiographs is +.2 or more.
INVERTED = -0.2
#: Fewer images do not show what is typical.
_MIN_TYPICAL = 10


@usual_settings
@checks_types
def check(frame: pd.DataFrame, *, store: str | os.PathLike[str] | None = "auto", verbose: int = 0) -> dict[str, Any]:
    """Look for faults that make results wrong: leaks between splits, copies, unreadable files, labels given away.

    Every file is decoded once; the store keeps its statistics, so a second check is quick. Near-identical images are
    one radiograph saved twice: compressed, resized, as a negative, or a little brighter. Copies that were cropped,
    rotated or mirrored, have another border or marker or a very different contrast are not found.

    Whether the splits are drawn alike is tested within each class: can a linear discriminant, cross-validated over
    patients, tell train from val or test by what was measured of the files ("size": width, height, aspect ratio, grey
    or colour) or of the pictures ("grey": brightness, contrast, border against centre, fine detail)? One image of each
    patient is used, of at most 600 patients of each class and split.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` or :func:`load_frame` returns it, with `path`, `target`, `split` and `patient`, and
        optionally `subtype`.
    store : str, path or None, default="auto"
        As for :class:`FrozenEmbedder`.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    dict
        The output of `cxr-sklearn check --json`:

        - "images", "patients", "patients_unknown" (images of unknown patients), "left_out" (image files that
          :func:`load_folder` skipped because they are in no class folder) and "counts", a list with "images" and
          "patients" by "split", "label" and "subtype";
        - "unreadable": the reason by path;
        - "identical" and "near_identical": groups with their "paths", "splits", "labels" and "patients"; a
          near-identical group holds at least two different files;
        - "patients_in_several_splits": the splits by patient, and "paths_in_several_splits": their images by patient;
        - "width", "height": smallest, median and largest, in pixels; "modes": images by Pillow's mode and label;
        - "auc": how well "size" and "mode" alone predict the label, cross-validated by patient; None with too few;
        - "blank", "inverted": paths;
        - "split_shift": a list with an entry for each pair of splits "a" and "b", "label" and "kind" of measures: how
          many "patients" each side has and how many were "drawn"; the "auc" of the question which split an image is
          from, with its "ci95" and its "p" among 999 random deals of the sides; "p_holm", corrected for all entries;
          "told_apart", whether that is below .05; and the "measures" that differ by themselves, in level or in spread.
          All but the counts are None with fewer than 20 patients of the class on a side;
        - "leaks", "warnings": sentences. A set without leaks and unreadable files is fit for use.

    Raises
    ------
    DataError
        If the frame lacks a column or a value, or has an unknown value.
    ImageReadError
        If a file changes while it is being read.
    StoreError
        If the store cannot be read or written.

    References
    ----------
    Zauner (2010). Implementation and benchmarking of perceptual image hash functions. Near-identical images are found,
    as there, by the low frequencies of their cosine transform, but compared as numbers instead of bits.

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
    return audit(checked_frame(frame), store=store, verbose=verbose)[0]


def audit(
    frame: pd.DataFrame, *, store: str | os.PathLike[str] | None, verbose: int
) -> tuple[dict[str, Any], ImageStats]:
    """Return the findings of :func:`check` on a frame from :func:`checked_frame`, and the statistics of its images."""
    rows = frame.reset_index(drop=True)
    stats = image_stats(rows["path"], store, "Checking images", verbose, strict=False)
    readable = ~rows["path"].isin(stats.failures).to_numpy()
    is_blank = readable & (stats.measures["contrast"].to_numpy() < BLANK)
    found = {
        "images": len(rows),
        "patients": int(rows["patient"].nunique()),
        "patients_unknown": int(names_no_patient(rows).sum()),
        "left_out": frame.attrs.get("left_out", (0, []))[0],
        "counts": _counts(rows),
        "unreadable": stats.failures,
        **_copies(rows, stats, readable & ~is_blank),
        **_in_several_splits(rows),
        **_sizes_and_modes(rows[readable], stats.measures[readable]),
        "blank": rows["path"][is_blank].tolist(),
        "inverted": rows["path"][_inverted(stats.spectra, readable & ~is_blank)].tolist(),
        "split_shift": _split_shift(rows[readable], stats.rows[readable]),
    }
    return {**found, "leaks": leak_sentences(found), "warnings": warning_sentences(found, frame.attrs)}, stats


def _split_shift(rows: pd.DataFrame, stats: np.ndarray) -> list[dict[str, Any]]:
    drawn = draw_patients(rows)
    return split_shift(rows, drawn, shift_columns(stats[drawn]))


def _counts(rows: pd.DataFrame) -> list[dict[Any, Any]]:
    by = {name: rows[name] if name in rows else pd.Series(None, rows.index, dtype="str")
          for name in ("split", "label", "subtype")}  # fmt: skip
    table = pd.DataFrame(by).assign(patient=rows["patient"])
    counted = table.groupby(list(by), dropna=False)["patient"].agg(["size", "nunique"]).reset_index()
    counted = counted.sort_values("split", key=lambda split: split.map(SPLIT_NAMES.index, "ignore"), kind="stable")
    counted = counted.rename(columns={"size": "images", "nunique": "patients"}).astype(object)
    return counted.where(counted.notna(), None).to_dict("records")


def _in_several_splits(rows: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """Return the splits of patients who are in several, and the paths of their images."""
    used = rows[rows["split"].notna()]
    splits = used.groupby("patient")["split"].unique()
    shared = {str(patient): _in_order(names) for patient, names in splits.items() if len(names) > 1}
    paths = used[used["patient"].isin(shared)].groupby("patient")["path"].agg(list)
    return {
        "patients_in_several_splits": shared,
        "paths_in_several_splits": {str(patient): names for patient, names in paths.items()},
    }


def _in_order(splits: Iterable[str]) -> list[str]:
    return sorted(set(splits), key=SPLIT_NAMES.index)


def _copies(rows: pd.DataFrame, stats: ImageStats, comparable: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Return groups of identical files, and of images that look alike although their files differ."""
    keys, _ = pd.factorize(np.array(stats.digests, dtype=object))
    identical = [group for group in _equal(keys) if keys[group[0]] >= 0]  # -1 is an unreadable file
    # Only one of several identical files is compared; the others join its group.
    copies = {int(group[0]): group for group in identical}
    repeated = np.zeros(len(rows), dtype=bool)
    for group in identical:
        repeated[group[1:]] = True
    firsts = np.flatnonzero(comparable & ~repeated)
    near = [
        np.sort(np.concatenate([copies.get(i, np.array([i])) for i in firsts[group].tolist()]))
        for group in similar_groups(stats.spectra[firsts])
    ]
    return {"identical": _groups(rows, identical), "near_identical": _groups(rows, near)}


def _groups(rows: pd.DataFrame, groups: Iterable[np.ndarray]) -> list[dict[str, Any]]:
    described = []
    for group in groups:
        part = rows.iloc[group]
        # One image of each split comes first, so that the sentences show these.
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
    """Return the positions of images that look like the negative of the typical image."""
    rows = np.flatnonzero(comparable)
    if len(rows) < _MIN_TYPICAL:
        return rows[:0]
    unit = spectra[rows] / np.linalg.norm(spectra[rows], axis=1, keepdims=True)
    # The median, so that a few negatives do not distort it.
    typical = np.median(unit, axis=0)
    return rows[unit @ (typical / np.linalg.norm(typical)) < INVERTED]


#: Correlation from which two images count as one radiograph saved twice. No two different ones of 5,000 in the public
#: set exceed .80; a radiograph and its copy as JPEG of quality 30, or of half the size, stay above .99.
SIMILAR = 0.95
#: So many images are compared with as many others at once, in a few megabytes whatever the size of the set.
_BLOCK = 1024
#: Number of axes in which all pairs are compared, and of images that decide on them.
_LEADING, _SAMPLE = 63, 4096
#: More than float32 loses in a bound.
_ROUNDING = 1e-3


def _equal(labels: np.ndarray) -> list[np.ndarray]:
    """Return the positions of equal labels, in groups of two or more."""
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return [group for group in groups if len(group) > 1]


def similar_groups(spectra: np.ndarray) -> list[np.ndarray]:
    """Return the positions of images that look alike, in groups of two or more, by the spectra of non-blank images.

    Two images are compared by the correlation of their low frequencies. These are weighted so that all of them count:
    the amplitudes of radiographs fall with the frequency, and the lowest ones are much the same in all chests. Size,
    compression, inversion and linear changes of the grey levels hardly change the correlation; clipping, non-linear
    changes, crops, borders, markers, rotation and mirroring do.
    """
    n, side = len(spectra), round((spectra.shape[1] + 1) ** 0.5)
    frequency = np.hypot(*np.meshgrid(np.arange(side), np.arange(side))).ravel()[1:]
    weighted = spectra * (frequency**1.5).astype(np.float32)
    weighted /= np.linalg.norm(weighted, axis=1, keepdims=True)
    highest, lowest = _bounds(weighted)
    rows, columns = [np.empty(0, int)], [np.empty(0, int)]
    for top, left in combinations_with_replacement(range(0, n, _BLOCK), 2):
        block, others = slice(top, top + _BLOCK), slice(left, left + _BLOCK)
        most = (highest[block] @ highest[others].T).max(axis=1)
        least = (highest[block] @ lowest[others].T).min(axis=1)
        doubtful = np.flatnonzero(np.maximum(most, -least) >= SIMILAR - _ROUNDING)  # of most blocks, a few rows
        if not len(doubtful):
            continue
        i, j = np.nonzero(np.abs(weighted[block][doubtful] @ weighted[others].T) >= SIMILAR)
        i = doubtful[i]
        is_pair = j + left > i + top
        rows.append(i[is_pair] + top)
        columns.append(j[is_pair] + left)
    i, j = np.concatenate(rows), np.concatenate(columns)
    _, labels = connected_components(coo_array((np.ones(len(i), bool), (i, j)), shape=(n, n)), directed=False)
    return _equal(labels)


def _bounds(unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return short vectors whose products bound those of unit vectors, which is quicker for all pairs.

    The unit vectors, shape (n, d), are projected on axes that hold most of them. What the rest of the space adds to a
    product is at most the product of the two lengths there, either way (Cauchy-Schwarz). With these lengths as one more
    coordinate, the products of the first returned matrix with itself are upper bounds; with the second, lower bounds.
    """
    sample = unit[:: max(len(unit) // _SAMPLE, 1)]
    axes = np.random.default_rng(0).standard_normal((unit.shape[1], _LEADING), dtype=np.float32)
    with one_blas_thread():  # several would wait for each other, and for other processes, many times as long
        for _ in range(3):  # as near to the principal axes as it takes; any axes give true bounds
            axes = np.linalg.qr(sample.T @ (sample @ axes))[0]
    leading = unit @ axes
    rest = np.sqrt(np.maximum(1 - (leading**2).sum(axis=1, keepdims=True), 0))
    return np.hstack([leading, rest]), np.hstack([leading, -rest])


_FOLDS = 5


def auc_of(features: np.ndarray, rows: pd.DataFrame) -> dict[str, float] | None:
    """Cross-validate a small decision tree on features of images, shape (n, k), by patient.

    Returns the ROC AUC, "value", and its "p" in a Mann-Whitney test; None if a class has fewer patients than folds.
    """
    target = rows["target"].to_numpy()
    n_patients = rows.groupby("target")["patient"].nunique()
    if len(n_patients) < 2 or n_patients.min() < _FOLDS:
        return None
    if (features == features[0]).all():
        return {"value": 0.5, "p": 1.0}
    folds = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    tree = DecisionTreeClassifier(min_samples_leaf=max(2, min(10, len(rows) // 10)), random_state=0)
    scores = cross_val_predict(
        tree, features, target, groups=rows["patient"].to_numpy(), cv=folds, method="predict_proba"
    )[:, 1]
    test = mannwhitneyu(scores[target == 1], scores[target == 0])
    return {"value": float(roc_auc_score(target, scores)), "p": float(test.pvalue)}


#: A smaller AUC matters little, and one with a larger p may be due to chance; neither is mentioned.
_MIN_AUC, _MAX_P = 0.55, 0.01
#: A mode with images of only one label is mentioned if there are at least so many.
_MIN_OF_MODE = 30
_SHOWN = 3


def leak_sentences(found: Mapping[str, Any]) -> list[str]:
    """Put into words which patients and images :func:`check` found on both sides of a split."""
    said = []
    if shared := found["patients_in_several_splits"]:
        examples = _some(f"{patient} ({', '.join(splits)})" for patient, splits in shared.items())
        said.append(f"{counted(len(shared), 'patient')} in more than one split: {examples}")
    for kind, name in (("identical", "identical files"), ("near_identical", "near-identical images")):
        if across := [group for group in found[kind] if len(group["splits"]) > 1]:
            said.append(f"{counted(len(across), 'group')} of {name} across splits: {_examples(across)}")
    return said


def warning_sentences(found: Mapping[str, Any], attrs: Mapping[Any, Any]) -> list[str]:
    """Put into words what else readers of the results should know, as found by :func:`check` and `load_folder`."""
    said = [*split_sentences(found), *_of_copies(found)]
    if n := found["patients_unknown"]:
        said.append(unknown_patients_sentence(n))
    said += _of_giveaways(found)
    for kind, meaning in (("blank", "blank"), ("inverted", "like a negative of the others")):
        if paths := found[kind]:
            said.append(f"{counted(len(paths), 'image')} look{'s' * (len(paths) == 1)} {meaning}: {_some(paths)}")
    return said + shift_sentences(found["split_shift"]) + left_out_sentences(attrs)


def unknown_patients_sentence(n: int) -> str:
    """Put into words that the patients of `n` images are unknown."""
    return (
        f"{counted(n, 'image')} of unknown patients: each is treated as a separate patient, so leaks may go undetected"
    )


def left_out_sentences(attrs: Mapping[Any, Any]) -> list[str]:
    """Put into words which image files `load_folder` left out; `attrs` are those of its frame."""
    n, examples = attrs.get("left_out", (0, []))
    if not n:
        return []
    more = f" and {n - len(examples):,} more" if n > len(examples) else ""
    return [f"{counted(n, 'image file')} in no class folder, or of a kind that is not read, left out: "
            f"{', '.join(map(_place, examples))}{more}"]  # fmt: skip


def split_sentences(found: Mapping[str, Any]) -> list[str]:
    """Say which splits are missing, too small, or of one class, from the counts of :func:`check`."""
    sizes: dict[Any, dict[str, int]] = {}
    for row in found["counts"]:
        by_label = sizes.setdefault(row["split"], {"normal": 0, "pneumonia": 0})
        by_label[row["label"]] += row["images"]
    n_unsplit = sum(sizes.pop(None, {}).values())
    if not sizes:
        return ["there are no splits: `cxr-sklearn subset` or cxr_sklearn.group_split draws them by patient"]
    said = [f"{counted(n_unsplit, 'image')} in no split"] if n_unsplit else []
    said += [f"there is no {split} split" for split in SPLIT_NAMES if split not in sizes]
    for split, by_label in sizes.items():
        rarer = min(by_label.values())
        if split == "val" and rarer < MIN_IMAGES_PER_CLASS:
            n = counted(sum(by_label.values()), "image")
            said.append(
                f"a validation split of {n} decides nothing: a threshold needs at least {MIN_IMAGES_PER_CLASS} of each "
                "class; `cxr-sklearn subset` or cxr_sklearn.group_split draws more"
            )
        elif not rarer:
            said.append(f"the {split} split has images of one class only")
    return said


def _of_copies(found: Mapping[str, Any]) -> list[str]:
    said = []
    for kind, name in (("identical", "identical files"), ("near_identical", "near-identical images")):
        if within := [group for group in found[kind] if len(group["splits"]) <= 1]:
            mixed = [group for group in within if len(group["patients"]) > 1]
            apart = f"; the patients differ in {len(mixed)} of them, so folds may separate them" if mixed else ""
            groups = f"{counted(len(within), 'group')} of {name}"
            said.append(f"{groups} within a split count twice{apart}: {_examples(within)}")
        if mixed := [group for group in found[kind] if len(group["labels"]) > 1]:
            said.append(f"{counted(len(mixed), 'group')} of {name} with both labels: {_examples(mixed)}")
    return said


def _of_giveaways(found: Mapping[str, Any]) -> list[str]:
    said = []
    for name, plural in (("size", "width and height"), ("mode", "the colour mode")):
        auc = found["auc"][name]
        if auc and auc["value"] >= _MIN_AUC and auc["p"] < _MAX_P:
            said.append(f"{plural} alone predict{'s' * (name == 'mode')} the label with AUC {auc['value']:.2f}")
    for mode, by_label in found["modes"].items():
        if len(found["modes"]) > 1 and len(by_label) == 1 and sum(by_label.values()) >= _MIN_OF_MODE:
            (label, n), *_ = by_label.items()
            said.append(f"all {n} images of mode {mode} are {label}")
    return said


def _examples(groups: Iterable[Mapping[str, Any]]) -> str:
    return _some(" = ".join(_place(path) for path in group["paths"][:_SHOWN]) for group in groups)


def _place(path: str) -> str:
    """Return split, class and name of an image, which usually identify it."""
    return "/".join(Path(path).parts[-3:])


def _some(items: Iterable[str]) -> str:
    listed = list(items)
    more = len(listed) - _SHOWN
    return ", ".join(listed[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
