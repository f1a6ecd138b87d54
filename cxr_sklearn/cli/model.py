"""The commands that train a model to keep, and use one."""

from __future__ import annotations

import csv as csv_module
import io
import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

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
    printable,
    say,
    show_warning,
    stderr,
)
from .study import MAX_SEED, RULES, AllowLeaks, Balance, Calibration, PrecisionOption, Weights

if TYPE_CHECKING:
    from ..models.model import CXRModel

OUT_OF_DOMAIN = (
    "Images that are out of the domain do not look like the radiographs the model was trained on: their scores mean "
    "nothing."
)
ModelFile = Annotated[Path, typer.Argument(**PATH, help="Model that `train` or `compare` saved.")]
AnyModelFile = Annotated[Path, typer.Argument(**PATH, help="Model that `train`, `compare` or `export` saved.")]
MovedWeights = Annotated[Path | None, typer.Option(**PATH, help="Weights of the backbone, if they are elsewhere now.")]
Trust = Annotated[bool, typer.Option("--trust", help="Load a .joblib model, which runs code that is in it.")]


@app.command()
def train(
    images: Images,
    pipeline: Annotated[str, typer.Option(help="Recipe, by name or by the path of your own file.")],
    save: Annotated[
        Path, typer.Option(**PATH, help="File to write the model to, .skops or .joblib; an earlier model is replaced.")
    ],
    weights: Weights = "imagenet",
    precision: PrecisionOption = "auto",
    store: Store = "auto",
    balance: Annotated[Balance, typer.Option(help="What to do about classes of unequal size while fitting.")] = "none",
    threshold: Annotated[str, typer.Option(metavar=RULES, help="Where scores become decisions.")] = "youden",
    calibrate: Annotated[Calibration | None, typer.Option(help="Calibrate the scores.")] = None,
    folds: Annotated[int, typer.Option(min=1, help="Folds of the search; 1 fits once and holds a tenth out.")] = 5,
    jobs: Annotated[int | None, typer.Option(help="Processes for the search.")] = None,
    cluster: Cluster = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of folds and estimators.")] = 0,
    checkpoint: Annotated[
        Path | None,
        typer.Option(**PATH, help="Folder for checkpoints: the same command resumes an interrupted training."),
    ] = None,
    allow_leaks: AllowLeaks = False,
    dicom_identity: DicomIdentity = False,
    quiet: Quiet = False,
) -> None:
    """Fit a pipeline on the train split, choose its threshold on val or out-of-fold scores, and save it."""
    with one_line_errors(), on_cluster(cluster):
        from ..models.files import check_saveable, keep_model
        from ..study.recipes import candidates_of
        from ..study.train import train as run

        (candidate,) = candidates_of(pipeline, (), balance=balance, weights=weights, precision=precision, store=None,
                                    random_state=seed)  # fmt: skip
        for variant in candidate.variants():
            check_saveable(variant, save)
        images, store, weights = for_workers(cluster, images, store, weights)
        frame = load(images, warn=True, dicom_identity=dicom_identity)
        model = run(frame, pipeline, weights=weights, precision=precision, store=store, balance=balance,
                    threshold=threshold, calibrate=calibrate, allow_leaks=allow_leaks, cv=folds, n_jobs=jobs,
                    random_state=seed, checkpoint=checkpoint, verbose=not quiet)  # fmt: skip
        kept = keep_model(model, save)
        facts = model.metadata or {}
        if facts["calibrated"] == "reversed":
            say(
                "Not calibrated: the fitted map would reverse the ranking, which happens when scores carry no signal.",
                style="yellow",
            )
        auc = facts["metrics"]["out_of_fold"]["roc_auc"]
        held_out = "Cross-validated AUC" if folds > 1 else "AUC on held-out patients"
        say(f"{held_out} {auc:.3f}; threshold {model.threshold:.3f} ({facts['threshold_source']})")
        say(f"Model: {kept} ({kept.stat().st_size / 1e6:.1f} MB)")


