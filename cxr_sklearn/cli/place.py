"""The commands that judge a saved model at another place, and adapt it to that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .app import (
    PATH,
    Cluster,
    DicomIdentity,
    Images,
    Quiet,
    Store,
    app,
    for_workers,
    is_table,
    load,
    on_cluster,
    one_line_errors,
    print_findings,
    say,
)
from .model import ModelFile, MovedWeights, Trust, load_and_warn
from .study import RULES, By, Language, Overwrite, columns, print_summary

if TYPE_CHECKING:
    import pandas as pd


@app.command()
def evaluate(
    models: Annotated[list[Path], typer.Argument(**PATH, help="Models that `train` or `compare` saved.")],
    images: Images,
    out: Annotated[Path, typer.Option(**PATH, help="Folder for the report and scores.")] = Path("runs/evaluate"),
    split: Annotated[
        Literal["all", "train", "val", "test"], typer.Option(help="The images to use, by their split.")
    ] = "all",
    by: By = None,
    dicom_identity: DicomIdentity = False,
    weights: MovedWeights = None,
    store: Store = "auto",
    trust: Trust = False,
    cluster: Cluster = None,
    allow_leaks: Annotated[
        bool,
        typer.Option("--allow-leaks", help="Go on although a model was made with some of these images."),
    ] = False,
    lang: Language = "en",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Judge saved models on images that they have not seen, at the thresholds that they carry."""
    with one_line_errors(), on_cluster(cluster):
        from ..study.evaluate import evaluate as run
        from ..study.evaluate import name_models

        images, store, weights = for_workers(cluster, images, store, weights)
        named = {name: load_and_warn(file, trust, store, weights) for name, file in name_models(models).items()}
        cohort = load(images, dicom_identity=dicom_identity)
        metrics = run(named, cohort, out=out, split=split, by=columns(by), store=store, allow_leaks=allow_leaks,
                      lang=lang, overwrite=overwrite, verbose=not quiet)  # fmt: skip
        print_summary(metrics)
        print_findings(metrics["run"])
        say(f"Report: {out / 'report.html'}")
    if metrics["failed"]:  # a warning says which, and why
        raise typer.Exit(1)


@app.command()
def adapt(
    model: ModelFile,
    save: Annotated[
        Path,
        typer.Option(**PATH, help="File to write the new model to, .skops or .joblib; an earlier one is replaced."),
    ],
    images: Annotated[
        Path | None,
        typer.Argument(**PATH, help="Labelled images of the other place; with --prevalence, they need no labels."),
    ] = None,
    prevalence: Annotated[
        str | None,
        typer.Option(metavar="P|LOW:HIGH", help="Share of images with pneumonia there, or its 95 % interval."),
    ] = None,
    threshold: Annotated[
        str | None, typer.Option(metavar=RULES, help="Rule for the new threshold (default: that of the model).")
    ] = None,
    calibrate: Annotated[
        Literal["auto", "none", "intercept", "sigmoid"],
        typer.Option(help="How to calibrate the scores; auto decides by the number of labelled images."),
    ] = "auto",
    dicom_identity: DicomIdentity = False,
    weights: MovedWeights = None,
    store: Store = "auto",
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Give a saved model the threshold and calibration that another place needs, and save it as a new one."""
    with one_line_errors():
        from ..exceptions import InputError
        from ..models.files import check_saveable, keep_model
        from ..report.sentences import adapted_sentence
        from ..report.words import words
        from ..study.adapt import adapt as run

        if save.exists() and model.resolve() == save.resolve():
            raise InputError(f"{save} would be overwritten; choose another file with --save")
        known = load_and_warn(model, trust, store, weights)
        check_saveable(known.pipeline, save)
        cohort = None if images is None else _cohort(images, prevalence is None, dicom_identity)
        adapted = run(known, cohort, prevalence=None if prevalence is None else _shares(prevalence),
                      threshold=threshold, calibrate=calibrate, store=store, verbose=not quiet)  # fmt: skip
        kept = keep_model(adapted, save)
        say(adapted_sentence((adapted.metadata or {})["adapted"][-1], words("en")))
        say(f"Model: {kept} ({kept.stat().st_size / 1e6:.1f} MB)")


def _cohort(images: Path, is_labelled: bool, dicom_identity: bool) -> pd.DataFrame | list[str]:
    """Return a frame, or the paths of images in a folder where nobody asks for labels or headers."""
    from ..images._walk import image_paths

    if is_labelled or is_table(images) or dicom_identity:
        return load(images, warn=True, dicom_identity=dicom_identity, labels=is_labelled)
    return image_paths([images])


def _shares(text: str) -> float | tuple[float, ...]:
    """Read a share, or both ends of its interval."""
    try:
        values = tuple(float(part) for part in text.split(":"))
    except ValueError as error:
        hint = f"{text!r} is neither a share nor two, such as .04:.08"
        raise typer.BadParameter(hint, param_hint="--prevalence") from error
    return values[0] if len(values) == 1 else values
