"""The commands that compare pipelines and report on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.text import Text

from .app import (
    PATH,
    Cluster,
    DicomIdentity,
    Images,
    Quiet,
    Store,
    app,
    console,
    for_workers,
    load,
    on_cluster,
    one_line_errors,
    plain_table,
    print_findings,
    say,
    stderr,
)

Weights = Annotated[
    str, typer.Option(metavar="imagenet|random|PATH", help="Weights of the backbones without their top.")
]
PrecisionOption = Annotated[
    Literal["auto", "float32", "bfloat16", "int8"],
    typer.Option("--precision", help="Precision of frozen networks; int8 is fast on CPUs and needs cxr-sklearn[onnx]."),
]
MAX_SEED = 2**32 - 1000  # the draws of a learning curve count on from it
RULES = "youden|robust|sensitivity=.95|specificity=.90|cost=5:1|0.5"
Balance = Literal["none", "undersample", "weights", "augment"]
Calibration = Literal["temperature", "sigmoid", "isotonic"]
Language = Annotated[Literal["en", "es"], typer.Option(help="Language of the report.")]
AllowLeaks = Annotated[
    bool, typer.Option("--allow-leaks", help="Go on although images or patients are on both sides of a split.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace files in OUT that bear the names of a run's, whoever wrote them.")
]
Pipelines = Annotated[
    list[str] | None,
    typer.Option(help="Recipe, by name or by the path of your own file (default: all shipped but the slow ones)."),
]

By = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN[,COLUMN]...", help="Divide the test images by these columns of the table."),
]


def columns(by: list[str] | None) -> list[str]:
    """Return the names of columns that were given, separated by commas or one at a time."""
    return [name.strip() for names in by or () for name in names.split(",") if name.strip()]


@app.command()
def compare(
    images: Annotated[
        Path | None,
        typer.Argument(**PATH, help="Folder of radiographs, or a CSV file (default: synthetic ones, drawn into OUT)."),
    ] = None,
    pipeline: Pipelines = None,
    out: Annotated[Path, typer.Option(**PATH, help="Folder for the report, scores and models.")] = Path("runs/compare"),
    weights: Weights = "imagenet",
    precision: PrecisionOption = "auto",
    store: Store = "auto",
    balance: Annotated[Balance, typer.Option(help="What to do about classes of unequal size while fitting.")] = "none",
    threshold: Annotated[str, typer.Option(metavar=RULES, help="Where scores become decisions.")] = "youden",
    calibrate: Annotated[
        Calibration | None, typer.Option(help="Calibrate the scores, on the images that the threshold is chosen on.")
    ] = None,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Also try permuted labels, and hide the border or the centre of images.")
    ] = False,
    stress: Annotated[
        bool,
        typer.Option("--stress", help="Also change the validation images, to choose between pipelines without test."),
    ] = False,
    by: By = None,
    folds: Annotated[
        int, typer.Option(min=1, help="Folds of the cross-validation; 1 fits once and holds a tenth out.")
    ] = 5,
    repeats: Annotated[
        int, typer.Option(min=1, help="Training runs of the best pipeline and those it beats, with other seeds.")
    ] = 1,
    jobs: Annotated[int | None, typer.Option(help="Processes for the grid search.")] = None,
    cluster: Cluster = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of folds and estimators.")] = 0,
    allow_leaks: AllowLeaks = False,
    dicom_identity: DicomIdentity = False,
    lang: Language = "en",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Compare pipelines on the same images, folds and rules, and write a report."""
    with one_line_errors(), on_cluster(cluster):
        from .._io import folder_to_write
        from ..datasets.synthetic import write_radiographs
        from ..study.compare import compare as run

        if images is None:
            images = folder_to_write(out) / f"synthetic-{seed}"  # the same seed draws the same files again
            weights = _weights_for_synthetic(weights, pipeline)
            write_radiographs(images, 150, random_state=seed)
        images, store, weights = for_workers(cluster, images, store, weights)
        metrics = run(
            load(images, dicom_identity=dicom_identity),
            pipeline,
            out=out,
            weights=weights,
            precision=precision,
            store=store,
            balance=balance,
            threshold=threshold,
            calibrate=calibrate,
            sanity=sanity,
            stress=stress,
            by=columns(by),
            cv=folds,
            repeats=repeats,
            n_jobs=jobs,
            random_state=seed,
            allow_leaks=allow_leaks,
            lang=lang,
            overwrite=overwrite,
            verbose=not quiet,
        )
        print_summary(metrics)
        print_findings(metrics["run"])
        say(f"Report: {out / 'report.html'}")
    if metrics["failed"]:  # a warning says which, and why
        raise typer.Exit(1)


def _weights_for_synthetic(weights: str, pipelines: list[str] | None) -> str:
    """Let a first try work offline: fall back on random weights, and say so."""
    from ..exceptions import WeightsUnavailableError
    from ..models._steps import describe_networks
    from ..study.recipes import candidates_of, default_recipes

    if weights != "imagenet":
        return weights
    try:
        for candidate in candidates_of(pipelines, default_recipes(), weights=weights):
            describe_networks(candidate.pipeline)
    except WeightsUnavailableError:
        say("The ImageNet weights are neither here nor to be downloaded: going on with random weights.", stderr)
        return "random"
    return weights


