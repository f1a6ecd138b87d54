"""Why a CNN from scratch seems to call every image pneumonia: its batch normalisation has not caught up.

    python examples/batchnorm_collapse.py [chest_xray] [--epochs 20] [--figure collapse.png]

The statistics a network predicts with do not touch its training, so the same seed gives the same weights after each
epoch, once predicting with Keras' moving averages and once with exact statistics. The test images are only looked at;
nothing is chosen by them. Without a folder, synthetic radiographs are drawn.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cxr_sklearn import ImageLoader, ScratchCNNClassifier, balanced_subset, load_folder, write_radiographs


def study_images(directory: str, n_per_class: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Balanced training images and all test images of a folder."""
    frame = load_folder(directory, sizes=False)
    subset = balanced_subset(frame, train=n_per_class, val=0, test=None, random_state=0)
    return subset[subset["split"] == "train"], subset[subset["split"] == "test"]


def train(statistics: str, X, y, X_test, y_test, epochs: int) -> ScratchCNNClassifier:
    """Three blocks, as in the study; the same seed gives the same training whatever the statistics."""
    cnn = ScratchCNNClassifier(
        filters=(32, 64, 128), batch_norm_statistics=statistics, epochs=epochs, early_stopping=False, random_state=0
    )
    return cnn.fit(X, y, X_val=X_test, y_val=y_test)


def main() -> None:
    """Train, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", help="folder of the Kaggle set; default: synthetic radiographs")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--images", type=int, default=240, help="training images of each class")
    parser.add_argument("--figure", help="file to draw the curves into")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as drawn:
        if options.directory is None:
            write_radiographs(drawn, 4 * options.images, size=128, random_state=0)
        table = collapse(options.directory or drawn, options.images, options.epochs)
    if options.figure:
        draw(table, options.figure)


def collapse(directory: str, n_per_class: int, epochs: int) -> pd.DataFrame:
    """Train, print and return what each epoch looks like with either kind of statistics."""
    train_rows, test_rows = study_images(directory, n_per_class)
    loader = ImageLoader(size=128)
    X, X_test = loader.transform(train_rows["path"]), loader.transform(test_rows["path"])
    y, y_test = train_rows["target"].to_numpy(), test_rows["target"].to_numpy()
    cnns = {kind: train(kind, X, y, X_test, y_test, epochs) for kind in ("moving", "exact")}

    moving, exact = (cnns[kind].history_ for kind in ("moving", "exact"))
    np.testing.assert_allclose(moving["batch_loss"], exact["batch_loss"], rtol=1e-3, err_msg="two different trainings")
    table = pd.DataFrame({"train accuracy": moving["batch_accuracy"]}, index=range(1, epochs + 1))
    for name in ("accuracy", "auc", "loss"):
        for kind, history in (("moving", moving), ("exact", exact)):
            table[f"test {name}, {kind}"] = history[f"val_{name}"]
    print(table.rename_axis("epoch").round(3).to_string())
    for kind, cnn in cnns.items():
        called = cnn.predict(X_test) == 1
        recall, specificity = called[y_test == 1].mean(), 1 - called[y_test == 0].mean()
        print(f"{kind}: calls {called.mean():.0%} of the test images pneumonia; "
              f"recall {recall:.3f}, specificity {specificity:.3f}")  # fmt: skip
    return table


def draw(table: pd.DataFrame, path: str) -> None:
    """Accuracy and AUC by epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(table["train accuracy"], color="0.5", linestyle=":", linewidth=2, label="training batches")
    for axes, name in ((left, "accuracy"), (right, "auc")):
        axes.plot(
            table[f"test {name}, moving"], color="#d55e00", linestyle="--", linewidth=2, label="test, moving averages"
        )
        axes.plot(table[f"test {name}, exact"], color="#0072b2", linewidth=2, label="test, exact statistics")
        axes.set(xlabel="epoch", ylabel="ROC AUC" if name == "auc" else name, ylim=(0.35, 1.02))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    left.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
