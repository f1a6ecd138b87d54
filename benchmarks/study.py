"""What every recipe reaches on test, by number of training images, with several seeds where a network learns.

    python benchmarks/study.py chest_xray --weights VGG16.h5 --images 480 all --out runs/study
    python benchmarks/study.py chest_xray --weights VGG16.h5 --images 60 240 480 1200 all --out runs/study
        --recipes scratch_cnn scratch_cnn_moving vgg16_logistic vgg16_finetuned --figure docs/images.png

Every fit is one row of work: its scores of validation and test images go to scores.csv at once, and a second run goes
on where the first was stopped. A number draws half of the images of each class, by patient, and as many validation
images as training images, 480 at most; "all" is the official train split less a tenth of its patients, who are the
validation images. Thresholds are chosen on the validation images.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.pipeline import Pipeline

from cxr_sklearn import balanced_subset, load_folder
from cxr_sklearn.evaluation.anatomy import crop_of
from cxr_sklearn.evaluation.bootstrap import bootstrap, interval
from cxr_sklearn.evaluation.metrics import compute_metrics
from cxr_sklearn.evaluation.search import fit, patient_folds
from cxr_sklearn.evaluation.thresholds import find_threshold, parse_rule
from cxr_sklearn.exceptions import InputError
from cxr_sklearn.explanation.maps import explain
from cxr_sklearn.files import replacing
from cxr_sklearn.recipes import load_recipe
from cxr_sklearn.scores import pneumonia_scores

RECIPES = ["scratch_cnn", "vgg16_logistic", "vgg16_mlp", "vgg16_finetuned", "vgg16_end_to_end", "shortcuts"]
#: Recipes of which every seed gives the same scores.
WITHOUT_DRAWS = ("vgg16_logistic", "shortcuts")
#: Changes of recipes: how the CNN fails that predicts with Keras' moving averages.
VARIANTS = {
    "scratch_cnn_moving": ("scratch_cnn", {"classify__estimator__batch_norm_statistics": "moving"}),
}
MOST_VALIDATION = 480


def main() -> None:
    """Run what is missing, and print the table of everything that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="folder of the Kaggle set")
    parser.add_argument("--images", nargs="+", default=["480"], help="numbers of training images, or all")
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--seeds", type=int, default=3, help="of what trains a network")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path, help="draw AUC against the number of images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    frame = load_folder(options.directory, sizes=False)
    for images in options.images:
        part = images_of(frame, images)
        for name in options.recipes:
            for seed in range(1 if name in WITHOUT_DRAWS else options.seeds):
                run(part, images, name, seed, options.weights, options.out)
    scores = pd.read_csv(options.out / "scores.csv", dtype={"images": str})
    table = results(scores)
    table.to_csv(options.out / "results.csv", index=False)
    for row in (table.columns, ["---"] * len(table.columns), *table.to_numpy()):
        print(f"| {' | '.join(map(str, row))} |")
    if options.figure is not None:
        draw(scores[scores["pipeline"].isin(options.recipes)], options.figure)


