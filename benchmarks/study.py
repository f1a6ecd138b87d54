"""The original study, repeated: a balanced subset of 480 training images, all approaches, and what they reach.

python benchmarks/study.py chest_xray --weights random --out runs/study
python benchmarks/study.py chest_xray --weights MOBILENET.h5 --recipes examples/recipes/*.py --sanity \
    --out runs/mobilenet
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pandas as pd

from cxr_sklearn import balanced_subset, compare, load_folder


def main() -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="folder of the Kaggle set")
    parser.add_argument("--recipes", nargs="*", help="default: all that are shipped")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--sanity", action="store_true", help="also permuted labels and occlusion")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    frame = balanced_subset(load_folder(options.directory, sizes=False), 240, 240, None, random_state=0)
    start = time.perf_counter()
    metrics = compare(
        frame, options.recipes, out=options.out, weights=options.weights, sanity=options.sanity, verbose=1
    )
    print(f"{time.perf_counter() - start:.0f} s")
    table = pd.DataFrame(results(metrics))
    table.to_csv(options.out / "results.csv", index=False)
    print(table.round(3).to_string(index=False))


def results(metrics: dict) -> list[dict]:
    """Return one row per pipeline: cross-validated AUC, and test at the chosen threshold and at 0.5."""
    rows = []
    for name, facts in metrics["pipelines"].items():
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
                "accuracy at .5": facts["at_half"]["accuracy"]["value"],
                "fitting s": facts["seconds"]["fitting"],
            }
        )
    return rows


if __name__ == "__main__":
    main()
