"""Are two splits drawn alike? Whether the images of a class betray which split, or which hospital, they are from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit, logit, ndtri
from scipy.stats import mannwhitneyu, rankdata
from sklearn.decomposition import PCA

from .._multiplicity import holm
from .._settings import one_blas_thread
from ..features._image_stats import MODES

#: What is measured of an image: of the file, which a network that resizes it hardly sees, and of the picture.
KINDS = {
    "size": ("width", "height", "aspect_ratio", "colour"),
    "grey": ("brightness", "contrast", "border", "detail"),
}
#: Fewer patients of a class on one side tell nothing.
MIN_PATIENTS = 20
#: More patients of a class on one side would take longer and tell hardly more.
MOST_PATIENTS = 600
#: Patients of each class in the sample of a model file.
SAMPLE_PATIENTS = 200
N_PERMUTATIONS = 999
_FOLDS, _COMPONENTS, _ALPHA = 5, 20, 0.05
#: Share of the mean variance that is added to every direction, so that none of tiny variance decides.
_RIDGE = 0.05
_LABELS = ("normal", "pneumonia")
#: The pairs of splits that are compared.
_PAIRS = (("train", "val"), ("train", "test"), ("development", "cohort"))
_GREY_MODES = [MODES.index(mode) for mode in MODES if mode in ("1", "L", "LA", "F") or mode[0] == "I" or "MONO" in mode]
#: Radius from which a frequency counts as fine detail, and a coefficient of a cosine per grey level of its amplitude.
_FINE, _PER_LEVEL = 12, 32 * 2**0.5


def shift_columns(rows: np.ndarray) -> dict[str, pd.DataFrame]:
    """Turn rows of ``ImageStats``, shape (n, 580), into the measures of ``KINDS``, a table of n rows for each kind.

    `width` and `height` are in pixels; `colour` is 1 for a file with colours and 0 for a grey one; `brightness` and
    `contrast` are mean and standard deviation of the grey levels (0 to 255); `border` is by how many grey levels the
    corners are brighter than the centre, in the broadest waves; `detail` is the decimal logarithm of the share that
    fine structures have in the variance.
    """
    width, height, mean, contrast, mode = rows[:, :5].astype(float).T
    spectra = rows[:, 5:].astype(float)
    side = round((spectra.shape[1] + 1) ** 0.5)
    fine = np.hypot(*np.meshgrid(np.arange(side), np.arange(side))).ravel()[1:] >= _FINE
    energy = spectra**2
    measures = pd.DataFrame(
        {
            "width": width,
            "height": height,
            "aspect_ratio": width / height,
            "colour": (~np.isin(mode, _GREY_MODES)).astype(float),
            "brightness": mean,
            "contrast": contrast,
            # The first row of the spectrum lacks the mean, so its second wave is column 1.
            "border": 2 * (spectra[:, 1] + spectra[:, 2 * side - 1]) / _PER_LEVEL,
            "detail": np.log10((energy[:, fine].sum(axis=1) + 1) / (energy.sum(axis=1) + 1)),
        }
    )
    return {kind: measures[list(names)] for kind, names in KINDS.items()}


def draw_patients(rows: pd.DataFrame, most: int = MOST_PATIENTS) -> np.ndarray:
    """Draw one image of each patient, of at most `most` patients of each class and split; the same ones every time.

    Patients with images in several splits are left out: an image of theirs says nothing about how splits differ.
    `rows` has `target`, `split` and `patient`. Returned are positions in it, in ascending order.
    """
    in_one = (rows.groupby("patient")["split"].transform("nunique") == 1).to_numpy()
    order = np.random.default_rng(0).permutation(len(rows))
    order = order[in_one[order]]
    drawn = rows.iloc[order][["split", "target", "patient"]].assign(position=order)
    drawn = drawn.dropna().drop_duplicates(["split", "target", "patient"])
    return np.sort(drawn.groupby(["split", "target"]).head(most)["position"].to_numpy())


def split_shift(rows: pd.DataFrame, drawn: np.ndarray, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Test within each class whether train and validation, or train and test, can be told apart.

    Each patient counts once, with one image. A linear discriminant is cross-validated over patients, and its AUC is the
    mean of the AUCs within the folds: pooled over folds, it would be biased below .5 where there is no difference.
    Measures are replaced by their normal scores, and squares of these show a difference in spread; features are first
    reduced to at most 20 principal components.

    None of this looks at the side that an image is on, but for the direction, which is learnt in the other folds. So
    dealing the sides out again among the patients of each fold, 999 times, shows the AUC where there is no difference.
    The interval is that distribution, moved on the logit scale to the AUC that was found. A bootstrap of
    cross-validated scores would be too narrow near .5, because folds that agree by chance raise each other's AUC.

    Parameters
    ----------
    rows : DataFrame
        With `target`, `split` and `patient`. "development" and "cohort" are splits, too.
    drawn : ndarray of int
        The images to use, as of :func:`draw_patients`.
    columns : mapping of str to DataFrame or ndarray of shape (n_drawn, d)
        What to tell the sides by: tables of :func:`shift_columns` by their names, or features by another name.

    Returns
    -------
    list of dict
        For each pair of splits, class and entry of `columns`: the splits "a" and "b", "label" and "kind"; "patients",
        how many each side has, and "drawn", how many were used; "auc" with its "ci95"; "p", the share of deals with an
        AUC at least as high, and "p_holm", corrected for the length of the list; "told_apart", whether that is below
        .05; "measures", those that differ by themselves, the strongest first, each with its "measure", "what" differs
        ("level" or "spread"), "auc" (above .5 if it is higher, or more spread, in b), "p" (Mann-Whitney's, corrected
        for all measures of the entry) and "medians" on both sides, to four digits. With fewer than ``MIN_PATIENTS``
        patients on a side nothing can be told, and everything from "auc" on is None.

    References
    ----------
    Lopez-Paz, Oquab (2017). Revisiting classifier two-sample tests. ICLR.
    """
    columns = {kind: np.asarray(values) for kind, values in columns.items()}
    of_drawn = rows.iloc[drawn]
    found = []
    for a, b in _PAIRS:
        if not {a, b}.issubset(rows["split"].dropna()):
            continue
        for target, label in enumerate(_LABELS):
            used = of_drawn["split"].isin((a, b)).to_numpy() & (of_drawn["target"] == target).to_numpy()
            on_b = (of_drawn["split"][used] == b).to_numpy()
            of_class = rows[rows["target"] == target]
            n_patients = [int(of_class["patient"][of_class["split"] == split].nunique()) for split in (a, b)]
            counts = {"patients": n_patients, "drawn": [int((~on_b).sum()), int(on_b.sum())]}
            for kind, values in columns.items():
                with one_blas_thread():
                    told = _tell_apart(values[used], on_b, KINDS.get(kind))
                found.append({"a": a, "b": b, "label": label, "kind": kind, **counts, **told})
    known = [entry for entry in found if entry["p"] is not None]
    for entry, p in zip(known, holm([entry["p"] for entry in known]), strict=True):
        entry |= {"p_holm": float(p), "told_apart": bool(p < _ALPHA)}
    return found


