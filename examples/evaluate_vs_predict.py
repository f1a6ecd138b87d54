"""Why `evaluate` and a list of predictions can disagree about one network: every fault that may be the cause, made.

    python examples/evaluate_vs_predict.py [chest_xray] [--weights random|imagenet|PATH] [--network original_study]

One network is trained, once: that of the original study (`original_study`) or the recipe `vgg16_finetuned`. It then
predicts the same test images the right way and the wrong ways. The table is sorted by how far each way's recall and
false positive rate are from those of the study's list of predictions, 131 of 234 and 6 of 234; its last column is what
`diagnose_discrepancy` says of the metrics of the right way and the confusion matrix of that one. Without a folder,
synthetic radiographs are drawn.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable

import numpy as np
import pandas as pd
from original_study import study_images
from PIL import Image
from scipy.special import expit
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.pipeline import Pipeline

from cxr_sklearn import (
    FineTunedClassifier,
    ImageAugmenter,
    ImageLoader,
    diagnose_discrepancy,
    load_recipe,
    write_radiographs,
)
from cxr_sklearn.evaluation.metrics import compute_metrics, confusion_cells

SEED = 0
#: Recall and false positive rate of the study's list of predictions.
RECALL, FALSE_POSITIVE_RATE = 131 / 234, 6 / 234
RIGHT, THRESHOLD = "the right way", "the best threshold"
#: True labels, log odds of pneumonia, and the probability from which an image is called pneumonia.
Way = tuple[np.ndarray, np.ndarray, float]


def _caffe(pixels: np.ndarray) -> np.ndarray:
    from keras.applications.vgg16 import preprocess_input

    # It writes into the array it is given, which is a fault of its own: hence the copy.
    return preprocess_input(pixels.copy())


#: What may be done to the pixels, ``float32 (n, size, size, 3)`` from 0 to 255, before they reach VGG16.
PREPARATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "1/255": lambda pixels: pixels / 255,
    "mean subtraction": _caffe,
    "pixels as they are": lambda pixels: pixels,
    "from -1 to 1": lambda pixels: pixels / 127.5 - 1,
    "1/255, then mean subtraction": lambda pixels: _caffe(pixels / 255),
    "each image standardised": lambda pixels: (
        (pixels - pixels.mean((1, 2, 3), keepdims=True)) / np.maximum(pixels.std((1, 2, 3), keepdims=True), 1)
    ),
}
TRAINED_ON = {"original_study": "1/255", "vgg16_finetuned": "mean subtraction"}
#: The loader's own is Pillow's bilinear filter, which averages over all pixels that one of the small image covers.
FILTERS = {
    "nearest-neighbour": Image.Resampling.NEAREST,
    "bilinear, not averaging": Image.Resampling.BILINEAR,
    "bicubic, not averaging": Image.Resampling.BICUBIC,
}
#: Within a few degrees and percent as in our recipes, and as in many a tutorial of Keras' ImageDataGenerator.
AUGMENTERS = {
    "mild augmentation": ImageAugmenter(random_state=SEED),
    "strong augmentation": ImageAugmenter(30, shift=0.2, zoom=0.2, flip=True, random_state=SEED),
}


def main() -> None:
    """Train, make every fault, print what each leaves behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", help="folder of the Kaggle set; default: synthetic radiographs")
    parser.add_argument("--network", choices=list(TRAINED_ON), default="original_study")
    parser.add_argument("--weights", default="random", help="random (default), imagenet or a file")
    parser.add_argument("--images", type=int, default=240, help="training images of each class")
    parser.add_argument("--size", type=int, default=224, help="height and width of the images in pixels")
    parser.add_argument("--epochs", type=int, help="of each phase of the training; default: as the recipe has it")
    parser.add_argument("--batch-size", type=int, default=32, help="of predictions")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as drawn:
        if options.directory is None:
            write_radiographs(drawn, 4 * options.images, size=2 * options.size, random_state=SEED)
        train, test = study_images(options.directory or drawn, options.images)
        test = test.sort_values(["target", "path"])  # as Keras lists a folder: all normal ones come first
        pipeline = fitted(options, train)
        print(f"{options.network}, weights: {options.weights}, {len(train)} training images, {len(test)} test images, "
              f"{options.size} pixels, seed {SEED}", flush=True)  # fmt: skip
        ways = faults(options, pipeline, test) | other_checkpoint(options, pipeline, train, test)
        table = left_behind(ways)
        print(table.to_string())
        is_threshold = table.index.str.startswith(THRESHOLD)
        wrong, moved = table[~is_threshold].drop(index=RIGHT).iloc[0], table[is_threshold].iloc[0]
        print(f"Closest to the study's list, recall {RECALL:.3f} and FPR {FALSE_POSITIVE_RATE:.3f}: {wrong.name}, "
              f"{wrong['distance']} away. The right way is {table.loc[RIGHT, 'distance']} away at 0.5, and "
              f"{moved['distance']} at the best threshold.")  # fmt: skip
        same_steps(pipeline, test)


