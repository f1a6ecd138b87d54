"""The numbers of metrics.json, all computed from the tables of a run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from ..exceptions import DataError
from .bootstrap import FPR_GRID, Draws, bootstrap, bootstrap_rates, interval, rate, wilson
from .calibration import calibration_facts
from .diagnosis import diagnose
from .metrics import METRICS, RATES, compute_metrics, confusion_cells
from .paired import compare_pairs
from .probes import occlusion_facts, permutation_facts, stress_facts
from .runs import over_runs
from .sample_size import sample_sizes
from .subgroups import (
    divisions_of,
    elsewhere,
    groups_of,
    n_group_comparisons,
    rates_by_column,
    rates_by_group,
)
from .tables import STRESS
from .thresholds import Rule, choose_threshold

#: Specificities at which the sensitivity is reported.
SPECIFICITIES = (0.80, 0.90, 0.95)
#: Sources of the thresholds of models that were not fitted in the run.
CARRIED = ("model", "adapted")
#: The recipe that sees no lung, the line to beat.
SHORTCUTS = "shortcuts"


class Computed(NamedTuple):
    """What was computed of a pipeline, and from which scores at which threshold."""

    scores: pd.DataFrame
    threshold: Mapping[str, Any]
    draws: Draws
    numbers: dict[str, Any]

    def is_of(self, scores: pd.DataFrame, threshold: Mapping[str, Any]) -> bool:
        """Whether the same scores would give the same at this threshold."""
        return dict(threshold) == dict(self.threshold) and scores.reset_index(drop=True).equals(
            self.scores.reset_index(drop=True)
        )


def summarise(
    scores: pd.DataFrame,
    rule: Rule | None,
    *,
    carried: Mapping[str, Mapping[str, Any]] | None = None,
    images: pd.DataFrame,
    probes: pd.DataFrame,
    training: pd.DataFrame,
    runs: pd.DataFrame,
    batch_norm: Mapping[str, Any],
    without_seed: Collection[str],
    computed: dict[str, Computed] | None = None,
) -> dict[str, Any]:
    """Compute the numbers of metrics.json for every pipeline and every pair of them.

    Parameters
    ----------
    scores, images, probes, training, runs : DataFrame
        Rows of ``scores.csv``, ``images.csv``, ``probes.csv``, ``training.csv`` and ``runs.csv``; all but the first may
        be empty.
    rule : Rule or None
        How thresholds are chosen; None for models that carry theirs.
    carried : mapping of str to mapping, optional
        The threshold of each of those, "value", and facts about it.
    batch_norm : mapping of str to mapping
        ``batch_norm_scores_`` of the pipelines that have them.
    without_seed : collection of str
        The pipelines whose training was not repeated because nothing in it is random.
    computed : dict of str to Computed, optional
        What an earlier call computed of the same test images; it is used again, and brought up to date.

    Returns
    -------
    dict
        "pipelines" by name, "comparisons" of every pair, the number of "group_comparisons", and the "verdict". Except
        under "at_half", decisions are taken at the pipeline's threshold.

    Raises
    ------
    DataError
        If the pipelines scored different test images, or a class has fewer than two test patients.
    """
    by_name = {str(name): rows for name, rows in scores.groupby("pipeline", sort=False)}
    thresholds = dict(carried or {}) if rule is None else _thresholds(by_name, rule, probes)
    cuts = {name: float(thresholds[name]["value"]) for name in by_name}
    first, wide = _test_scores(by_name)
    computed = {} if computed is None else computed
    _compute_new(by_name, thresholds, first, wide, computed)
    draws = {name: computed[name].draws for name in by_name}
    tested = images[images["split"] == "test"]
    groups, divisions = groups_of(tested), divisions_of(tested)
    repeated = {
        name: over_runs(rows, more, rule, thresholds[name])
        for name, rows in by_name.items()
        if rule is not None and (len(more := runs[runs["pipeline"] == name]) or name in without_seed)
    }
    pipelines = {}
    for name, rows in by_name.items():
        test = rows[rows["split"] == "test"]
        found = dict(computed[name].numbers)
        found["subgroups"] = rates_by_group(test, groups, cuts[name])
        found["by"] = rates_by_column(test, divisions, cuts[name])
        tried = probes[probes["pipeline"] == name]
        found["sanity"] = None
        if len(permuted := tried[tried["probe"] == "permuted"]):
            found["sanity"] = {"permuted": permutation_facts(permuted), "occlusion": occlusion_facts(test, tried)}
        auc = found["test"]["roc_auc"]["value"]
        found["diagnosis"] = diagnose(test, auc, training[training["pipeline"] == name], batch_norm.get(name))
        found["stress"] = stress_facts(rows, tried, cuts[name])
        found["runs"] = repeated[name].facts if name in repeated else None
        pipelines[name] = found
    pairs = compare_pairs(first["target"], wide, cuts, draws, repeated)
    return {
        "pipelines": pipelines,
        "comparisons": pairs,
        "group_comparisons": n_group_comparisons(pipelines),
        "verdict": verdict(pipelines, pairs),
    }


def _compute_new(
    by_name: Mapping[str, pd.DataFrame],
    thresholds: Mapping[str, Mapping[str, Any]],
    first: pd.DataFrame,
    wide: pd.DataFrame,
    computed: dict[str, Computed],
) -> None:
    """Add to `computed` the pipelines that are not in it, or were computed from other scores or thresholds."""
    new = {
        name: rows
        for name, rows in by_name.items()
        if name not in computed or not computed[name].is_of(rows, thresholds[name])
    }
    if not new:
        return
    cuts = {name: float(thresholds[name]["value"]) for name in new}
    drawn = bootstrap(first["patient"], first["target"], {name: wide[name] for name in new}, cuts)
    for name, rows in new.items():
        numbers = _of_one(rows, rows[rows["split"] == "test"], thresholds[name], drawn[name])
        computed[name] = Computed(rows, thresholds[name], drawn[name], numbers)


def _thresholds(by_name: Mapping[str, pd.DataFrame], rule: Rule, probes: pd.DataFrame) -> dict[str, Mapping[str, Any]]:
    changed = probes[probes["probe"].str.startswith(STRESS)]
    return {name: choose_threshold(rows, rule, changed[changed["pipeline"] == name]) for name, rows in by_name.items()}


def _test_scores(by_name: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the test images, and their scores in a column per pipeline."""
    tests = {name: rows[rows["split"] == "test"].set_index("path") for name, rows in by_name.items()}
    first_name, first = next(iter(tests.items()))
    for label in (0, 1):
        if first.loc[first["target"] == label, "patient"].nunique() < 2:
            raise DataError("a class has fewer than two test patients, too few to measure anything")
    for name, test in tests.items():
        known = test[["patient", "target"]].reindex(first.index)
        if len(test) != len(first) or not known.equals(first[["patient", "target"]]):
            raise DataError(f"{name} and {first_name} scored different test images, so they cannot be compared")
    return first, pd.DataFrame({name: test["score"].reindex(first.index) for name, test in tests.items()})