def shift_sample(rows: pd.DataFrame, stats: np.ndarray) -> dict[str, Any]:
    """Return what a model file keeps of the images it was developed on, to be compared with others by their measures.

    Parameters
    ----------
    rows : DataFrame of n images
        With `target` and `patient`.
    stats : ndarray of shape (n, 580)
        Rows of ``ImageStats``.

    Returns
    -------
    dict
        "measures", their names, and under "normal" and "pneumonia" a list of their values for one image each of at most
        ``SAMPLE_PATIENTS`` patients. It fits into JSON, and names no patient.
    """
    drawn = draw_patients(rows.assign(split="development"), SAMPLE_PATIENTS)
    values = pd.concat(shift_columns(stats[drawn]).values(), axis=1)
    sample: dict[str, Any] = {"measures": list(values.columns)}
    for target, label in enumerate(_LABELS):
        of_class = values[(rows["target"].iloc[drawn] == target).to_numpy()]
        sample[label] = [[float(f"{value:.6g}") for value in row] for row in of_class.to_numpy()]
    return sample


def cohort_shift(sample: Mapping[str, Any], rows: pd.DataFrame, stats: np.ndarray) -> list[dict[str, Any]]:
    """Test within each class whether a cohort can be told from the images that a model was developed on.

    Parameters
    ----------
    sample : dict
        As of :func:`shift_sample`.
    rows : DataFrame of n images
        The cohort, with `target` and `patient`.
    stats : ndarray of shape (n, 580)
        Rows of ``ImageStats`` of the cohort.

    Returns
    -------
    list of dict
        As of :func:`split_shift`, with the splits "development" and "cohort". The patients of "development" are those
        in the sample.
    """
    known = [(target, values) for target, label in enumerate(_LABELS) for values in sample[label]]
    development = pd.DataFrame({"target": [target for target, _ in known], "split": "development"})
    development["patient"] = [f"development {i}" for i in range(len(known))]
    cohort = rows[["target"]].assign(split="cohort", patient="cohort " + rows["patient"].astype("str"))
    drawn = draw_patients(cohort)
    old = pd.DataFrame([values for _, values in known], columns=list(sample["measures"]), dtype=float)
    columns = {
        kind: np.vstack([old[list(KINDS[kind])], values]) for kind, values in shift_columns(stats[drawn]).items()
    }
    both = pd.concat([development, cohort], ignore_index=True)
    return split_shift(both, np.concatenate([np.arange(len(known)), len(known) + drawn]), columns)