@app.command()
def predict(
    model: AnyModelFile,
    images: Annotated[list[str], typer.Argument(help="Image files, folders of them, or - for paths on stdin.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print a CSV table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    weights: MovedWeights = None,
    store: Store = "auto",
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Score images: one row per image with score, decision, threshold and domain. Not a diagnosis."""
    with one_line_errors():
        from ..exceptions import InputError
        from ..images._walk import image_paths
        from ..models.exported import NO_DOMAIN, ExportedModel, is_exported

        if csv and as_json:
            raise InputError("choose one of --csv and --json")
        places = [line for place in images for line in (_lines() if place == "-" else [place])]
        if is_exported(model):
            rows = ExportedModel.load(model).predict_files(image_paths(places), verbose=not quiet)
            say(NO_DOMAIN, stderr, style="yellow")
        else:
            from ..models.prediction import predict as run

            loaded = load_and_warn(model, trust, store, weights)
            table = run(loaded, image_paths(places), store=store, verbose=not quiet)
            records = table.astype(object).where(table.notna(), None).to_dict("records")
            rows = [{str(name): value for name, value in row.items()} for row in records]
        if csv:  # bytes, because names of files may be any
            typer.echo(_csv(rows).encode("utf-8", "surrogateescape"), nl=False)
        elif as_json:
            typer.echo(json.dumps(rows, indent=2))
        else:
            _print(rows)
        sys.stdout.flush()  # so that a full disk is reported here, not by Python when it ends
    if any(row["error"] is not None for row in rows):
        raise typer.Exit(1)


@app.command()
def explain(
    model: ModelFile,
    image: Annotated[Path, typer.Argument(**PATH, help="Image file.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", **PATH, help="Picture to write: .png, .jpg, .tif, .webp, .pdf, .svg.")
    ],
    method: Annotated[
        Literal["auto", "gradcam", "occlusion"], typer.Option(help="auto is gradcam where it can be, else occlusion.")
    ] = "auto",
    weights: MovedWeights = None,
    store: Store = "auto",
    trust: Trust = False,
) -> None:
    """Draw a heat map over an image: what raised its score. Not a diagnosis."""
    with one_line_errors():
        from ..exceptions import InputError
        from ..models._steps import fitted_steps, loaded
        from ..models.explain import explain as run
        from ..models.overlay import picture_format, write_overlay
        from ..models.prediction import predict as score

        picture_format(out)
        if out.is_dir() or not out.absolute().parent.is_dir():
            raise InputError(f"{out} is a folder" if out.is_dir() else f"{out.parent} does not exist; create it first")
        if out.resolve() in (image.resolve(), model.resolve()):
            raise InputError(f"{out} would be overwritten; choose another file with -o")
        known = load_and_warn(model, trust, store, weights)
        (row,) = score(known, [str(image)], store=store).to_dict("records")
        if isinstance(row["error"], str):
            raise InputError(f"{image} has no score: {row['error']}")
        (heat,) = run(known, [str(image)], method)
        batch, _ = loaded(fitted_steps(known), [str(image)])
        write_overlay(out, batch[0], heat, score=row["score"], threshold=row["threshold"])
        say(f"Score {row['score']:.3f}; picture: {out}")
        if not heat.any():
            say("Nothing in the image raises the score, so the map is empty.", style="yellow")
        if row["domain"] == "out":
            say(OUT_OF_DOMAIN, style="yellow")


@app.command()
def export(
    model: ModelFile,
    out: Annotated[
        Path, typer.Option("--out", "-o", **PATH, help="File to write, .onnx; an earlier model is replaced.")
    ],
    weights: MovedWeights = None,
    trust: Trust = False,
) -> None:
    """Write a saved model as one ONNX file, from grey pixels to scores and decisions, for ONNX Runtime anywhere."""
    with one_line_errors():
        from ..models.onnx import check_installed, check_target, export_onnx

        check_target(out)
        check_installed()
        known = load_and_warn(model, trust, None, weights)
        facts = export_onnx(known, out)
        check = facts["check"]
        height, width = facts["size"]
        say(f"Model: {out} ({out.stat().st_size / 1e6:.1f} MB), for images of {height} x {width} pixels")
        say(f"On {check['images']} drawn images, its scores differ from the model's by at most "
            f"{check['largest_difference']:.1g}.")  # fmt: skip
        if check["rounded"]:
            say("The model computes its network in bfloat16, the file in float32.", style="yellow")
        if facts["left_out"]:
            say(f"Left out: the {facts['left_out'][0]}. The file scores images of any kind.", style="yellow")


def load_and_warn(model: Path, trust: bool, store: str | Path | None, weights: Path | None) -> CXRModel:
    """Load a model, and say on stderr what it warns of."""
    from ..models.files import load_model
    from ..models.model import as_model

    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", UserWarning)
        known = as_model(load_model(model, trusted=trust, store=store, weights=weights))
    for warning in noted:
        show_warning(warning.message)
    return known


def _lines() -> list[str]:
    text = sys.stdin.buffer.read().removeprefix(b"\xef\xbb\xbf")  # as Windows begins files
    return [os.fsdecode(line) for line in text.splitlines() if line.strip()]


def _csv(rows: list[dict[str, Any]]) -> str:
    file = io.StringIO()
    writer = csv_module.DictWriter(file, list(rows[0]), lineterminator=os.linesep)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _print(rows: list[dict[str, Any]]) -> None:
    shown = plain_table("path", "score", "decision", "threshold", "domain")
    shown.columns[0].overflow = "fold"
    for row in rows:
        if row["error"] is None:
            path = escape(printable(row["path"]))
            shown.add_row(path, f"{row['score']:.3f}", row["decision"], f"{row['threshold']:.3f}", row["domain"] or "")
    if shown.row_count:
        console.print(shown)
    if any(row["domain"] == "out" for row in rows):
        say(OUT_OF_DOMAIN, style="yellow")
    for row in rows:
        if row["error"] is not None:
            say(f"No score: {row['path']}: {row['error']}", style="red")