def _of_one(rows: pd.DataFrame, test: pd.DataFrame, threshold: Mapping[str, Any], draws: Draws) -> dict[str, Any]:
    cut, target, score = float(threshold["value"]), test["target"], test["score"]
    cells, half = (confusion_cells(target, score, value) for value in (cut, 0.5))
    low, high = np.nanquantile(draws.roc, (0.025, 0.975), axis=0)  # for a figure: pointwise and uncorrected
    return {
        "cv": None if threshold["source"] in CARRIED else _cross_validated(rows, cut),
        "domain": _domain(test),
        "test": _with_intervals(compute_metrics(target, score, cut), cells, draws.metrics),
        "threshold": dict(threshold),
        "confusion": cells,
        "wilson95": {name: wilson(*counts) for name, counts in _rates(cells).items()},
        "at_half": _with_intervals(compute_metrics(target, score, 0.5), half, draws.at_half) | {"confusion": half},
        "sensitivity_at_specificity": _sensitivities(target, score, draws),
        "roc_band": {"fpr": [round(float(x), 2) for x in FPR_GRID], "low": low.tolist(), "high": high.tolist()},
        "calibration": calibration_facts(test["patient"], target, score, draws),
        "elsewhere": elsewhere(target, score >= cut, draws),
        "sample_size": sample_sizes(test["patient"], target, score, cut),
    }


def _cross_validated(rows: pd.DataFrame, cut: float) -> dict[Any, Any]:
    """Return mean and spread of each metric over the folds."""
    folds = [fold for _, fold in rows[rows["split"] == "train"].groupby("fold")]
    if not folds or min(fold["target"].nunique() for fold in folds) < 2:
        raise DataError(f"{rows['pipeline'].iloc[0]} has no out-of-fold scores, or a fold of one class")
    by_fold = pd.DataFrame([compute_metrics(fold["target"], fold["score"], cut) for fold in folds])
    return pd.DataFrame({"mean": by_fold.mean(), "std": by_fold.std(ddof=0)}).to_dict("index")


