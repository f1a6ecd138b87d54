"""The same pipelines trained again with other seeds, to tell a better pipeline from a lucky training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import Pipeline

from .._progress import progress_bar
from ..evaluation.tables import score_rows
from ..evaluation.thresholds import images_to_choose_on
from ..exceptions import InputError, ModelError, RecipeError, TrainingError
from .recipes import Candidate
from .search import Fitted, Splits, blaming, calibrate_scores, calibrated_rows, fit, scores_of


class Trained(NamedTuple):
    """What it takes to train a candidate again as it was trained first.

    Attributes
    ----------
    candidate : Candidate
    best_params : dict
        The parameters that the search has found.
    calibrate : str or None
        How scores are calibrated.
    calibrator : CalibratedClassifierCV or None
        That of the first run.
    """

    candidate: Candidate
    best_params: dict[str, Any]
    calibrate: str | None
    calibrator: CalibratedClassifierCV | None

    @classmethod
    def first(cls, candidate: Candidate, fitted: Fitted, calibrate: str | None) -> Trained:
        """Keep of a fitted candidate what is needed, and not its model, which may be large."""
        params = fitted.pipeline.get_params()
        return cls(candidate, {key: params[key] for key in fitted.facts["best_params"]}, calibrate, fitted.calibrator)

    @property
    def takes_seed(self) -> bool:
        """Whether anything in the pipeline takes a seed; otherwise its training is not random."""
        return self.candidate.rebuild is not None or bool(_seeds_of(self.candidate.pipeline))

    def with_seed(self, seed: int) -> Pipeline:
        """Return the unfitted pipeline with the best parameters and another seed in everything that takes one."""
        rebuild = self.candidate.rebuild
        pipeline = clone(self.candidate.pipeline) if rebuild is None else rebuild(seed)
        pipeline.set_params(**{key: clone(value, safe=False) for key, value in self.best_params.items()})
        pipeline.set_params(**dict.fromkeys(_seeds_of(pipeline), seed))
        return pipeline


def _seeds_of(pipeline: Pipeline) -> list[str]:
    return [key for key in pipeline.get_params() if key.rpartition("__")[2] == "random_state"]


def worth_repeating(metrics: Mapping[str, Any]) -> list[str]:
    """Return the pipeline that ranks best, and those whose difference from it is supported: the claims to test.

    Other training runs cannot make a difference supported that is not, so the others need none.
    """
    best = metrics["verdict"]["best"]
    pairs = [pair for pair in metrics["comparisons"] if pair["supported"] and best in (pair["a"], pair["b"])]
    return [best, *(pair["b"] if pair["a"] == best else pair["a"] for pair in pairs)]


def train_again(
    first: Trained,
    frame: pd.DataFrame,
    folds: Splits,
    *,
    repeats: int,
    random_state: int,
    failed: list[str],
    verbose: int,
) -> Iterator[pd.DataFrame]:
    """Train a candidate ``repeats - 1`` more times, each with another seed, and yield rows of ``runs.csv`` for each.

    The images are those of the first run. Scores are calibrated as those of the first run are: anew on the validation
    images, or by the first calibrator where these are too few, because it was fitted on out-of-fold scores, of which
    there are none here. The reasons of runs that fail are appended to `failed`; the others go on.
    """
    name = first.candidate.name
    train = frame[frame["split"] == "train"]
    rows = train if len(folds) > 1 else train.iloc[folds[0][0]]
    parts = [part for split in ("val", "test") if len(part := frame[frame["split"] == split])]
    # Drawn at random, so that none is the one that an estimator brought along; below 2**31 for those that want int32.
    seeds = np.random.SeedSequence(random_state).generate_state(repeats - 1) >> 1
    with progress_bar(f"Training {name} again", len(seeds), show=verbose > 0) as advance:
        for run, seed in enumerate(seeds.tolist(), start=2):
            try:
                with blaming(name):
                    model = fit(first.with_seed(seed), rows)
                    scores = pd.concat([score_rows(part, name, scores_of(model, part)) for part in parts])
                    scores = _calibrated(scores.reset_index(drop=True), first)
            except (TrainingError, ModelError, InputError, RecipeError) as error:
                failed.append(f"training run {run} of {name} failed: {str(error).removeprefix(f'{name} failed: ')}")
            else:
                yield scores.assign(run=run)
            advance(1)


def _calibrated(scores: pd.DataFrame, first: Trained) -> pd.DataFrame:
    if first.calibrate and images_to_choose_on(scores)[0] == "val":
        return calibrate_scores(scores, first.calibrate)[0]
    return calibrated_rows(scores, first.calibrator)
