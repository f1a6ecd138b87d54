"""compare: every pipeline on the same images, folds and rules, with one table of scores to judge them by."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from .._io import folder_to_write
from .._settings import usual_settings
from .._validation import checks_types
from ..datasets._frame import SPLIT_NAMES, any_drawn
from ..evaluation.columns import check_columns
from ..evaluation.summary import SHORTCUTS
from ..evaluation.thresholds import Rule, parse_rule
from ..exceptions import DataError, ModelError, RecipeError, TrainingError
from ..features.domain import DomainDetector
from ..features.shortcuts import ShortcutFeatures
from ..models._steps import crop_of, describe_networks, steps_of
from ..models.files import keep_model
from ..models.model import CXRModel
from ..report.checklists import read_about
from ..report.words import words
from ._metadata import check_features, check_images, describe_images, describe_run, development_of
from ._writer import Writer, run_all
from .probes import occluded_rows, permuted_rows, stressed_validation
from .recipes import Candidate, candidates_of, default_recipes
from .repeats import Trained, train_again, worth_repeating
from .run_folder import RESULTS, claim, owned, prepare, remove_results
from .search import (
    CLASSES,
    Domains,
    Fitted,
    Splits,
    blaming,
    calibrated_rows,
    check_options,
    embed_all,
    fit_candidate,
    images_of,
    patient_folds,
    training_of,
    workers_started,
)


@usual_settings
@checks_types
def compare(
    frame: pd.DataFrame,
    pipelines: Any = None,
    *,
    out: str | os.PathLike[str],
    weights: str | os.PathLike[str] = "imagenet",
    precision: str = "auto",
    store: str | os.PathLike[str] | None = "auto",
    balance: str = "none",
    threshold: str | float = "youden",
    calibrate: str | None = None,
    sanity: bool = False,
    stress: bool = False,
    by: str | Sequence[str] = (),
    allow_leaks: bool = False,
    cv: int = 5,
    repeats: int = 1,
    n_jobs: int | None = None,
    random_state: int = 0,
    lang: str = "en",
    overwrite: bool = False,
    verbose: int = 0,
) -> dict[str, Any]:
    """Compare pipelines on the same images, folds and rules, and write a report.

    The images are checked first, as by :func:`check`, and embedded once, before any search starts. Each pipeline then
    goes through a grid search on the training images, with stratified folds of whole patients, scored by ROC AUC;
    gets out-of-fold scores with the best parameters; is fitted again on all training images; has its threshold chosen
    on the validation images, or on the out-of-fold scores where those are too few; and looks at the test images once.
    A classifier that trains a network holds out some of its training patients for early stopping. The recipe
    "shortcuts", which sees no lung, is always included: it is the line to beat.

    Parameters
    ----------
    frame : DataFrame
        As :func:`load_folder` returns it, with `path`, `target`, `split` and `patient`, and optionally `subtype`.
    pipelines : dict, sequence of str or path, or None
        What to compare: ``{"mine": pipeline, "tuned": (pipeline, grid), "frozen": "vgg16_logistic"}``, with estimators,
        pairs of an estimator and its parameter grid, names of shipped recipes, or paths of recipe files; or a list of
        recipes alone. None takes all shipped recipes except the slow ones (``ON_REQUEST = True`` in their file).
    out : path
        Folder for ``scores.csv``, ``metrics.json``, ``report.html``, ``model-card.md``, ``images.csv``,
        ``training.csv``, ``probes.csv``, ``runs.csv``, ``errors.csv``, ``doubtful_labels.csv`` and ``models/``; created
        if missing. ``run-files.json`` lists them. A second run replaces what the first one wrote, and nothing else.
    weights, precision, store
        Passed to the recipes, and by them to :class:`FrozenEmbedder` and, but for `precision`, to
        :class:`FineTunedClassifier`; estimators keep their own. The store also keeps the statistics of each image that
        the check needs. Without a store, every fit embeds its images again.
    balance : {"none", "undersample", "weights", "augment"}, default="none"
        How a :class:`BalancedClassifier` around the last step of each pipeline balances the classes. For "augment",
        which draws views of images, it wraps all steps after the ImageLoader, and leaves a pipeline without one alone.
    threshold : str or float, default="youden"
        Where scores become decisions: "youden", "sensitivity=.95", "specificity=.90", "cost=5:1" (a missed pneumonia
        against a false alarm) or a number. "robust" is Youden's index over the validation images, unchanged and
        changed, after smoothing; it implies `stress`.
    calibrate : {"temperature", "sigmoid", "isotonic"} or None, default=None
        How to calibrate the scores, on the images on which the threshold is chosen.
    sanity : bool, default=False
        Also train on permuted labels, and score test images with their border or centre hidden.
    stress : bool, default=False
        Also score changed validation images, as :func:`stress_test` does, to choose between pipelines without a look
        at test. If there are too few of these, each pipeline is fitted once more, without the first fold of the
        training images, and scores that fold.
    by : str or sequence of str, default=()
        Columns of `frame` by which to divide the test images, such as ``("sex", "age")``. Age in years is put into
        bands, other numbers with more than 12 values into quartiles; text is taken by value.
    allow_leaks : bool, default=False
        Whether to go on if images or patients are on both sides of a split; the report says so.
    cv : int, default=5
        Number of folds. 1 fits once: a tenth of the training patients is held out instead, and the model fitted on the
        others is the final one.
    repeats : int, default=1
        How many times to train the pipeline that ranks the test images best, and those that it is shown to be better
        than: with the best parameters, on the same images, each time with another seed in everything that takes a
        `random_state`. The first of these trainings is the usual one. With more than one, a difference counts as
        supported only if another training would not undo it. Five or more are needed to know the spread well.
    n_jobs : int or None, default=None
        Processes for the grid search.
    random_state : int, default=0
        Seed of folds and estimators.
    lang : {"en", "es"}, default="en"
        Language of the report.
    overwrite : bool, default=False
        Whether to replace files in `out` that bear the names of a run's but were not written by one.
    verbose : int, default=0
        1 shows progress bars.

    Returns
    -------
    dict
        The content of ``metrics.json``. Its "failed" holds the reason for each pipeline that failed; what was measured
        of it before, if anything, is in "pipelines".

    Warns
    -----
    UserWarning
        If a pipeline or one of its repeated trainings fails, or its model cannot be kept.

    Raises
    ------
    DataError
        If a split or a class is missing, a class has fewer training patients than folds, there are leaks, a column
        `by` is missing or cannot divide the images, or `out` holds files that a run would replace but did not write.
    RecipeError
        If a recipe or an estimator cannot be used.
    TrainingError
        If all pipelines that were asked for fail before their scores are known.
    ValueError
        If another parameter is wrong.
    ImageReadError
        If images cannot be read; the error lists every one.
    WeightsUnavailableError
        If the weights of a backbone are not on this machine and cannot be downloaded.
    StoreError
        If the store cannot be read or written.
    OSError
        If `out` cannot be written to.
    """
    rule = parse_rule(str(threshold))
    words(lang)
    by = check_columns(frame, by)
    folder = folder_to_write(out)
    read_about(folder)  # an error here if the report could not use it
    check_options(balance, calibrate, cv, n_jobs, repeats)
    options = {"weights": weights, "precision": precision, "store": store, "random_state": random_state}
    candidates, asked = _candidates(pipelines, balance=balance, **options)
    names = [*RESULTS, *(file for candidate in candidates for file in _model_files(candidate.name))]
    claim(folder, names, overwrite=overwrite)
    for candidate in candidates:
        describe_networks(candidate.pipeline)  # an error here if weights are missing, before images are looked at
    frame = images_of(frame, SPLIT_NAMES, with_both_classes=("train", "test"), cv=cv)
    train, test = (frame[frame["split"] == split] for split in ("train", "test"))
    for target, label in CLASSES:
        if test[test["target"] == target]["patient"].nunique() < 2:
            raise DataError(f"there is one {label} patient in the test split, too few to measure anything")
    folds = patient_folds(train, cv, random_state)
    with workers_started(n_jobs if cv > 1 else 1):
        frame, checked = check_images(frame, store, allow_leaks=allow_leaks, verbose=verbose)
        train, test = (frame[frame["split"] == split] for split in ("train", "test"))
        # The quick steps that may fail come first.
        domains = Domains(store, train)
        for candidate in candidates:
            domains.of(candidate.pipeline)
        images = describe_images(frame, checked, by)
        prepare(folder)
        (folder / "models").mkdir(exist_ok=True)

        stress = stress or rule.name == "robust"
        run = {**describe_run(random_state, cv), "threshold": str(rule), "stress": stress, "lang": lang}
        run["repeats"] = int(repeats)
        data = {"synthetic": any_drawn(frame["path"])}
        facts: dict[str, Any] = {"pipelines": {}, "failed": {}, "data": data, "run": run}
        for candidate in candidates:
            facts["pipelines"][candidate.name] = {
                "description": candidate.description,
                "crop": crop_of(candidate.pipeline),
                "balance": candidate.balance,
                **embed_all(candidate.pipeline, frame, verbose),
            }
    checked = check_features(frame, candidates, checked)
    run |= {kind: checked[kind] for kind in ("leaks", "warnings")}
    facts["split_shift"] = checked["split_shift"]
    write = Writer(folder, facts, images, partial(remove_results, folder, names, overwrite=overwrite))
    trained: dict[str, Trained] = {}
    run_one = partial(
        _run_one, write=write, trained=trained, frame=frame, folds=folds, domains=domains, rule=rule,
        calibrate=calibrate, sanity=sanity, stress=stress, n_jobs=n_jobs, random_state=random_state, verbose=verbose,
    )  # fmt: skip
    repeat = partial(_repeat, trained, write, frame, folds, random_state, verbose)
    by_name = {candidate.name: candidate for candidate in candidates}
    run_all(by_name, lambda name: run_one(by_name[name]), write, repeat)
    if not set(asked) & set(write.metrics.get("pipelines", ())):
        raise TrainingError("; ".join(facts["failed"].values()))
    for reason in facts["failed"].values():
        warnings.warn(f"{reason}; the report lacks results of this pipeline", stacklevel=4)  # past the decorators
    for reason in (reason for known in facts["pipelines"].values() for reason in known.get("failed_runs", ())):
        warnings.warn(f"{reason}; the report leaves it out", stacklevel=4)
    return write.metrics


def _candidates(pipelines: Any, **options: Any) -> tuple[list[Candidate], list[str]]:
    """Return what to compare, with the baseline, and the names that were asked for."""
    candidates = candidates_of(pipelines, default_recipes(), **options)
    asked = [candidate.name for candidate in candidates]
    if SHORTCUTS not in asked:
        candidates += candidates_of(SHORTCUTS, (), **options | {"precision": "auto"})
    elif not isinstance(steps_of(candidates[asked.index(SHORTCUTS)].pipeline)[0], ShortcutFeatures):
        raise RecipeError(f"{SHORTCUTS!r} is the name of the baseline that sees no lung; give this pipeline another")
    return candidates, asked


def _run_one(
    candidate: Candidate,
    *,
    write: Writer,
    trained: dict[str, Trained],
    frame: pd.DataFrame,
    folds: Splits,
    domains: Domains,
    rule: Rule,
    calibrate: str | None,
    sanity: bool,
    stress: bool,
    n_jobs: int | None,
    random_state: int,
    verbose: int,
) -> None:
    """Fit one candidate, and write its scores, its model and its probes."""
    name = candidate.name
    train, test = (frame[frame["split"] == split] for split in ("train", "test"))
    fitted = fit_candidate(candidate, frame, folds, calibrate=calibrate, n_jobs=n_jobs, verbose=verbose)
    write.facts["pipelines"][name]["seconds"] |= fitted.facts.pop("seconds")
    write.facts["pipelines"][name] |= fitted.facts
    trained[name] = Trained.first(candidate, fitted, calibrate)
    changed = partial(stressed_validation, name, fitted, frame, folds, verbose)
    # Changed images come before the model is saved only if its threshold depends on them.
    with blaming(name):
        first = [changed()] if rule.name == "robust" else []
    write(scores=[fitted.scores], training=training_of(name, fitted.model), probes=first)
    with owned(write.folder, *_model_files(name)):
        _keep_model(write.folder / "models", fitted, domains.of(fitted.model), name, write.metrics, frame)
    if sanity:
        with blaming(name):
            occluded = calibrated_rows(occluded_rows(name, fitted.model, test, verbose), fitted.calibrator)
            permuted = permuted_rows(name, fitted.pipeline, train, random_state=random_state, verbose=verbose)
        write(probes=[occluded, permuted])
    if stress and not first:
        with blaming(name):
            later = [changed()]
        write(probes=later)


def _repeat(
    trained: Mapping[str, Trained], write: Writer, frame: pd.DataFrame, folds: Splits, random_state: int, verbose: int
) -> None:
    """Train the best pipeline, and those that it is better than, again with other seeds, and write the scores."""
    repeats = write.facts["run"]["repeats"]
    for name in worth_repeating(write.metrics) if repeats > 1 else ():
        facts = write.facts["pipelines"][name]
        facts |= {"seeded": trained[name].takes_seed, "failed_runs": []}
        if facts["seeded"]:
            for rows in train_again(
                trained[name], frame, folds, repeats=repeats, random_state=random_state, failed=facts["failed_runs"],
                verbose=verbose,
            ):  # fmt: skip
                write.add(runs=[rows])
        write()


def _model_files(name: str) -> list[str]:
    """Return the files that the model of a pipeline may be kept in."""
    return [f"models/{name}.{kind}" for kind in ("skops", "joblib")]


def _keep_model(
    folder: Path, fitted: Fitted, domain: DomainDetector, name: str, metrics: dict[str, Any], frame: pd.DataFrame
) -> None:
    """Save a model with the facts of the run about it: as .skops if it can be, else as .joblib, with a warning.

    One that cannot be saved at all causes a warning, not an error.
    """
    found = metrics["pipelines"][name]
    metadata = {
        "recipe": name,
        "description": found["description"],
        "best_params": {key: str(value) for key, value in found["best_params"].items()},
        "balance": found["balance"],
        "threshold_rule": found["threshold"]["rule"],
        "threshold_source": found["threshold"]["source"],
        "calibrated": found["calibrated"],
        "metrics": {"test": {metric: figure["value"] for metric, figure in found["test"].items()}},
        "data": {split: metrics["data"]["splits"][split] for split in SPLIT_NAMES},
        "synthetic": metrics["data"]["synthetic"],
        "development": development_of(frame, fitted.scores),
    }
    threshold = found["threshold"]["value"]
    model = CXRModel(fitted.model, threshold, calibrator=fitted.calibrator, domain=domain, metadata=metadata)
    try:
        keep_model(model, folder / f"{name}.skops")
    except ModelError as error:
        warnings.warn(f"the model of {name} is not kept: {error}", stacklevel=3)
