"""The runs behind `--sanity`: a training on permuted labels, and test images with a part hidden."""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.pipeline import Pipeline

from ..progress import progress_bar
from .probes import COLUMNS, PARTS, occluded, permuted_labels
from .scores import score_rows
from .search import patient_folds, scores_of, search

_CHUNK_SIZE = 64


def permuted_rows(
    name: str, pipeline: Pipeline, train: pd.DataFrame, *, cv: int, random_state: int, n_jobs: int | None, verbose: int
) -> pd.DataFrame:
    """Cross-validate an unfitted pipeline on labels dealt out to other patients.

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


def occluded_rows(name: str, model: Pipeline, test: pd.DataFrame, verbose: int) -> pd.DataFrame:
    """Score test images with their border, then their centre, hidden from a fitted pipeline.

    Returns
    -------
    DataFrame
        Rows of ``probes.csv``; none where the pipeline loads its images itself.
    """
    chunks = [test.iloc[start : start + _CHUNK_SIZE] for start in range(0, len(test), _CHUNK_SIZE)]
    parts = [pd.DataFrame(columns=COLUMNS)]
    with progress_bar(f"Occluding images, {name}", len(PARTS) * len(test), show=verbose > 0) as advance:
        for part in PARTS:
            blinded = occluded(model, part)
            if blinded is None:
                break
            scores = []
            for chunk in chunks:
                scores.append(scores_of(blinded, chunk))
                advance(len(chunk))
            parts.append(score_rows(test, name, np.concatenate(scores)).assign(probe=part))
    return pd.concat(parts)
