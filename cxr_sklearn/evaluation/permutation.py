"""Labels that mean nothing: a classifier that learns from them even so has seen its held-out images before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline

from ..progress import progress_bar
from ..scores import pneumonia_scores
from .bootstrap import N_DRAWS
from .scores import score_rows
from .search import fit, patient_folds

#: One false alarm in two hundred runs.
ALARM = 0.005


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
    name: str, pipeline: Pipeline, train: pd.DataFrame, *, random_state: int, verbose: int
) -> pd.DataFrame:
    """Fit a pipeline on permuted labels of half of the patients, and score the other half.

    Folds would be fitted on much the same patients: their AUCs go together, and no simple interval holds for a mean.

    Parameters
    ----------
    name : str
        Of the pipeline.
    pipeline : Pipeline
        Need not be fitted.
    train : DataFrame
        With `path`, `patient`, `split` and `target`.
    random_state, verbose
        As for :func:`compare`.

    Returns
    -------
    DataFrame
        Rows of ``probes.csv``, one per held-out image; `target` is the permuted label.
    """
    dealt = train.assign(target=permuted_labels(train, random_state))
    fitted, held_out = (dealt.iloc[rows] for rows in patient_folds(dealt, 2, random_state)[0])
    with progress_bar(f"Permuted labels, {name}", 1, show=verbose > 0) as advance:
        scores = pneumonia_scores(fit(pipeline, fitted), held_out["path"])
        advance(1)
    return score_rows(held_out, name, scores, fold=0).assign(probe="permuted")


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
