"""The original study to the letter: its three networks, trained as it trained them, beside what it reported.

    python examples/original_study.py [chest_xray] [--weights random|imagenet|PATH]

240 + 240 training images and as many test images of each class as it had, or as there are; decisions at 0.5. The
recipes `original_cnn_small`, `original_cnn_large` and `original_study` say what of the study is known and what is a
guess. Without a folder, synthetic radiographs are drawn.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, log_loss, precision_score, recall_score, roc_auc_score

from cxr_sklearn import balanced_subset, load_folder, load_recipe, write_radiographs

SEED = 0
N_TEST = 234
#: As they were published; which of its two CNNs the study meant is not known.
CNN = {"loss": 2.1249, "accuracy": 0.5, "precision": 0.5, "recall": 1.0, "AUC": 0.8238}
VGG16 = {"loss": 0.4427, "accuracy": 0.9103, "precision": 0.9138, "recall": 0.9060, "AUC": 0.9608}
REPORTED = {"original_cnn_small": CNN, "original_cnn_large": CNN, "original_study": VGG16}


def main() -> None:
    """Train each network once, and print its figures above the reported ones."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", help="folder of the Kaggle set; default: synthetic radiographs")
    parser.add_argument("--weights", default="random", help="of VGG16: random (default), imagenet or a file")
    parser.add_argument("--images", type=int, default=240, help="training images of each class")
    parser.add_argument("--size", type=int, help="height and width of the images; default: 224 for VGG16, else 150")
    parser.add_argument("--epochs", type=int, help="of the CNNs, and of either phase of VGG16; default: 10")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as drawn:
        if options.directory is None:
            write_radiographs(drawn, 4 * options.images, size=options.size or 224, random_state=SEED)
        train, test = study_images(options.directory or drawn, options.images)
        print(f"{len(train)} training images, {len(test)} test images, VGG16 with weights: {options.weights}, "
              f"seed {SEED}", flush=True)  # fmt: skip
        print(f"{'':28}" + "".join(f"{name:>10}" for name in CNN))
        for name, reported in REPORTED.items():
            row(f"{name}, here", figures(test["target"], scores(name, train, test, options)))
            row(f"{name}, reported", reported)


def row(label: str, values: dict[str, float]) -> None:
    """Print a line of the table as soon as it is known: VGG16 takes longer than both CNNs."""
    print(f"{label:28}" + "".join(f"{values[name]:10.4f}" for name in CNN), flush=True)


def study_images(directory: str, n_per_class: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training images, and as many test images of each class as the study had or as there are of the rarer one."""
    frame = load_folder(directory, sizes=False)
    n_test = min(N_TEST, frame.loc[frame["split"] == "test", "target"].value_counts().min())
    # The study set validation images aside, too, but they decide nothing.
    subset = balanced_subset(frame, train=n_per_class, val=n_per_class, test=None, random_state=SEED)
    return subset[subset["split"] == "train"], balanced_subset(frame, 0, 0, int(n_test), random_state=SEED)


def scores(name: str, train: pd.DataFrame, test: pd.DataFrame, options: argparse.Namespace) -> np.ndarray:
    """Train the network of a recipe, and return the probabilities of pneumonia that it gives the test images."""
    pipeline = load_recipe(name).build(weights=options.weights, random_state=SEED)
    changes = {"load__size": options.size, "classify__epochs": options.epochs, "classify__head_epochs": options.epochs}
    known = pipeline.get_params()
    pipeline.set_params(**{key: value for key, value in changes.items() if value is not None and key in known})
    return pipeline.fit(train["path"], train["target"]).predict_proba(test["path"])[:, 1]


def figures(target: pd.Series, score: np.ndarray) -> dict[str, float]:
    """Compute what the study reported, as it was computed: decisions at 0.5, and the loss as Keras has it."""
    called = score >= 0.5
    return {
        # Keras takes no probability for closer to 0 or 1 than this.
        "loss": log_loss(target, np.clip(score, 1e-7, 1 - 1e-7)),
        "accuracy": accuracy_score(target, called),
        "precision": precision_score(target, called, zero_division=0),
        "recall": recall_score(target, called),
        "AUC": roc_auc_score(target, score),
    }


if __name__ == "__main__":
    main()
