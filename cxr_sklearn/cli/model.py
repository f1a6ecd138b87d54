"""The commands that train a model to keep, and use one."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from .app import Images, Store, app, console, load, one_line_errors, say, stderr
from .study import MAX_SEED, RULES, AllowLeaks, Balance, Calibration, Weights

if TYPE_CHECKING:
    import pandas as pd

    from ..persistence import SavedModel

Trust = Annotated[bool, typer.Option("--trust", help="Load a .joblib model, which runs code that is in it.")]


@app.command()
def train(
    images: Images,
    pipeline: Annotated[str, typer.Option(help="Recipe, by name or by the path of your own file.")],
    save: Annotated[Path, typer.Option(help="File to write the model to, ending in .skops or .joblib.")],
    weights: Weights = "imagenet",
    store: Store = None,
    balance: Annotated[Balance, typer.Option(help="What to do about classes of unequal size while fitting.")] = "none",
    threshold: Annotated[str, typer.Option(metavar=RULES, help="Where scores become decisions.")] = "youden",
    calibrate: Annotated[Calibration | None, typer.Option(help="Calibrate the scores.")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds of the search.")] = 5,
    jobs: Annotated[int | None, typer.Option(help="Processes for the search.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of folds and estimators.")] = 0,
    allow_leaks: AllowLeaks = False,
) -> None:
    """Fit a pipeline on the train split, choose its threshold on val, and save it."""
    with one_line_errors():
        from ..evaluation.train import train as run
        from ..exceptions import InputError
        from ..persistence import save as write

        if save.suffix not in (".skops", ".joblib"):  # before hours of training, not after
            raise InputError(f"{save} must end in .skops or .joblib")
        model = run(load(images), pipeline, weights=weights, store=store or "auto", balance=balance,
                    threshold=threshold, calibrate=calibrate, allow_leaks=allow_leaks, cv=folds, n_jobs=jobs,
                    random_state=seed, verbose=1)  # fmt: skip
        save.parent.mkdir(parents=True, exist_ok=True)
        write(model.pipeline, save, domain=model.domain, **model.manifest)
        auc = model.manifest["metrics"]["out_of_fold"]["roc_auc"]
        say(f"Cross-validated AUC {auc:.3f}; threshold {model.manifest['threshold']:.3f} "
            f"({model.manifest['threshold_source']})")  # fmt: skip
        say(f"Model: {save} ({save.stat().st_size / 1e6:.1f} MB)")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Model that `train` or `compare` saved.")],
    images: Annotated[list[str], typer.Argument(help="Image files, folders of them, or - for paths on stdin.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print a CSV table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    weights: Annotated[Path | None, typer.Option(help="Weights of the backbone, if they are elsewhere now.")] = None,
    store: Store = None,
    trust: Trust = False,
) -> None:
    """Score images: a row each with score, decision, threshold and domain. Not a diagnosis."""
    with one_line_errors():
        from ..exceptions import InputError
        from ..prediction import image_paths
        from ..prediction import predict as run

        if csv and as_json:
            raise InputError("choose one of --csv and --json")
        places = [line for place in images for line in (_lines() if place == "-" else [place])]
        loaded = _load(model, trust, store, weights)
        table = run(loaded, image_paths(places), store=store or "auto", verbose=1)
    if csv:
        typer.echo(table.to_csv(index=False), nl=False)
    elif as_json:
        typer.echo(table.to_json(orient="records", indent=2))
    else:
        _print(table)
    if table["error"].notna().any():
        raise typer.Exit(1)


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="Model that `train` or `compare` saved.")],
    image: Annotated[Path, typer.Argument(help="Image file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG to write.")],
    method: Annotated[
        Literal["auto", "gradcam", "occlusion"], typer.Option(help="auto is gradcam where it can be, else occlusion.")
    ] = "auto",
    weights: Annotated[Path | None, typer.Option(help="Weights of the backbone, if they are elsewhere now.")] = None,
    store: Store = None,
    trust: Trust = False,
) -> None:
    """Draw what raised the score of an image over it. Not a diagnosis."""
    with one_line_errors():
        from ..exceptions import InputError
        from ..explanation.maps import explain as run
        from ..explanation.overlay import write_overlay
        from ..loader import ImageLoader
        from ..persistence import parts_of

        if out.resolve() in (image.resolve(), model.resolve()):
            raise InputError(f"{out} would be overwritten; choose another file with -o")
        loaded = _load(model, trust, store, weights)
        (heat,) = run(loaded.pipeline, [str(image)], method)
        positive = list(loaded.pipeline.classes_).index(1)
        score = float(loaded.pipeline.predict_proba([str(image)])[0, positive])
        loader = next(part for part in parts_of(loaded.pipeline) if isinstance(part, ImageLoader))
        pixels = loader.transform([str(image)])[0]
        write_overlay(out, pixels, heat, score=score, threshold=loaded.manifest.get("threshold"))
        say(f"Score {score:.3f}; picture: {out}")


def _load(model: Path, trust: bool, store: str | None, weights: Path | None) -> SavedModel:
    """Load a model, and say on stderr what it warns of."""
    from ..persistence import load_model

    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always", UserWarning)
        loaded = load_model(model, trusted=trust, store=store or "auto", weights=weights)
    for warning in noted:
        say(f"Warning: {warning.message}", stderr, style="yellow")
    return loaded


def _lines() -> list[str]:
    return [line.rstrip("\r\n") for line in sys.stdin if line.strip()]


def _print(table: pd.DataFrame) -> None:
    shown = Table("path", "score", "decision", "threshold", "domain", box=box.SIMPLE, padding=0, pad_edge=False)
    shown.columns[0].overflow = "fold"
    for row in table[table["error"].isna()].to_dict("records"):
        domain = "" if row["domain"] != row["domain"] else row["domain"]
        shown.add_row(escape(row["path"]), f"{row['score']:.3f}", row["decision"], f"{row['threshold']:.3f}", domain)
    if shown.row_count:
        console.print(shown)
    if (table["domain"] == "out").any():
        say("Images that are out of the domain do not look like the radiographs it was trained on: their scores mean "
            "nothing.", style="yellow")  # fmt: skip
    for row in table[table["error"].notna()].to_dict("records"):
        say(f"Unreadable: {row['path']}: {row['error']}", style="red")
