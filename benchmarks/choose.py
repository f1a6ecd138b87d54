"""What changed validation images say of the recipes' settings: variants of them, without a look at test.

    python benchmarks/choose.py chest_xray --weights VGG16.h5 --out runs/choose
    python benchmarks/choose.py chest_xray --weights VGG16.h5 --out runs/choose --trained

480 training and 480 validation images of the official train split, by patient; test images are not opened. Frozen
features: which blocks, how much of the image, and C. With --trained, the fine-tuned recipes with and without what keeps
them from being too sure, and the CNN from scratch on more or less of the image; those take minutes each.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from cxr_sklearn import (
    FrozenEmbedder,
    ImageAugmenter,
    ImageLoader,
    balanced_subset,
    load_folder,
    load_recipe,
    stress_test,
)
from cxr_sklearn.study.search import fit

#: The features of VGG16's last three blocks, as they stand one behind the other.
BLOCKS = {"block 3": slice(0, 256), "block 4": slice(256, 768), "block 5": slice(768, 1280)}
CHOSEN = (["block 5"], ["block 4"], ["block 4", "block 5"], ["block 3", "block 4", "block 5"])


def main() -> None:
    """Score every variant, and print the best last."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", help="folder of the Kaggle set")
    parser.add_argument("--weights", default="imagenet")
    parser.add_argument("--trained", action="store_true", help="variants of what trains a network")
    parser.add_argument("--only", default="", help="those whose name begins so")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    frame = balanced_subset(load_folder(options.directory, sizes=False), 240, 240, None, random_state=0)
    train, val = (frame[frame["split"] == split] for split in ("train", "val"))
    variants = trained(options.weights, options.out) if options.trained else frozen(options.weights, options.out)
    rows = []
    for name, pipeline in variants:
        if not name.startswith(options.only):
            continue
        found = stress_test(fit(pipeline, train), val)["roc_auc"]
        rows.append({"variant": name, **found, "mean of the changes": found.drop("clean").mean()})
        print(name, found.round(4).to_dict(), flush=True)
    table = pd.DataFrame(rows).sort_values("mean of the changes")
    table.to_csv(options.out / f"{'trained' if options.trained else 'frozen'}.csv", index=False)
    print(table.round(4).to_string(index=False))


def frozen(weights: str, out: Path) -> Iterator[tuple[str, Pipeline]]:
    """Yield logistic regressions on frozen features: of which blocks, of how much of the image, and how strict."""
    for crop, blocks, C in product((1.0, 0.9, 0.8, 0.7), CHOSEN, (0.001, 0.01, 0.1)):
        embedder = FrozenEmbedder(
            "VGG16", weights, ["block3_pool", "block4_pool", "block5_pool"], store=out / "store", verbose=1
        )
        columns = np.concatenate([np.arange(1280)[BLOCKS[block]] for block in blocks])
        chosen = FunctionTransformer(np.take, kw_args={"indices": columns, "axis": 1})
        head = LogisticRegression(C=C, solver="newton-cholesky")
        yield (
            f"{', '.join(blocks)}, central {crop:g}, C={C:g}",
            make_pipeline(ImageLoader(crop=crop), embedder, chosen, StandardScaler(), head),
        )


def trained(weights: str, out: Path) -> Iterator[tuple[str, Pipeline]]:
    """Yield variants of the recipes that train a network."""
    plain = {"label_smoothing": 0.0, "weight_decay": 0.0, "average_epochs": 0}
    strong = {"augmenter__zoom": 0.2, "augmenter__contrast": 0.4, "augmenter__brightness": 0.2}
    fine_tuned = {"as shipped": {}, "sharp labels, last weights": plain, "stronger augmentation": strong}
    for name, changes in fine_tuned.items():
        pipeline = load_recipe("vgg16_finetuned").build(weights=weights, random_state=0, checkpoint=out / "checkpoints")
        yield f"fine-tuned, {name}", changed(pipeline, changes)
    mild = ImageAugmenter(rotation=11, shift=0.06, zoom=0.12, brightness=0.1, contrast=0.25)
    smooth = {"label_smoothing": 0.1, "weight_decay": 0.01, "average_epochs": 3}
    end_to_end = {"as shipped": {}, "milder augmentation": {"augmenter": mild}, "soft labels, mean weights": smooth}
    for name, changes in end_to_end.items():
        pipeline = load_recipe("vgg16_end_to_end").build(
            weights=weights, random_state=0, checkpoint=out / "checkpoints"
        )
        yield f"end to end, {name}", changed(pipeline, changes)
    for crop in (0.9, 0.8):
        pipeline = load_recipe("vgg16_end_to_end").build(
            weights=weights, random_state=0, checkpoint=out / "checkpoints"
        )
        yield f"end to end, central {crop:g}", pipeline.set_params(load__crop=crop)
    for crop, seed in product((1.0, 0.9, 0.8), range(3)):
        pipeline = load_recipe("scratch_cnn").build(random_state=seed)
        yield f"from scratch, central {crop:g}, seed {seed}", pipeline.set_params(load__crop=crop)


def changed(pipeline: Pipeline, changes: dict) -> Pipeline:
    """Set parameters of the classifier inside its balancing."""
    return pipeline.set_params(**{f"classify__{name}": value for name, value in changes.items()})


if __name__ == "__main__":
    main()