def images_of(frame: pd.DataFrame, images: str) -> pd.DataFrame:
    """Draw the training and validation images of one size; test is always all of it."""
    if images != "all":
        n = int(images) // 2
        return balanced_subset(frame, n, min(n, MOST_VALIDATION // 2), None, random_state=0)
    frame = frame[frame["split"] != "val"].copy()
    train = frame[frame["split"] == "train"]
    ((_, held_out),) = patient_folds(train, 1, 0)
    frame.loc[train.index[held_out], "split"] = "val"
    return frame


def pipeline_of(name: str, **options: Any) -> Pipeline:
    """Build a recipe or a variant of one."""
    recipe, changes = VARIANTS.get(name, (name, {}))
    return load_recipe(recipe).build(**options).set_params(**changes)


def run(part: pd.DataFrame, images: str, name: str, seed: int, weights: str, out: Path) -> None:
    """Fit once, score validation and test images, and add the rows to scores.csv, unless they are there."""
    path = out / "scores.csv"
    done = pd.read_csv(path, dtype={"images": str}) if path.exists() else pd.DataFrame()
    if len(done) and ((done["images"] == images) & (done["pipeline"] == name) & (done["seed"] == seed)).any():
        return
    train = part[part["split"] == "train"]
    start = time.perf_counter()
    model = fit(pipeline_of(name, weights=weights, random_state=seed, checkpoint=out / "checkpoints"), train)
    seconds = time.perf_counter() - start
    rows = part.loc[part["split"] != "train", ["path", "patient", "split", "target"]]
    rows = rows.assign(images=images, pipeline=name, seed=seed, n=len(train), seconds=round(seconds))
    rows["score"] = pneumonia_scores(model, rows["path"])
    is_test = rows["split"] == "test"
    rows.loc[is_test, "outside"] = heat_outside(model, rows.loc[is_test, "path"])
    with replacing(path) as draft:
        pd.concat([done, rows]).to_csv(draft, index=False)
    print(f"{images} images, {name}, seed {seed}: {seconds:.0f} s", flush=True)


def heat_outside(model: Pipeline, paths: pd.Series) -> np.ndarray:
    """Return the share of each image's positive Grad-CAM mass outside the central .8 of each side, NaN without maps."""
    try:
        heat = explain(model, paths, "gradcam")
    except InputError:  # the shortcuts look at no image
        return np.full(len(paths), np.nan)
    crop = crop_of(model)
    mass = heat.sum(axis=(1, 2))
    margins = (round(side * max(1 - 0.8 / crop, 0) / 2) for side in heat.shape[1:])
    top, left = margins
    inside = heat[:, top : heat.shape[1] - top, left : heat.shape[2] - left].sum(axis=(1, 2))
    return np.divide(mass - inside, mass, out=np.full(len(mass), np.nan), where=mass > 0)


def results(scores: pd.DataFrame) -> pd.DataFrame:
    """Return a row per size and recipe: medians over the seeds, the range of AUC, and the median seed's interval."""
    found = []
    for (images, name), rows in scores.groupby(["images", "pipeline"], sort=False):
        seeds = pd.DataFrame([figures(of_seed) for _, of_seed in rows.groupby("seed")])
        middle = seeds["AUC"].sort_values().index[len(seeds) // 2]
        test = rows[(rows["seed"] == middle) & (rows["split"] == "test")].reset_index(drop=True)
        draws = bootstrap(test["patient"], test["target"], {name: test["score"]}, {name: 0.5})[name]
        low, high = interval(draws.metrics["roc_auc"], float(seeds["AUC"][middle]))
        median = seeds.median()
        found.append(
            {
                "images": images,
                "recipe": name,
                "seeds": len(seeds),
                "AUC": f"{median['AUC']:.3f}",
                "range": f"{seeds['AUC'].min():.3f}-{seeds['AUC'].max():.3f}",
                "95 %": f"{low:.3f}-{high:.3f}",
                **{column: f"{median[column]:.3f}" for column in seeds.columns[1:]},
                "heat outside": f"{rows['outside'].mean():.3f}",
                "fit s": int(rows.groupby("seed")["seconds"].first().median()),
            }
        )
    return pd.DataFrame(found)


def figures(rows: pd.DataFrame) -> dict[str, float]:
    """Return what one fit reaches on test, at the threshold from its validation images and at one half."""
    val, test = (rows[rows["split"] == split] for split in ("val", "test"))
    threshold = find_threshold(parse_rule("youden"), val["target"], val["score"])
    chosen, half = (compute_metrics(test["target"], test["score"], at) for at in (threshold, 0.5))
    return {
        "AUC": chosen["roc_auc"],
        "loss": chosen["log_loss"],
        "threshold": threshold,
        **{name: chosen[name] for name in ("accuracy", "recall", "specificity")},
        "accuracy at .5": half["accuracy"],
    }


LABELS = {
    "scratch_cnn": "CNN from scratch",
    "scratch_cnn_moving": "the same, Keras' moving averages",
    "vgg16_logistic": "frozen VGG16, logistic regression",
    "vgg16_finetuned": "fine-tuned VGG16",
}


def draw(scores: pd.DataFrame, path: Path) -> None:
    """Draw AUC and accuracy at .5 on test against the number of training images: median and range of the seeds."""
    points = pd.DataFrame(
        [
            {"recipe": name, "n": rows["n"].iloc[0], **figures(rows)}
            for (_, name, _), rows in scores.groupby(["images", "pipeline", "seed"], sort=False)
        ]
    )
    figure = Figure(figsize=(10, 4.4), dpi=150, layout="constrained")
    for axes, column in zip(figure.subplots(1, 2), ("AUC", "accuracy at .5"), strict=True):
        for name, style in zip(LABELS, ("o-", "o--", "s-", "^-"), strict=True):
            of_recipe = points[points["recipe"] == name].groupby("n")[column]
            if not len(of_recipe):
                continue
            n = np.array(sorted(of_recipe.groups))
            (line,) = axes.plot(n, of_recipe.median()[n], style, label=LABELS[name], markersize=5)
            axes.fill_between(n, of_recipe.min()[n], of_recipe.max()[n], color=line.get_color(), alpha=0.15)
        axes.set_xscale("log")
        ticks = sorted(points["n"].unique())
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axes.minorticks_off()
        axes.set(xlabel="training images", ylabel=f"{column} on test")
        axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
