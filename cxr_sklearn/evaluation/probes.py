"""The numbers of permuted labels, hidden halves and changed images, from the rows of probes.csv."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from ..exceptions import DataError
from ..images.changes import CHANGES, PARTS
from .bootstrap import N_DRAWS, Draws, bootstrap, interval
from .metrics import compute_metrics
from .tables import CLEAN, STRESS

#: One false alarm in two hundred runs.
ALARM = 0.005


def permutation_facts(rows: pd.DataFrame) -> dict[str, Any]:
    """Judge scores of held-out images after a training on permuted labels.

    Parameters
    ----------
    rows : DataFrame
        With `patient`, `target` (the permuted label) and `score`.

    Returns
    -------
    dict
        "roc_auc"; "chance95", where 95 % of such AUCs lie when the labels are dealt out to these patients again and
        again; "p", the share of those that are as high; and whether "passed": p is at least .005. A lower one says that
        held-out images were not new to the classifier.

    References
    ----------
    Ojala, Garriga (2010). Permutation tests for studying classifier performance. JMLR 11, 1833-1863.
    """
    auc = float(roc_auc_score(rows["target"], rows["score"]))
    by_patient = rows.assign(rank=rankdata(rows["score"])).groupby("patient")
    ranks, sizes = by_patient["rank"].sum().to_numpy(), by_patient.size().to_numpy()
    labels = np.tile(by_patient["target"].first(), (N_DRAWS, 1))
    dealt = np.random.default_rng(0).permuted(labels, axis=1)
    n_pneumonia = dealt @ sizes
    by_chance = (dealt @ ranks - n_pneumonia * (n_pneumonia + 1) / 2) / (n_pneumonia * (len(rows) - n_pneumonia))
    low, high = np.quantile(by_chance, (0.025, 0.975))
    p = float((1 + np.sum(by_chance >= auc - 1e-9)) / (1 + N_DRAWS))
    return {"roc_auc": auc, "chance95": [float(low), float(high)], "p": p, "passed": p >= ALARM}


def scores_of(probes: pd.DataFrame, probe: str, paths: pd.Series, lacking: str) -> np.ndarray | None:
    """Return the scores that a probe gave to images, shape (n,); None where it was not tried.

    Raises
    ------
    DataError
        If it was not tried on all of them; `lacking` says what there should be and what to do.
    """
    rows = probes[probes["probe"] == probe]
    if rows.empty:
        return None
    found = rows.set_index("path")["score"].reindex(paths).to_numpy(dtype=float)
    if np.isnan(found).any():
        raise DataError(f"probes.csv lacks {lacking}")
    return found


def auc_changes(
    rows: pd.DataFrame, scores: Mapping[str, np.ndarray], before: Draws
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Compare the ROC AUC of probes with that of the same images as they are.

    Parameters
    ----------
    rows : DataFrame
        With `patient`, `target` and `score`, that of the images as they are.
    scores : mapping of str to ndarray of shape (n,)
        By probe.
    before : Draws
        Of the images as they are.

    Returns
    -------
    facts : dict of str to dict
        By probe: "roc_auc", "change" and the "ci95" of that, by paired bootstrap of patients.
    drawn : dict of str to ndarray of shape (n_draws,)
        The draws of the change.
    """
    draws = bootstrap(rows["patient"], rows["target"], scores, dict.fromkeys(scores, 0.5))
    drawn = {probe: draws[probe].metrics["roc_auc"] - before.metrics["roc_auc"] for probe in scores}
    auc = roc_auc_score(rows["target"], rows["score"])
    facts = {probe: auc_change(auc, _auc(rows["target"], score), drawn[probe]) for probe, score in scores.items()}
    return facts, drawn


def auc_change(before: float, after: float, drawn: np.ndarray) -> dict[str, Any]:
    """Describe the change from one ROC AUC to another, given draws of it."""
    change = float(after - before)
    return {"roc_auc": after, "change": change, "ci95": interval(drawn, change)}


def _auc(target: ArrayLike, score: ArrayLike) -> float:
    return float(roc_auc_score(target, score))


def occlusion_facts(test: pd.DataFrame, probes: pd.DataFrame, whole: Draws) -> dict[str, Any]:
    """Compare the ROC AUC on occluded test images with that on whole ones.

    Parameters
    ----------
    test : DataFrame
        Test rows of ``scores.csv`` of one pipeline.
    probes : DataFrame
        Rows of ``probes.csv`` of the same pipeline.
    whole : Draws
        Of the test images as they are.

    Returns
    -------
    dict of str to dict
        By part: "roc_auc", "change" (against whole images) and the "ci95" of that, by paired bootstrap of patients.

    Raises
    ------
    DataError
        If not all test images were occluded.
    """
    hidden = {}
    for part in PARTS:
        lacking = f"test images without their {part}; `compare --sanity` writes it anew"
        score = scores_of(probes, part, test["path"], lacking)
        if score is not None:
            hidden[part] = score
    facts, _ = auc_changes(test, hidden, whole)
    return facts


def _figures(target: pd.Series, score: np.ndarray, threshold: float) -> dict[str, float]:
    values = compute_metrics(target, score, threshold)
    called = float(np.mean(np.asarray(score) >= threshold))
    return {**{name: values[name] for name in ("roc_auc", "recall", "specificity")}, "called_pneumonia": called}


def stress_facts(scores: pd.DataFrame, probes: pd.DataFrame, threshold: float) -> dict[str, Any] | None:
    """Say how a pipeline did on changed images.

    Parameters
    ----------
    scores, probes : DataFrame
        Rows of ``scores.csv`` and ``probes.csv`` of the pipeline.
    threshold : float
        Its threshold.

    Returns
    -------
    dict or None
        "source", which is "val" or "held-out"; "n_images" and "n_patients"; the "clean" images and, by name, the
        "changes", each with "roc_auc", "recall", "specificity" and "called_pneumonia" (the share that reaches the
        threshold); their "mean" over the changes. "ci95" is of the AUC of clean images, and elsewhere of its "change"
        against them, by paired bootstrap of patients. None where nothing was tried.

    Raises
    ------
    DataError
        If not all images were changed.
    """
    refitted = probes[probes["probe"] == STRESS + CLEAN]
    rows = refitted if len(refitted) else scores[scores["split"] == "val"]
    changed = {}
    for name in CHANGES:
        lacking = f"images under the change {name!r}; `compare --stress` writes it anew"
        score = scores_of(probes, STRESS + name, rows["path"], lacking)
        if score is not None:
            changed[name] = score
    if not changed:
        return None
    before = bootstrap(rows["patient"], rows["target"], {CLEAN: rows["score"]}, {CLEAN: threshold})[CLEAN]
    aucs, drawn = auc_changes(rows, changed, before)
    clean = _figures(rows["target"], rows["score"].to_numpy(dtype=float), threshold)
    facts = {name: {**_figures(rows["target"], score, threshold), **aucs[name]} for name, score in changed.items()}
    means = {key: float(np.mean([fact[key] for fact in facts.values()])) for key in clean}
    return {
        "source": "held-out" if len(refitted) else "val",
        "n_images": len(rows),
        "n_patients": int(rows["patient"].nunique()),
        CLEAN: {**clean, "ci95": interval(before.metrics["roc_auc"], clean["roc_auc"])},
        "changes": facts,
        "mean": {**means, **auc_change(clean["roc_auc"], means["roc_auc"], np.mean(list(drawn.values()), axis=0))},
    }
