"""Trained models to hand out: each with a card and its scores, and an index of them all.

    make zoo DATA=chest_xray WEIGHTS=VGG16.h5 OUT=zoo
    python benchmarks/zoo.py chest_xray --weights VGG16.h5 --out zoo --recipes vgg16_logistic scratch_cnn --seeds 1

Every recipe is trained once per seed on the official train split, as far as the folder has it, less a tenth of its
patients. They are held out: the threshold comes from them, unless the validation split has enough images. What is
written:

- `<recipe>-seed<k>.skops`, the model, and `<recipe>-seed<k>.md`, its card;
- `scores.csv`: what each model, loaded from its file, says of each image it was not trained on (split "train" are the
  patients held out). All figures of the cards come from this table;
- `README.md` and `index.json`, which list the models;
- `checkpoints/`, which may be removed at the end.

Run again, it keeps the models that are there and goes on with the training that was under way, if its recipe takes a
checkpoint. All recipes are trained with one seed before the first is trained with the next. To train a model again,
remove its file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from cxr_sklearn import CXRModel, load_folder, load_model, load_recipe, save_model, train
from cxr_sklearn._io import atomic_write
from cxr_sklearn.datasets._frame import SPLIT_NAMES
from cxr_sklearn.evaluation.bootstrap import bootstrap, interval, rate
from cxr_sklearn.evaluation.metrics import compute_metrics, confusion_cells
from cxr_sklearn.evaluation.tables import read_table, score_rows, write_table
from cxr_sklearn.exceptions import CXRError
from cxr_sklearn.models._steps import parts_of
from cxr_sklearn.models.calibration import pneumonia_scores
from cxr_sklearn.models.files import check_saveable
from cxr_sklearn.study.search import images_of, patient_folds

HERE = Path(__file__).parent
RECIPES = ["vgg16_logistic", "vgg16_mlp", "scratch_cnn", "vgg16_finetuned", "vgg16_end_to_end"]
METRICS = {
    "roc_auc": "AUC",
    "accuracy": "accuracy",
    "recall": "sensitivity",
    "specificity": "specificity",
    "log_loss": "log loss",
    "brier": "Brier score",
}
#: Of the held-out scores: a file whose scores differ by more is not the model that was trained, or not on these images.
TOLERANCE = 1e-4


def main() -> None:
    """Train, score and describe what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="folder of the Kaggle set")
    parser.add_argument("--weights", required=True, help="weights file of VGG16; or imagenet, or random to try it out")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="by name or by the path of a file")
    parser.add_argument("--seeds", type=int, default=3, help="models of each recipe")
    options = parser.parse_args()
    try:
        make(options)
    except (CXRError, OSError) as error:
        raise SystemExit(str(error)) from error


def make(options: argparse.Namespace) -> None:
    """Make one model after the other, and write the index anew after each."""
    check(options)
    frame = load_folder(options.directory, sizes=False)
    frame = images_of(frame, SPLIT_NAMES, with_both_classes=("train", "test"), cv=1)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    index = earlier(out, options)
    for seed in range(options.seeds):
        for recipe in options.recipes:
            name = f"{Path(recipe).stem}-seed{seed}"
            path = out / f"{name}.skops"
            if not path.exists():
                print(f"Training {name}", flush=True)
                train_to(path, recipe, frame, seed, options)
            model = load_model(path, weights=weights_file(options))
            rows = scores_of(name, model, frame, seed, options)
            index.append(facts_of(path, load_recipe(recipe_of(recipe)).description, seed, model, rows))
            write(out / f"{name}.md", CARD.render(index[-1], metrics=METRICS))
            models = sorted(index, key=lambda facts: facts["name"])
            write(out / "README.md", INDEX.render(models=models, metrics=METRICS))
            write(out / "index.json", json.dumps(models, indent=2) + "\n")
            auc = index[-1]["test"]["roc_auc"]["value"]
            print(f"{name}: AUC {auc:.3f} on test, {path.stat().st_size / 1e6:.1f} MB", flush=True)