def fitted(options: argparse.Namespace, train: pd.DataFrame, **changes: object) -> Pipeline:
    """Train the network; of the parameters to change, it is given those that its recipe has."""
    pipeline = load_recipe(options.network).build(weights=options.weights, random_state=SEED)
    changes = {
        "load__size": options.size,
        "classify__head_epochs": options.epochs,
        "classify__epochs": options.epochs,
        "classify__carry_frozen": True,  # so that plain_network finds all of VGG16 in it
        "classify__precision": "float32",
        **changes,
    }
    if not pipeline.get_params().get("classify__head_epochs"):  # it trains in one phase
        del changes["classify__head_epochs"]
    known = {name: value for name, value in changes.items() if value is not None and name in pipeline.get_params()}
    return pipeline.set_params(**known).fit(train["path"], train["target"])


def faults(options: argparse.Namespace, pipeline: Pipeline, test: pd.DataFrame) -> dict[str, Way]:
    """Predict the test images the right way and the wrong ways."""
    network, loader, target = plain_network(pipeline), pipeline[0], test["target"].to_numpy()
    images, prepare = loader.transform(test["path"]), PREPARATIONS[TRAINED_ON[options.network]]

    def predict(prepared: np.ndarray, **how: bool) -> np.ndarray:
        return log_odds(network, prepared, options.batch_size, **how)

    pixels = as_pixels(images)
    right = predict(prepare(pixels))
    others = {name: function for name, function in PREPARATIONS.items() if name != TRAINED_ON[options.network]}
    seen = {f"pixels: {name}": predict(function(pixels)) for name, function in others.items()}
    seen["pixels: RGB for BGR"] = predict(prepare(pixels)[..., ::-1])
    seen |= {f"resize: {name}": predict(prepare(resized(test["path"], loader, name))) for name in FILTERS}
    seen |= {f"left on: {name}": predict(prepare(as_pixels(augmenter.fit_transform(images))))
             for name, augmenter in AUGMENTERS.items()}  # fmt: skip

    whole = len(target) // options.batch_size * options.batch_size
    moved = closest_threshold(target, right)
    return {
        RIGHT: (target, right, 0.5),
        "shuffled generator": (target, np.random.default_rng(SEED).permutation(right), 0.5),
        "n // batch_size batches": (target[:whole], right[:whole], 0.5),
        f"{THRESHOLD}, {moved:.3g}": (target, right, moved),
        "left on: dropout": (target, predict(prepare(pixels), dropout=True), 0.5),
        **{name: (target, predicted, 0.5) for name, predicted in seen.items()},
    }


def other_checkpoint(
    options: argparse.Namespace, pipeline: Pipeline, train: pd.DataFrame, test: pd.DataFrame
) -> dict[str, Way]:
    """Predict with the network as it was after its first phase, where there are two."""
    if not pipeline.get_params().get("classify__head_epochs"):
        return {}
    early = fitted(options, train, classify__epochs=0)  # by the same seed, so it is that very network
    prepared = PREPARATIONS[TRAINED_ON[options.network]](as_pixels(early[0].transform(test["path"])))
    predicted = log_odds(plain_network(early), prepared, options.batch_size)
    return {"checkpoint of the head alone": (test["target"].to_numpy(), predicted, 0.5)}