def _domain(test: pd.DataFrame) -> dict[str, Any] | None:
    """Return the share of images that a model's detector flags; None if the run did not ask it."""
    if "domain" not in test or test["domain"].isna().all():
        return None
    out = (test["domain"] == "out").to_numpy()
    draws = bootstrap_rates(test["patient"], out[:, np.newaxis], np.ones((len(out), 1), dtype=bool))[:, 0]
    return {"images": int(out.sum()), "share": rate(int(out.sum()), len(out), draws)}


def _rates(cells: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """Return hits and images of the metrics that are rates, if there are any images."""
    counts = {name: METRICS[name].function(**cells) for name in RATES}
    return {name: (hits, images) for name, (hits, images) in counts.items() if images}


def _with_intervals(
    values: Mapping[str, float], cells: Mapping[str, int], draws: Mapping[str, np.ndarray]
) -> dict[str, dict[str, Any]]:
    """Describe the metrics that have draws."""
    rates = _rates(cells)
    return {
        name: rate(*rates[name], draws[name])
        if name in rates
        else {"value": value, "ci95": interval(draws[name], value), "method": "bootstrap"}
        for name, value in values.items()
        if name in draws
    }


def _sensitivities(target: pd.Series, score: pd.Series, draws: Draws) -> list[dict[str, Any]]:
    fpr, tpr, _ = roc_curve(target, score, drop_intermediate=False)
    found, n_pneumonia = [], int(np.sum(target == 1))
    for specificity in SPECIFICITIES:
        column = int(np.argmin(np.abs(FPR_GRID - (1 - specificity))))
        hits = round(n_pneumonia * float(tpr[fpr <= 1 - specificity + 1e-9].max()))
        found.append({"specificity": specificity, **rate(hits, n_pneumonia, draws.roc[:, column])})
    return found


def verdict(pipelines: Mapping[str, Any], pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """Judge which pipeline ranks images best, which others may be as good, and which do not beat the shortcuts.

    Returns
    -------
    dict
        "best" by ROC AUC on test, not counting the shortcuts; of the others, those "as_good" (no difference is
        supported by the data), of these "not_in_other_runs" (one is, by this training run alone), and "worse";
        "not_beating_shortcuts" (no difference, again) and "worse_than_shortcuts".
    """

    def of(a: str, b: str) -> dict[str, Any]:
        return next(pair for pair in pairs if {pair["a"], pair["b"]} == {a, b})

    def supported(a: str, b: str) -> bool:
        return bool(of(a, b)["supported"])

    def by_chance(a: str, b: str) -> bool:
        runs = of(a, b)["runs"]
        return bool(runs and runs["supported_by_patients"] and not supported(a, b))

    auc = {name: facts["test"]["roc_auc"]["value"] for name, facts in pipelines.items()}
    learners = [name for name in pipelines if name != SHORTCUTS]
    best = max(learners or pipelines, key=lambda name: auc[name])
    others = [name for name in learners if name != best]
    found = {
        "best": best,
        "as_good": [name for name in others if not supported(best, name)],
        "not_in_other_runs": [name for name in others if by_chance(best, name)],
        "worse": [name for name in others if supported(best, name)],
    }
    if SHORTCUTS in pipelines:
        differ = [name for name in learners if supported(name, SHORTCUTS)]
        found["worse_than_shortcuts"] = [name for name in differ if auc[name] < auc[SHORTCUTS]]
        found["not_beating_shortcuts"] = [name for name in learners if name not in differ]
    return found


def learning_facts(table: pd.DataFrame) -> dict[str, Any]:
    """Return mean and range of the AUC for each pipeline and number of patients, as in metrics.json."""
    pipelines = {}
    for name, rows in table.groupby("pipeline", sort=False):
        points = rows.groupby("patients")["roc_auc"].agg(mean="mean", low="min", high="max").reset_index()
        pipelines[str(name)] = {"weights": rows["weights"].fillna("").iloc[0], "points": points.to_dict("records")}
    return {
        "images": int(table["images"].iloc[0]),
        "source": table["source"].iloc[0],
        "repeats": int(table["repeat"].max()) + 1,
        "pipelines": pipelines,
    }
