"""Labels that mean nothing: a classifier that learns from them even so has seen its held-out images before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline

from ..progress import progress_bar
from .bootstrap import N_DRAWS
from .scores import score_rows
from .search import patient_folds, search


def permuted_labels(train: pd.DataFrame, random_state: int) -> pd.Series:
    """Deal the patients' labels out to other patients: nothing in an image can tell them then.

    Parameters
    ----------
    train : DataFrame
        With `patient` and `target`; a patient of both labels counts as one of the first.
    random_state : int

    Returns
    -------
    Series
        A label per row; all images of a patient share it.
    """
    labels = train.groupby("patient")["target"].first()
    dealt = pd.Series(np.random.default_rng(random_state).permutation(labels), index=labels.index)
    return train["patient"].map(dealt)


def permuted_rows(
    name: str, pipeline: Pipeline, train: pd.DataFrame, *, cv: int, random_state: int, n_jobs: int | None, verbose: int
) -> pd.DataFrame:
    """Cross-validate a pipeline on permuted labels.

    Parameters
    ----------
    name : str
        Of the pipeline.
    pipeline : Pipeline
        Need not be fitted.
    train : DataFrame
        With `path`, `patient`, `split` and `target`.
    cv, random_state, n_jobs, verbose
        As for :func:`compare`.

    Returns
    -------
    DataFrame
        Rows of ``probes.csv``, one per training image; `target` is the permuted label.
    """
    dealt = train.assign(target=permuted_labels(train, random_state))
    splits = patient_folds(dealt, cv, random_state)
    with progress_bar(f"Permuted labels, {name}", len(splits), show=verbose > 0) as advance:
        _, scores = search(pipeline, [{}], dealt, splits, n_jobs=n_jobs, advance=advance)
    parts = [
        score_rows(dealt.iloc[held_out], name, found, fold).assign(probe="permuted")
        for fold, ((_, held_out), found) in enumerate(zip(splits, scores, strict=True))
    ]
    return pd.concat(parts)


def permutation_facts(rows: pd.DataFrame) -> dict[str, Any]:
    """Judge the out-of-fold scores of a training on permuted labels.

    Parameters
    ----------
    rows : DataFrame
        With `fold`, `patient`, `target` (the permuted label) and `score`.

    Returns
    -------
    dict
        "roc_auc", the mean over the folds; "chance95", where 95 % of such means lie when labels are dealt out to the
        patients of each fold again and again, the scores staying as they are; and whether "passed": it is not above
        that. An AUC above says that held-out images were not new to the classifier.

    References
    ----------
    Ojala, Garriga (2010). Permutation tests for studying classifier performance. JMLR 11, 1833-1863.
    """
    rng = np.random.default_rng(0)
    folds = [fold for _, fold in rows.groupby("fold")]
    auc = float(np.mean([roc_auc_score(fold["target"], fold["score"]) for fold in folds]))
    low, high = np.quantile(np.mean([_auc_by_chance(fold, rng) for fold in folds], axis=0), (0.025, 0.975))
    return {"roc_auc": auc, "chance95": [float(low), float(high)], "passed": bool(auc <= high)}


def _auc_by_chance(fold: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """ROC AUC of the scores against labels dealt out to whole patients, shape (N_DRAWS,)."""
    by_patient = fold.assign(rank=rankdata(fold["score"])).groupby("patient")
    ranks, sizes = by_patient["rank"].sum().to_numpy(), by_patient.size().to_numpy()
    dealt = rng.permuted(np.tile(by_patient["target"].first(), (N_DRAWS, 1)), axis=1)
    n_pneumonia = dealt @ sizes
    auc: np.ndarray = (dealt @ ranks - n_pneumonia * (n_pneumonia + 1) / 2) / (n_pneumonia * (len(fold) - n_pneumonia))
    return auc