def left_behind(ways: dict[str, Way]) -> pd.DataFrame:
    """Return a row per way, the closest to the study's list first."""
    target, right, _ = ways[RIGHT]
    reported = {**compute_metrics(target, expit(right), 0.5), "n": len(target)}
    rows = {}
    for name, (labels, predicted, threshold) in ways.items():
        cells = confusion_cells(labels, expit(predicted), threshold)
        first = diagnose_discrepancy(reported, cells).iloc[0]
        recall, false_positives = cells["tp"] / (labels == 1).sum(), cells["fp"] / (labels == 0).sum()
        rows[name] = {
            **cells,
            "accuracy": (cells["tp"] + cells["tn"]) / len(labels),
            # Of the log odds: probabilities of .9999... would round to ties.
            "AUC": roc_auc_score(labels, predicted),
            "recall": recall,
            "FPR": false_positives,
            # A moved threshold leaves these two alone; other inputs and weights do not.
            "logit mean": predicted.mean(),
            "logit sd": predicted.std(),
            "distance": np.hypot(recall - RECALL, false_positives - FALSE_POSITIVE_RATE),
            "first verdict": f"{first['verdict']}: {first['cause']}",
        }
    table = pd.DataFrame.from_dict(rows, orient="index").sort_values("distance", kind="stable")
    return table.map(lambda value: f"{value:.3f}" if isinstance(value, float) else value)


def closest_threshold(target: np.ndarray, right: np.ndarray) -> float:
    """Return the threshold that comes closest to the study's list, looking at the labels as nobody may."""
    false_positives, recall, cuts = roc_curve(target, right, drop_intermediate=False)
    return float(expit(cuts[np.argmin(np.hypot(recall - RECALL, false_positives - FALSE_POSITIVE_RATE))]))


def plain_network(pipeline: Pipeline):
    """Build the trained network as plain Keras, from prepared pixels to logits: what it is given is what VGG16 sees.

    The classifiers' own networks take 8-bit pixels and prepare them inside: nobody can feed them wrongly prepared ones.
    """
    import keras

    classifier = getattr(pipeline[-1], "estimator_", pipeline[-1])
    vgg16 = keras.applications.VGG16(weights=None, include_top=False, input_shape=classifier.image_shape_)
    if isinstance(classifier, FineTunedClassifier):
        mean, scale = classifier.feature_mean_, classifier.feature_scale_
        x = keras.layers.GlobalAveragePooling2D()(vgg16.output)
        x = keras.layers.Rescaling(1 / scale, -mean / scale)(x)
        (units, rate, n_logits), frozen = (classifier.dense_units, classifier.dropout, 2), classifier.frozen_weights_
    else:
        x = keras.layers.Flatten()(vgg16.output)
        (units, rate, n_logits), frozen = (256, 0.5, 1), []
    if units:
        x = keras.layers.Dense(units, activation="relu")(x)
    x = keras.layers.Dropout(rate, seed=SEED)(x)
    network = keras.Model(vgg16.input, keras.layers.Dense(n_logits)(x))
    network.set_weights([*frozen, *classifier.weights_])
    return network


def log_odds(network, prepared: np.ndarray, batch_size: int, dropout: bool = False) -> np.ndarray:
    """Return the log odds of pneumonia, ``float64 (n,)``; of one logit, it is that."""
    batches = np.split(prepared, range(batch_size, len(prepared), batch_size))
    logits = np.concatenate([np.asarray(network(batch, training=dropout)) for batch in batches]).astype(float)
    return logits[:, -1] - (logits[:, 0] if logits.shape[1] == 2 else 0)


def as_pixels(images) -> np.ndarray:
    """Decode images, ``float32 (n, size, size, 3)`` from 0 to 255."""
    return np.asarray(images).astype("float32")


def resized(paths: pd.Series, loader: ImageLoader, name: str) -> np.ndarray:
    """Read the images as the loader does, but for the resize filter, ``float32 (n, size, size, 3)``."""
    images = []
    for path in paths:
        image = Image.open(path).convert("L")
        left, top = (side * (1 - loader.crop) / 2 for side in image.size)
        box = (left, top, image.width - left, image.height - top)
        # For a pixel of the small image, transform looks at one place of the large one, where resize would average.
        images.append(image.transform((loader.size, loader.size), Image.Transform.EXTENT, box, FILTERS[name]))
    return np.stack([np.asarray(image, dtype="float32") for image in images])[..., None].repeat(3, axis=3)


def same_steps(pipeline: Pipeline, test: pd.DataFrame) -> None:
    """Show that a Pipeline has one way to predict, whatever asks for it."""
    accuracy = pipeline.score(test["path"], test["target"])
    shuffled = test.sample(frac=1, random_state=SEED)
    parts = [shuffled.iloc[rows] for rows in np.array_split(np.arange(len(shuffled)), 5)]
    right = [pipeline.predict(part["path"]) == part["target"] for part in parts]
    print(f"pipeline.score: accuracy {accuracy:.4f}; from pipeline.predict, shuffled and in five parts: "
          f"{np.concatenate(right).mean():.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
