"""The figures on permuted labels, occluded images and changed images, from the rows of probes.csv."""

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
from .bootstrap import N_DRAWS, bootstrap, interval
from .metrics import compute_metrics
from .tables import CLEAN, STRESS

#: p-value below which a run is suspicious: one false alarm in two hundred runs.
ALARM = 0.005


def permutation_facts(rows: pd.DataFrame) -> dict[str, Any]:
    """Judge scores of held-out images after training on permuted labels, the `target` of these rows.

    Returns
    -------
    dict
        "roc_auc"; "chance95", the interval of 95 % of the AUCs when the labels are permuted among these patients again
        and again; "p", the share of those AUCs that are as high; and whether it "passed": p is at least .005. A lower p
        means that the classifier had seen the held-out images.

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


def _scores_of(probes: pd.DataFrame, names: Mapping[str, str], paths: pd.Series, hint: str) -> dict[str, np.ndarray]:
    """Return the scores that probes gave to images, by the names of those that were tried; `names` are by probe.

    Raises
    ------
    DataError
        If a probe was tried on some of the images only; `hint` says what to do.
    """
    found = {}
    for probe, name in names.items():
        rows = probes[probes["probe"] == probe]
        if rows.empty:
            continue
        found[name] = rows.set_index("path")["score"].reindex(paths).to_numpy(dtype=float)
        if np.isnan(found[name]).any():
            raise DataError(f"probes.csv lacks images of the probe {name!r}; `compare {hint}` writes it anew")
    return found


def _changes(
    rows: pd.DataFrame, scores: Mapping[str, ArrayLike], threshold: float
) -> tuple[dict[str, dict[str, Any]], dict[str, np.ndarray]]:
    """Compare probes with the same images as they are, "clean".

    Returns the figures of each and draws of its ROC AUC or, for probes, of the change of it, by paired bootstrap of
    patients. "ci95" is the interval of what was drawn.
    """
    scores = {CLEAN: rows["score"], **scores}
    draws = bootstrap(rows["patient"], rows["target"], scores, dict.fromkeys(scores, threshold))
    drawn = {name: draws[name].metrics["roc_auc"] for name in scores}
    drawn |= {name: drawn[name] - drawn[CLEAN] for name in scores if name != CLEAN}
    facts = {name: figures(rows["target"], score, threshold) for name, score in scores.items()}
    for name, found in facts.items():
        if name != CLEAN:
            found["change"] = found["roc_auc"] - facts[CLEAN]["roc_auc"]
        found["ci95"] = interval(drawn[name], found.get("change", found["roc_auc"]))
    return facts, drawn


def occlusion_facts(test: pd.DataFrame, probes: pd.DataFrame) -> dict[str, Any]:
    """Compare the ROC AUC on occluded test images with that on whole ones, from the rows of one pipeline.

    Returns
    -------
    dict of str to dict
        By part: "roc_auc", its "change" from whole images and the "ci95" of that, by paired bootstrap of patients.

    Raises
    ------
    DataError
        If only some of the test images were occluded.
    """
    hidden = _scores_of(probes, {part: part for part in PARTS}, test["path"], "--sanity")
    facts = _changes(test, hidden, 0.5)[0] if hidden else {}
    return {part: {name: facts[part][name] for name in ("roc_auc", "change", "ci95")} for part in hidden}


def figures(target: ArrayLike, score: ArrayLike, threshold: float) -> dict[str, Any]:
    """Return "roc_auc", "recall", "specificity" and "called_pneumonia", the share that reaches the threshold."""
    values = compute_metrics(target, score, threshold)
    called = float(np.mean(np.asarray(score, dtype=float) >= threshold))
    return {**{name: values[name] for name in ("roc_auc", "recall", "specificity")}, "called_pneumonia": called}


def stress_facts(scores: pd.DataFrame, probes: pd.DataFrame, threshold: float) -> dict[str, Any] | None:
    """Describe how a pipeline did on changed images, from its rows of ``scores.csv`` and ``probes.csv``.

    Returns
    -------
    dict or None
        "source", "val" or "held-out"; "n_images" and "n_patients"; for the "clean" images, each of the "changes" by
        name, and their "mean": the :func:`figures`, and for the latter two the "change" of the AUC from clean images.
        "ci95" is of that change, or of the AUC of clean images, by paired bootstrap of patients. None if no images were
        changed.

    Raises
    ------
    DataError
        If only some of the images were changed.
    """
    refitted = probes[probes["probe"] == STRESS + CLEAN]
    rows = refitted if len(refitted) else scores[scores["split"] == "val"]
    changed = _scores_of(probes, {STRESS + name: name for name in CHANGES}, rows["path"], "--stress")
    if not changed:
        return None
    facts, drawn = _changes(rows, changed, threshold)
    clean = facts.pop(CLEAN)
    mean = {key: float(np.mean([fact[key] for fact in facts.values()])) for key in (*clean, "change") if key != "ci95"}
    return {
        "source": "held-out" if len(refitted) else "val",
        "n_images": len(rows),
        "n_patients": int(rows["patient"].nunique()),
        CLEAN: clean,
        "changes": facts,
        "mean": {**mean, "ci95": interval(np.mean([drawn[name] for name in changed], axis=0), mean["change"])},
    }
