"""Which layer of a frozen network, and which pooling? A grid search in which every image is embedded once per answer.

    python examples/which_layer.py [chest_xray] [--weights MOBILENET.weights.h5]

Folds keep a patient together. Run it twice: the second time nothing is embedded. Without a folder, synthetic
radiographs are drawn, and without weights the network has random ones.
"""

from __future__ import annotations

import argparse

import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import FrozenEmbedder, ImageLoader, balanced_subset, load_folder, write_radiographs

LAYERS = ("conv_pw_6_relu", "conv_pw_9_relu", "conv_pw_12_relu")


def main() -> None:
    """Search, and print the mean AUC of every answer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", help="folder of the Kaggle set; default: synthetic radiographs")
    parser.add_argument("--weights", default="random", help="imagenet, random or a file for MobileNet")
    parser.add_argument("--images", type=int, default=60, help="training images of each class")
    parser.add_argument("--store", default="features", help="folder where features are kept")
    options = parser.parse_args()

    if options.directory is None:
        options.directory = "radiographs"
        write_radiographs(options.directory, 4 * options.images, size=96, random_state=0)
    frame = balanced_subset(load_folder(options.directory), train=options.images, val=0, test=None, random_state=0)
    train = frame[frame["split"] == "train"]
    pipeline = Pipeline(
        [
            ("load", ImageLoader(size=96)),
            ("embed", FrozenEmbedder("MobileNet", weights=options.weights, store=options.store)),
            ("scale", StandardScaler()),
            ("classify", LogisticRegression(C=0.01)),
        ]
    )
    grid = {"embed__layer": LAYERS, "embed__pooling": ["avg", "max"]}
    search = GridSearchCV(pipeline, grid, cv=StratifiedGroupKFold(5), scoring="roc_auc")
    search.fit(train["path"], train["target"], groups=train["patient"])
    found = pd.DataFrame(search.cv_results_)[["param_embed__layer", "param_embed__pooling", "mean_test_score"]]
    print(found.round(3).to_string(index=False))
    print(f"best: {search.best_params_['embed__layer']}, {search.best_params_['embed__pooling']}")


if __name__ == "__main__":
    main()
