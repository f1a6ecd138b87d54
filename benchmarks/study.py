"""The original study, repeated: a balanced subset of 480 training images, all approaches, and what they reach.

    python benchmarks/study.py chest_xray --weights random --out runs/study
    python benchmarks/study.py chest_xray --weights MOBILENET.h5 --recipes examples/recipes/mobilenet_*.py --out ...
    python benchmarks/study.py chest_xray --seeds 5 --recipes scratch_cnn --out runs/seeds

The first two are one `compare` each; the last repeats it with other seeds of the training on the same images and
prints the medians.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd
from sklearn.metrics import accuracy_score

from cxr_sklearn import balanced_subset, compare, load_folder


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="folder of the Kaggle set")
    parser.add_argument("--recipes", nargs="*", help="default: all that are shipped")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    frame = balanced_subset(load_folder(options.directory, sizes=False), 240, 240, None, random_state=0)
    rows = []
    for seed in range(options.seeds):
        start = time.perf_counter()
        out = options.out / f"seed-{seed}"
        metrics = compare(frame, options.recipes, out=out, weights=options.weights, cv=options.folds,
                          random_state=seed, verbose=1)  # fmt: skip
        print(f"seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
        rows += [{"seed": seed, **row} for row in results(metrics, pd.read_csv(out / "scores.csv"))]
    table = pd.DataFrame(rows)
    table.to_csv(options.out / "results.csv", index=False)
    with pd.option_context("display.width", 200, "display.max_columns", 20):
        print(table.round(3).to_string(index=False))
        if options.seeds > 1:
            print("medians:", table.groupby("pipeline").median(numeric_only=True).round(3).to_string(), sep="\n")


def results(metrics: dict, scores: pd.DataFrame) -> list[dict]:
    """Return one row per pipeline: cross-validated AUC, and test at the chosen threshold and at 0.5."""
    test = scores[scores["split"] == "test"]
    rows = []
    for name, facts in metrics["pipelines"].items():
        own = test[test["pipeline"] == name]
        values = {
            metric: facts["test"][metric]["value"] for metric in ("accuracy", "precision", "recall", "specificity")
        }
        rows.append(
            {
                "pipeline": name,
                "cv auc": facts["cv"]["roc_auc"]["mean"],
                "cv std": facts["cv"]["roc_auc"]["std"],
                "test auc": facts["test"]["roc_auc"]["value"],
                "loss": facts["test"]["log_loss"]["value"],
                "threshold": facts["threshold"]["value"],
                **values,
                "accuracy at .5": accuracy_score(own["target"], own["score"] >= 0.5),
                "fitting s": facts["seconds"]["fitting"],
            }
        )
    return rows


if __name__ == "__main__":
    main()
