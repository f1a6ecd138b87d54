"""What every recipe reaches on test, by number of training images, with several seeds where a network learns.

    python benchmarks/study.py chest_xray --weights VGG16.h5 --images 480 all --out runs/study --stress
    python benchmarks/study.py chest_xray --weights VGG16.h5 --images 60 240 480 1200 all --out runs/study
        --recipes scratch_cnn scratch_cnn_moving vgg16_logistic vgg16_finetuned --figure docs/images.png

Every fit is one row of fits.csv, written as soon as it is known; a second run with the same weights leaves out what is
there. A number draws half of the images of each class, by patient, and as many validation images as training images,
480 at most; "all" is the official train split less a tenth of its patients, who are the validation images. Thresholds
are chosen on the validation images, with --stress also on these and all their changes together.

study.csv, beside this file, has the fits of today's recipes that docs/results.md shows: copied to OUT/fits.csv,
they are not repeated.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline

from cxr_sklearn import balanced_subset, load_folder, load_recipe
from cxr_sklearn._io import atomic_write
from cxr_sklearn.evaluation.bootstrap import bootstrap, interval
from cxr_sklearn.evaluation.metrics import compute_metrics
from cxr_sklearn.evaluation.thresholds import find_threshold, parse_rule
from cxr_sklearn.exceptions import InputError
from cxr_sklearn.models._steps import crop_of
from cxr_sklearn.models.calibration import pneumonia_scores
from cxr_sklearn.models.explain import explain
from cxr_sklearn.study.probes import stressed_rows
from cxr_sklearn.study.search import fit, patient_folds

RECIPES = ["scratch_cnn", "vgg16_logistic", "vgg16_mlp", "vgg16_finetuned", "vgg16_end_to_end", "shortcuts"]
#: Recipes of which every seed gives the same scores.
WITHOUT_DRAWS = ("vgg16_logistic", "shortcuts")
#: Changes of recipes: how the CNN fails that predicts with Keras' moving averages.
VARIANTS = {
    "scratch_cnn_moving": ("scratch_cnn", {"classify__batch_norm_statistics": "moving"}),
}
MOST_VALIDATION = 480
#: Validation images that are changed: each takes eight looks.
MOST_CHANGED = 200


def main() -> None:
    """Fit what is missing, and print the table of everything that is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="folder of the Kaggle set")
    parser.add_argument("--images", nargs="+", default=["480"], help="numbers of training images, or all")
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--seeds", type=int, default=3, help="of what trains a network")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--stress", action="store_true", help="choose a threshold on changed validation images, too")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--figure", type=Path, help="draw AUC and accuracy against the number of images")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    frame = load_folder(options.directory, sizes=False)
    for images in options.images:
        part = images_of(frame, images)
        for name in options.recipes:
            for seed in range(1 if name in WITHOUT_DRAWS else options.seeds):
                run(part, images, name, seed, options)
    fits = pd.read_csv(options.out / "fits.csv", dtype={"images": str})
    table = results(fits)
    for row in (table.columns, ["---"] * len(table.columns), *table.to_numpy()):
        print(f"| {' | '.join(map(str, row))} |")
    if options.figure is not None:
        draw(fits, options.figure)


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


def run(part: pd.DataFrame, images: str, name: str, seed: int, options: argparse.Namespace) -> None:
    """Fit once, look at validation and test images, and add a row to fits.csv, unless it is there."""
    path = options.out / "fits.csv"
    done = pd.read_csv(path, dtype={"images": str}) if path.exists() else pd.DataFrame()
    fit_of = {"images": images, "recipe": name, "seed": seed}
    if len(done):
        is_it = (done[list(fit_of)] == pd.Series(fit_of)).all(axis=1)
        if (is_it & (done["stress"] | (not options.stress))).any():
            return
        done = done[~is_it]
    train, val, test = (part[part["split"] == split] for split in ("train", "val", "test"))
    pipeline = pipeline_of(name, weights=options.weights, random_state=seed, checkpoint=options.out / "checkpoints")
    start = time.perf_counter()
    model = fit(pipeline, train)
    seconds = round(time.perf_counter() - start)
    found = {
        "stress": options.stress,
        "n": len(train),
        "seconds": seconds,
        **figures(name, model, val, test, options.stress),
    }
    with atomic_write(path) as draft:
        pd.concat([part for part in (done, pd.DataFrame([fit_of | found])) if len(part)]).to_csv(
            draft, index=False, float_format="%.5f"
        )
    print(
        f"{images} images, {name}, seed {seed}:",
        {key: round(float(value), 4) for key, value in found.items()},
        flush=True,
    )