_MEASURES = {"aspect_ratio": "aspect ratio", "border": "border against centre", "detail": "fine detail"}
_NAMES = {"size": "width, height and colour mode", "grey": "their grey levels", "features": "their kept features"}
_SHOWN = 3


def shift_sentences(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Put into words which splits can be told apart, as found by :func:`split_shift`."""
    said = []
    for entry in found:
        if entry["told_apart"]:
            a, b, (low, high) = entry["a"], entry["b"], entry["ci95"]
            who = f"{entry['drawn'][0]:,} and {entry['drawn'][1]:,} patients"
            shown = [_difference(measure) for measure in entry["measures"][:_SHOWN]]
            differing = f"; in {b}: {', '.join(shown)}" if shown else ""
            said.append(
                f"{entry['label']} images of {a} and {b} can be told apart by {_NAMES[entry['kind']]}: "
                f"AUC {entry['auc']:.2f} (95 % interval {low:.2f} to {high:.2f}) over {who}{differing}"
            )
    return said


def _difference(measure: Mapping[str, Any]) -> str:
    verbs = ("is lower", "is higher") if measure["what"] == "level" else ("varies less", "varies more")
    return f"{_MEASURES.get(measure['measure'], measure['measure'])} {verbs[measure['auc'] > 0.5]}"


def _tell_apart(values: np.ndarray, on_b: np.ndarray, names: Sequence[str] | None) -> dict[str, Any]:
    """Test whether the sides of patients, bool (n,), show in one row of numbers of each, shape (n, d).

    `names` are those of the columns if they are measures, and None if they are features. Returned is the part of an
    entry of :func:`split_shift` from "auc" on, before the correction for several tests.
    """
    nothing = dict.fromkeys(("auc", "ci95", "p", "p_holm", "told_apart", "measures"))
    if min(on_b.sum(), (~on_b).sum()) < MIN_PATIENTS:
        return nothing
    described, of_column = _described(values, names)
    found = {**nothing, "measures": [] if names is None else _telling(values, described, of_column, on_b, names)}
    whitened = _whitened(described)
    if not whitened.shape[1]:  # all images are alike
        return {**found, "auc": 0.5, "ci95": [0.5, 0.5], "p": 1.0}
    aucs = _cross_validated(whitened, on_b)
    end = 0.5 / len(on_b)
    observed, *dealt = logit(np.clip(aucs, end, 1 - end))
    # Of 999 deals the 25th and the 975th, so that the AUC of exactly one deal in twenty lies outside.
    rank = round((N_PERMUTATIONS + 1) * 0.025)
    low, high = observed - np.sort(dealt)[[-rank, rank - 1]]
    return {
        **found,
        "auc": float(aucs[0]),
        "ci95": [float(expit(low)), float(expit(high))],
        "p": float((1 + np.sum(aucs[1:] >= aucs[0] - 1e-9)) / len(aucs)),
    }


def _described(values: np.ndarray, names: Sequence[str] | None) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Return columns to tell the sides by, and of each the column it was made of and what it shows of it."""
    varying = np.flatnonzero(np.ptp(values, axis=0) > 0)
    if names is None:
        n_components = min(_COMPONENTS, len(varying), len(values) // 10)
        if n_components < len(varying):
            return PCA(n_components, random_state=0).set_output(transform="default").fit_transform(values), []
        return values[:, varying], []
    scores = ndtri((rankdata(values[:, varying], axis=0) - 0.5) / len(values))
    # Of two values the one is as far from the middle as their shares say, so there is no spread besides the level.
    spread = [i for i, column in enumerate(varying) if len(np.unique(values[:, column])) > 2]
    of_column = [(int(i), "level") for i in varying] + [(int(varying[i]), "spread") for i in spread]
    return np.hstack([scores, scores[:, spread] ** 2]), of_column


def _whitened(columns: np.ndarray) -> np.ndarray:
    """Rotate and scale columns so that a difference of means is a linear discriminant, slightly shrunken."""
    centred = columns - columns.mean(axis=0)
    scale = centred.std(axis=0)
    centred = centred[:, scale > 0] / scale[scale > 0]
    if not centred.shape[1]:
        return centred
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    whitened: np.ndarray = centred @ axes / np.sqrt(np.maximum(variances, 0) + _RIDGE)
    return whitened


def _cross_validated(whitened: np.ndarray, on_b: np.ndarray) -> np.ndarray:
    """Return the cross-validated AUC, and after it those of 999 deals of the sides, shape (1000,)."""
    rng = np.random.default_rng(0)
    fold = np.empty(len(on_b), dtype=int)
    for side in (on_b, ~on_b):  # as many of each side in every fold as can be
        fold[side] = rng.permutation(np.arange(side.sum()) % _FOLDS)
    dealt = np.repeat(on_b[:, np.newaxis], N_PERMUTATIONS + 1, axis=1)
    for k in range(_FOLDS):
        inside = np.flatnonzero(fold == k)
        dealt[inside, 1:] = rng.permuted(dealt[inside, 1:], axis=0)
    aucs = np.zeros(dealt.shape[1])
    for k in range(_FOLDS):
        learnt, judged = dealt[fold != k], dealt[fold == k]
        n_b, n = learnt[:, 0].sum(), len(learnt)
        direction = whitened[fold != k].T @ (learnt / n_b - ~learnt / (n - n_b))
        # Rounded, because equal images may differ in the last digit of a product.
        ranks = rankdata(np.round(whitened[fold == k] @ direction, 9), axis=0)
        n_b, n = judged[:, 0].sum(), len(judged)
        aucs += ((ranks * judged).sum(axis=0) - n_b * (n_b + 1) / 2) / (n_b * (n - n_b)) / _FOLDS
    return aucs


def _telling(
    values: np.ndarray, described: np.ndarray, of_column: list[tuple[int, str]], on_b: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the measures that differ by themselves, the strongest first, each once."""
    n_b, n_a = int(on_b.sum()), int((~on_b).sum())
    tests = [mannwhitneyu(column[on_b], column[~on_b], method="asymptotic") for column in described.T]
    found: list[dict[str, Any]] = [
        {
            "measure": names[i],
            "what": what,
            "auc": float(test.statistic / n_a / n_b),
            "p": float(p),
            "medians": [float(f"{np.median(values[side, i]):.4g}") for side in (~on_b, on_b)],
        }
        for (i, what), test, p in zip(of_column, tests, holm([test.pvalue for test in tests]), strict=True)
        if p < _ALPHA
    ]
    found.sort(key=lambda entry: -abs(entry["auc"] - 0.5))
    return list({entry["measure"]: entry for entry in reversed(found)}.values())[::-1]
