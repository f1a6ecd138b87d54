"""What int8 costs: how well a logistic regression on features in float32 and in int8 ranks real test images.

    python benchmarks/int8.py chest_xray --weights VGG16=vgg16.h5 MobileNet=mobilenet.h5@conv_pw_12_relu

240 + 240 training images of the official train split and all of its test split. Networks without a file of weights
have random ones; ROC AUC is then lower, and the question is still whether int8 changes it. Fails where it changes it by
more than 0.003.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import FrozenEmbedder, ImageLoader, balanced_subset, load_folder

BACKBONES = ("VGG16", "MobileNet", "DenseNet121", "ResNet50")
PRECISIONS = ("float32", "int8")
MOST = 0.003


def main() -> None:
    """Print a table in Markdown, a row for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="folder of the Kaggle set")
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=FILE[@LAYER]")
    parser.add_argument("--backbones", nargs="+", default=BACKBONES)
    parser.add_argument("--store", help="folder for the features, to go on where an earlier run stopped")
    options = parser.parse_args()
    weights = dict(pair.split("=", 1) for pair in options.weights)
    frame = balanced_subset(load_folder(options.directory, sizes=False), test=None, random_state=0)
    train, test = (frame[frame["split"] == split] for split in ("train", "test"))
    print(f"{len(train)} training images, {len(test)} test images\n", file=sys.stderr)
    print("| network | weights | AUC float32 | AUC int8 | difference | features differ, in norm |")
    print("|---|---|---|---|---|---|")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name in options.backbones:
            given, _, layer = weights.get(name, "random").partition("@")
            aucs, features = {}, {}
            for precision in PRECISIONS:
                embedder = FrozenEmbedder(
                    name,
                    weights=given,
                    layer=layer or None,
                    precision=precision,
                    store=options.store or folder,
                    verbose=1,
                )
                embed = make_pipeline(ImageLoader(), embedder)
                fitted = embed.fit_transform(train["path"])
                features[precision] = embed.transform(test["path"])
                head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
                scores = head.fit(fitted, train["target"]).predict_proba(features[precision])[:, 1]
                aucs[precision] = roc_auc_score(test["target"], scores)
            plain, quantised = (features[precision] for precision in PRECISIONS)
            error = np.linalg.norm(quantised - plain) / np.linalg.norm(plain)
            change = aucs["int8"] - aucs["float32"]
            worst = max(worst, abs(change))
            source = "random" if given == "random" else "ImageNet"
            print(f"| {name} | {source} | {aucs['float32']:.4f} | {aucs['int8']:.4f} | {change:+.4f} | {error:.1%} |",
                  flush=True)  # fmt: skip
    sys.exit(worst > MOST)


if __name__ == "__main__":
    main()