def figures(name: str, model: Pipeline, val: pd.DataFrame, test: pd.DataFrame, stress: bool) -> dict[str, float]:
    """Return what one fit reaches on test: at one half, and at thresholds from the validation images."""
    score = pneumonia_scores(model, test["path"])
    clean = val.assign(score=pneumonia_scores(model, val["path"]))
    threshold = find_threshold(parse_rule("youden"), clean["target"], clean["score"])
    chosen, half = (compute_metrics(test["target"], score, at) for at in (threshold, 0.5))
    of_test = test.reset_index(drop=True)
    draws = bootstrap(of_test["patient"], of_test["target"], {name: score}, {name: threshold})[name]
    low, high = interval(draws.metrics["roc_auc"], chosen["roc_auc"]) or (np.nan, np.nan)
    found = {
        "AUC": chosen["roc_auc"],
        "low": low,
        "high": high,
        "loss": chosen["log_loss"],
        "accuracy at .5": half["accuracy"],
        "threshold": threshold,
        **{metric: chosen[metric] for metric in ("accuracy", "recall", "specificity")},
        "heat outside": heat_outside(model, test["path"]),
        "validation AUC": roc_auc_score(clean["target"], clean["score"]),
    }
    few = val.sample(min(MOST_CHANGED, len(val)), random_state=0)
    changed = stressed_rows(name, model, few, 0) if stress else clean.iloc[:0]
    if len(changed):
        seen = pd.concat([clean.loc[few.index], changed])
        robust = find_threshold(parse_rule("robust"), seen["target"], seen["score"])
        at_robust = compute_metrics(test["target"], score, robust)
        found |= {
            "changed AUC": np.mean([roc_auc_score(of["target"], of["score"]) for _, of in changed.groupby("probe")]),
            "robust threshold": robust,
            **{f"robust {metric}": at_robust[metric] for metric in ("accuracy", "recall", "specificity")},
        }
    return found


def heat_outside(model: Pipeline, paths: pd.Series) -> float:
    """Return the mean share of an image's positive Grad-CAM mass outside the central .8 of each side; NaN without."""
    try:
        heat = explain(model, paths, "gradcam")
    except InputError:  # there is no network, or not even an image
        return np.nan
    margins = (round(side * max(1 - 0.8 / crop_of(model), 0) / 2) for side in heat.shape[1:])
    top, left = margins
    mass = heat.sum(axis=(1, 2))
    inside = heat[:, top : heat.shape[1] - top, left : heat.shape[2] - left].sum(axis=(1, 2))
    return float(np.nanmean(np.divide(mass - inside, mass, out=np.full(len(mass), np.nan), where=mass > 0)))


def results(fits: pd.DataFrame) -> pd.DataFrame:
    """Return a row per size and recipe: medians over the seeds, the range of AUC, and the median seed's interval."""
    found = []
    for (images, name), seeds in fits.groupby(["images", "recipe"], sort=False):
        middle = seeds.loc[seeds["AUC"].sort_values().index[len(seeds) // 2]]
        rows = seeds.drop(columns=["images", "recipe", "seed", "stress", "n", "low", "high", "AUC"])
        median = rows.median()
        found.append(
            {
                "images": images,
                "recipe": name,
                "seeds": len(seeds),
                "AUC": f"{seeds['AUC'].median():.3f}",
                "range": f"{seeds['AUC'].min():.3f}-{seeds['AUC'].max():.3f}",
                "95 %": f"{middle['low']:.3f}-{middle['high']:.3f}",
                **{column: f"{median[column]:.3f}" for column in rows.columns[1:]},
                "fit s": int(median["seconds"]),
            }
        )
    return pd.DataFrame(found)


LABELS = {
    "scratch_cnn": "CNN from scratch",
    "scratch_cnn_moving": "the same, Keras' moving averages",
    "vgg16_logistic": "frozen VGG16, logistic regression",
    "vgg16_finetuned": "fine-tuned VGG16",
    "vgg16_end_to_end": "all of VGG16 at 64 pixels",
}


def draw(fits: pd.DataFrame, path: Path) -> None:
    """Draw AUC and accuracy at .5 on test against the number of training images: median and range of the seeds."""
    points = fits[fits["recipe"].isin(LABELS)]
    figure = Figure(figsize=(10, 4.8), dpi=150, layout="constrained")
    for axes, column in zip(figure.subplots(1, 2), ("AUC", "accuracy at .5"), strict=True):
        for name, style in zip(LABELS, ("o-", "o--", "s-", "^-", "D-"), strict=True):
            of_recipe = points[points["recipe"] == name].groupby("n")[column]
            if not len(of_recipe):
                continue
            n = np.array(sorted(of_recipe.groups))
            (line,) = axes.plot(n, of_recipe.median()[n], style, label=LABELS[name], markersize=5)
            axes.fill_between(n, of_recipe.min()[n], of_recipe.max()[n], color=line.get_color(), alpha=0.15)
        axes.set_xscale("log")
        axes.margins(x=0.08)
        ticks = sorted(points["n"].unique())
        axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
        axes.minorticks_off()
        axes.set(xlabel="training images", ylabel=f"{column} on test")
        axes.grid(alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    main()
