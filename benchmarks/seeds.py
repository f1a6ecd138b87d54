"""The CNN from scratch on the study's 480 training images, with several seeds: what it reaches on test.

    python benchmarks/seeds.py chest_xray --seeds 5

For each seed: the recipe `scratch_cnn` trained on the same images, its threshold chosen by Youden's index on the 480
validation images, and one look at test.
"""

from __future__ import annotations

import argparse
import time

import pandas as pd

from cxr_sklearn import balanced_subset, load_folder
from cxr_sklearn.evaluation.metrics import compute_metrics
from cxr_sklearn.evaluation.search import fit
from cxr_sklearn.evaluation.thresholds import find_threshold, parse_rule
from cxr_sklearn.recipes import load_recipe
from cxr_sklearn.scores import pneumonia_scores


def main() -> None:
    """Train with each seed and print the table and its medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="folder of the Kaggle set")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    frame = balanced_subset(load_folder(options.directory, sizes=False), 240, 240, None, random_state=0)
    train, val, test = (frame[frame["split"] == split] for split in ("train", "val", "test"))
    rows = []
    for seed in range(options.seeds):
        start = time.perf_counter()
        model = fit(load_recipe("scratch_cnn").build(random_state=seed), train)
        threshold = find_threshold(parse_rule("youden"), val["target"], pneumonia_scores(model, val["path"]))
        score = pneumonia_scores(model, test["path"])
        chosen, half = (compute_metrics(test["target"], score, at) for at in (threshold, 0.5))
        rows.append(
            {
                "seed": seed,
                "AUC": chosen["roc_auc"],
                "threshold": threshold,
                **{name: chosen[name] for name in ("accuracy", "recall", "specificity")},
                "accuracy at .5": half["accuracy"],
                "seconds": time.perf_counter() - start,
            }
        )
        print({name: round(value, 3) for name, value in rows[-1].items()}, flush=True)
    table = pd.DataFrame(rows).set_index("seed")
    print(pd.concat([table, table.median().to_frame("median").T]).round(3).to_string())


if __name__ == "__main__":
    main()