def earlier(out: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return what the index says of models of other recipes and seeds, as far as their files are still there."""
    path = out / "index.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    anew = {f"{Path(recipe).stem}-seed{seed}" for recipe in options.recipes for seed in range(options.seeds)}
    return [facts for facts in known if facts["name"] not in anew and (out / facts["file"]).exists()]


def check(options: argparse.Namespace) -> None:
    """Refuse at once what would else fail after hours."""
    if not options.directory or not Path(options.directory).is_dir():
        raise SystemExit(
            f"there is no folder {options.directory!r} of radiographs; name that of the Kaggle set (DATA=)"
        )
    if not options.weights or ((file := weights_file(options)) and not Path(file).is_file()):
        raise SystemExit(f"there is no weights file {options.weights!r}; name that of VGG16 without the top (WEIGHTS=)")
    if not options.out:
        raise SystemExit("name the folder to write the models to (OUT=)")
    for recipe in options.recipes:
        check_saveable(
            load_recipe(recipe_of(recipe)).build(weights=options.weights, random_state=0),
            Path(options.out) / "model.skops",
        )


def weights_file(options: argparse.Namespace) -> str | None:
    """Return the weights where they are a file, for `load_model` finds the others by itself."""
    return None if options.weights in ("imagenet", "random") else options.weights


def recipe_of(name: str) -> str:
    """Return the recipe that a model for others is built by: one beside this file, else the shipped one."""
    own = HERE / "recipes" / f"{name}.py"
    return str(own) if own.is_file() else name


def train_to(path: Path, recipe: str, frame: pd.DataFrame, seed: int, options: argparse.Namespace) -> None:
    """Train a model and save it; nothing is written of one that is not finished, but for its checkpoint."""
    takes_checkpoint = load_recipe(recipe_of(recipe)).takes("checkpoint")
    model = train(
        frame,
        recipe_of(recipe),
        weights=options.weights,
        cv=1,
        random_state=seed,
        checkpoint=path.parent / "checkpoints" if takes_checkpoint else None,
        verbose=1,
    )
    known = read_table(path.parent, "scores")
    if (known["pipeline"] == path.stem).any():  # of a file that was removed
        write_table(known[known["pipeline"] != path.stem], path.parent, "scores")
    save_model(model, path)


def scores_of(name: str, model: CXRModel, frame: pd.DataFrame, seed: int, options: argparse.Namespace) -> pd.DataFrame:
    """Return the rows of a model in scores.csv; where there are none yet, score its images and add them."""
    out = Path(options.out)
    table = read_table(out, "scores")
    if (table["pipeline"] == name).any():
        return table[table["pipeline"] == name]
    train_rows = frame[frame["split"] == "train"]
    ((_, held_out),) = patient_folds(train_rows, 1, seed)
    parts = [(train_rows.iloc[held_out], 0)] + [(frame[frame["split"] == split], None) for split in ("val", "test")]
    scored = [score_rows(rows, name, pneumonia_scores(model, rows["path"]), fold)
              for rows, fold in parts if len(rows)]  # fmt: skip
    added = pd.concat(scored)
    # Those who get the table have the images somewhere else.
    added["path"] = [Path(path).relative_to(Path(options.directory).absolute()).as_posix() for path in added["path"]]
    write_table(pd.concat([table, added]) if len(table) else added, out, "scores")
    table = read_table(out, "scores")  # the figures are to be those of the file
    return table[table["pipeline"] == name]


def facts_of(path: Path, description: str, seed: int, model: CXRModel, rows: pd.DataFrame) -> dict[str, Any]:
    """Return what index.json and the card say of a model."""
    manifest = model.metadata or {}
    held_out, test = (measured(rows[rows["split"] == split], model.threshold) for split in ("train", "test"))
    for metric in ("roc_auc", "log_loss"):
        if abs(manifest["metrics"]["out_of_fold"][metric] - held_out[metric]["value"]) > TOLERANCE:
            raise SystemExit(
                f"the scores of {path} are not those it had when it was trained: these are other images or other "
                "libraries; remove it to train it again"
            )
    counts = manifest["data"]["train"]
    return {
        "name": path.stem,
        "recipe": manifest["recipe"],
        "description": description,
        "seed": seed,
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": digest_of(path),
        "created": manifest["created"],
        "trained_on": {name: counts[name] - held_out[name] for name in ("images", "patients", "pneumonia")},
        "threshold": model.threshold,
        "threshold_source": "validation split" if manifest["threshold_source"] == "val" else "held-out patients",
        "weights": manifest["weights"],
        "needs_weights": any(
            hasattr(part, "weights_id_") and not hasattr(part, "frozen_weights_") for part in parts_of(model.pipeline)
        ),
        "held_out": held_out,
        "test": test,
        "versions": manifest["versions"],
    }


def measured(rows: pd.DataFrame, threshold: float) -> dict[str, Any]:
    """Return sizes, counts and metrics with 95 % intervals from draws of whole patients."""
    target, score = rows["target"], rows["score"]
    cells, values = confusion_cells(target, score, threshold), compute_metrics(target, score, threshold)
    draws = bootstrap(rows["patient"], target, {"": score}, {"": threshold})[""].metrics
    tp, fn, fp, tn = (cells[name] for name in ("tp", "fn", "fp", "tn"))
    hits = {"accuracy": (tp + tn, len(rows)), "recall": (tp, tp + fn), "specificity": (tn, tn + fp)}
    found = {
        name: rate(*hits[name], draws[name])
        if name in hits
        else {"value": values[name], "ci95": interval(draws[name], values[name])}
        for name in METRICS
    }
    sizes = {"images": len(rows), "patients": int(rows["patient"].nunique()), "pneumonia": int(target.sum())}
    return {**sizes, "confusion": cells, **found}


def digest_of(path: Path) -> str:
    """Return what sha256sum says of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write(path: Path, text: str) -> None:
    """Replace a text file, wholly or not at all."""
    with atomic_write(path) as draft:
        draft.write_text(text, encoding="utf-8")


def with_interval(found: dict[str, Any]) -> str:
    """Show a figure and its interval; there is none where all draws are alike."""
    low, high = found["ci95"] or (None, None)
    return f"{found['value']:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"),
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
)
_TEMPLATES.filters |= {"with_interval": with_interval, "n": "{:,}".format, "mb": lambda n: f"{n / 1e6:.1f} MB"}
CARD, INDEX = (_TEMPLATES.get_template(f"zoo-{kind}.md.j2") for kind in ("card", "index"))

if __name__ == "__main__":
    main()