@app.command()
def report(
    run: Annotated[Path, typer.Argument(**PATH, help="Folder that `compare` or `evaluate` wrote.")],
    threshold: Annotated[
        str | None, typer.Option(metavar=RULES, help="Another rule for where scores become decisions.")
    ] = None,
    lang: Annotated[Literal["en", "es"] | None, typer.Option(help="Another language of the report.")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a report and model card that were changed since.")
    ] = False,
) -> None:
    """Compute the metrics again from the tables of a run and render the report, without Keras."""
    with one_line_errors():
        from ..study.run_folder import write_results

        metrics = write_results(run, threshold=threshold, lang=lang, overwrite=overwrite)
        print_summary(metrics)
        if before := metrics["run"].get("threshold_before"):
            say(f"A second look at test: the models in {run / 'models'} still decide at the thresholds by {before!r}.",
                style="yellow")  # fmt: skip
        say(f"Report: {run / 'report.html'}")


@app.command()
def learning_curve(
    images: Images,
    out: Annotated[
        Path, typer.Option(**PATH, help="Folder for the table, e.g. that of a `compare` run on the same images.")
    ],
    pipeline: Annotated[
        list[str] | None,
        typer.Option(help="Recipe, by name or by the path of your own file (default: all frozen)."),
    ] = None,
    weights: Weights = "imagenet",
    precision: PrecisionOption = "auto",
    store: Store = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Draws of patients of each number.")] = 10,
    cluster: Cluster = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Go on although images of train and val are copies of each other.")
    ] = False,
    dicom_identity: DicomIdentity = False,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of draws and estimators.")] = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure how the frozen recipes improve with the number of training patients."""
    with one_line_errors(), on_cluster(cluster):
        from ..evaluation.summary import learning_facts
        from ..study.learning_curve import learning_curve as run
        from ..study.run_folder import COMPUTED, claim, write_results

        has_report = (out / "metrics.json").is_file()
        if has_report:
            claim(out, COMPUTED, overwrite=overwrite)
        images, store, weights = for_workers(cluster, images, store, weights)
        frame = load(images, warn=True, dicom_identity=dicom_identity)
        table = run(frame, pipeline, out=out, weights=weights, precision=precision, store=store, n_repeats=repeats,
                    allow_leaks=allow_leaks, random_state=seed, overwrite=overwrite, verbose=not quiet)  # fmt: skip
        _print_curve(learning_facts(table))
        say(f"Table: {out / 'learning_curve.csv'}")
        if has_report:
            shown = write_results(out, overwrite=overwrite)["learning_curve"]
            say(f"Report: {out / 'report.html'}" if shown else "The report there is of other images and leaves it out.")


def _print_curve(facts: dict[str, Any]) -> None:
    from ..report.sentences import curve_labels
    from ..report.words import words

    labels = curve_labels(facts, words("en"))
    table = plain_table("pipeline", "patients", "AUC", "range")
    for name, curve in facts["pipelines"].items():
        for point in curve["points"]:
            table.add_row(Text(labels[name]), str(point["patients"]), f"{point['mean']:.3f}",
                          f"{point['low']:.3f} to {point['high']:.3f}")  # fmt: skip
    console.print(f"On {facts['images']} images ({facts['source']}):", table)


def print_summary(metrics: dict[str, Any]) -> None:
    """Print the threshold and a few metrics of each pipeline."""
    from ..report.sentences import pipeline_labels
    from ..report.words import words

    labels = pipeline_labels(metrics["pipelines"], words("en"))
    heads = {"recall": "recall", "specificity": "specificity", "roc_auc": "AUC"}
    table = plain_table("pipeline", "threshold", *heads.values(), "95 %")
    for name, facts in metrics["pipelines"].items():
        cells = [f"{value:.3f}" for value in (facts["threshold"]["value"], *(facts["test"][m]["value"] for m in heads))]
        ends = facts["test"]["roc_auc"]["ci95"]
        table.add_row(Text(labels[name]), *cells, f"{ends[0]:.3f}-{ends[1]:.3f}" if ends else "none")
    console.print("On the test images:", table)
    _print_runs({labels[name]: facts["runs"] for name, facts in metrics["pipelines"].items() if facts["runs"]})
    _print_stress({labels[name]: facts["stress"] for name, facts in metrics["pipelines"].items() if facts["stress"]})


def _print_runs(runs: dict[str, Any]) -> None:
    if not runs:
        return
    table = plain_table("pipeline", "runs", "mean AUC", "SD", "range")
    for label, facts in runs.items():
        auc = facts["metrics"]["roc_auc"]
        table.add_row(Text(label), str(facts["n"]), f"{auc['mean']:.3f}", f"{auc['std']:.3f}",
                      f"{auc['low']:.3f} to {auc['high']:.3f}")  # fmt: skip
    console.print("Over training runs with different seeds:", table)


def _print_stress(stress: dict[str, Any]) -> None:
    if not stress:
        return
    table = plain_table("pipeline", "as they are", "changed", "95 % of change", "worst")
    for label, facts in stress.items():
        ends = facts["mean"]["ci95"]
        worst = min(facts["changes"], key=lambda name: facts["changes"][name]["roc_auc"])
        table.add_row(Text(label), f"{facts['clean']['roc_auc']:.3f}", f"{facts['mean']['roc_auc']:.3f}",
                      f"{ends[0]:.3f} to {ends[1]:.3f}" if ends else "none",
                      f"{facts['changes'][worst]['roc_auc']:.3f} ({worst})")  # fmt: skip
    console.print("AUC on images that were not trained on, as they are and changed:", table)
