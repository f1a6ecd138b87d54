"""Why `evaluate` and a list of predictions can disagree about one network: seven faults, each really made.

    python examples/evaluate_vs_predict.py [chest_xray] [--weights random|imagenet|PATH]

One network is trained, once. It then predicts the same test images the right way and the wrong ways, and
`diagnose_discrepancy` is told the metrics of the right way and the confusion matrix of each. Without a folder,
synthetic radiographs are drawn.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np
import pandas as pd
from PIL import Image
from scipy.special import expit
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline

from cxr_sklearn import (
    FineTunedClassifier,
    ImageLoader,
    balanced_subset,
    diagnose_discrepancy,
    load_folder,
    write_radiographs,
)
from cxr_sklearn.evaluation.metrics import compute_metrics, confusion_cells

SEED = 0


def main() -> None:
    """Train, make every fault, print what it leaves behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", help="folder of the Kaggle set; default: synthetic radiographs")
    parser.add_argument("--weights", default="random", help="random (default), imagenet or a file")
    parser.add_argument("--images", type=int, default=240, help="training images of each class")
    parser.add_argument("--size", type=int, default=128, help="height and width of the images in pixels")
    parser.add_argument("--epochs", type=int, default=10, help="for head and last layers together")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threshold", type=float, default=0.9, help="what the threshold is moved to from 0.5")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as drawn:
        if options.directory is None:
            write_radiographs(drawn, 2 * options.images, size=2 * options.size, random_state=SEED)
        train, test = study_images(options.directory or drawn, options.images)
        classifier = FineTunedClassifier(
            "VGG16",
            weights=options.weights,
            epochs=options.epochs,
            learning_rate=1e-4,
            batch_size=options.batch_size,
            early_stopping=False,  # all images train, and the weights are those of the last epoch
            carry_frozen=True,  # so that plain_network finds all of VGG16 in it
            precision="float32",
            random_state=SEED,
        )
        pipeline = make_pipeline(ImageLoader(size=options.size), classifier).fit(train["path"], train["target"])
        network = "random weights" if options.weights == "random" else f"weights: {options.weights}"
        print(f"VGG16 ({network}), {len(train)} training images, {len(test)} test images, {options.size} pixels, "
              f"seed {SEED}")  # fmt: skip
        print(faults(pipeline, train, test, options.threshold).to_string())
        same_steps(pipeline, test)


def study_images(directory: str, n_per_class: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training images, and as many test images of each class as there are of the rarer one; normal ones come first."""
    frame = load_folder(directory, sizes=False)
    n_test = int(frame.loc[frame["split"] == "test", "target"].value_counts().min())
    subset = balanced_subset(frame, train=n_per_class, val=0, test=n_test, random_state=SEED)
    subset = subset.sort_values(["target", "path"])
    return subset[subset["split"] == "train"], subset[subset["split"] == "test"]


def faults(pipeline: Pipeline, train: pd.DataFrame, test: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Predict the test images the right way and the wrong ways; return what each way leaves."""
    from keras.applications.vgg16 import preprocess_input

    loader, classifier = pipeline[0], pipeline[-1]
    network = plain_network(classifier)
    pixels = np.asarray(loader.transform(test["path"])).astype("float32")
    target = test["target"].to_numpy()

    def log_odds(prepared: np.ndarray, network=network) -> np.ndarray:
        logits = network.predict(prepared, batch_size=classifier.batch_size, verbose=0)
        return logits[:, 1] - logits[:, 0]

    # Keras' preprocess_input writes into the array it is given, which is a fault of its own: hence the copies.
    right = log_odds(preprocess_input(pixels.copy()))
    order = np.random.default_rng(SEED).permutation(len(target))
    whole = len(target) // classifier.batch_size * classifier.batch_size
    nearest = nearest_pixels(test["path"], loader.size)
    early = plain_network(head_only(classifier).fit(loader.transform(train["path"]), train["target"]))
    ways = {
        "the right way": (target, right, 0.5),
        "shuffled generator": (target, log_odds(preprocess_input(pixels[order])), 0.5),
        "n // batch_size batches": (target[:whole], log_odds(preprocess_input(pixels[:whole].copy())), 0.5),
        f"threshold {threshold:g}": (target, right, threshold),
        "1/255, no mean subtraction": (target, log_odds(pixels / 255), 0.5),
        "1/255, then mean subtraction": (target, log_odds(preprocess_input(pixels / 255)), 0.5),
        "nearest-neighbour resize": (target, log_odds(preprocess_input(nearest)), 0.5),
        "checkpoint of the head alone": (target, log_odds(preprocess_input(pixels.copy()), early), 0.5),
    }
    reported = {**compute_metrics(target, expit(right.astype(float)), 0.5), "n": len(target)}
    return pd.DataFrame([_left_behind(reported, *way) for way in ways.values()], index=list(ways))


def _left_behind(reported: dict[str, float], target: np.ndarray, log_odds: np.ndarray, threshold: float) -> dict:
    score = expit(log_odds.astype(float))
    cells = confusion_cells(target, score, threshold)
    first = diagnose_discrepancy(reported, cells).iloc[0]
    return {
        **cells,
        "accuracy": f"{(cells['tp'] + cells['tn']) / len(target):.3f}",
        # Of the log odds: probabilities of .9999... would round to ties.
        "AUC": f"{roc_auc_score(target, log_odds):.3f}",
        # A moved threshold leaves the log odds' mean and spread alone; other inputs and weights do not.
        "logit mean": f"{log_odds.mean():.2f}",
        "logit sd": f"{log_odds.std():.3f}",
        "first verdict": f"{first['verdict']}: {first['cause']}",
    }


def plain_network(classifier: FineTunedClassifier):
    """Build the trained network as plain Keras: what it is given is what VGG16 sees.

    The classifier's own network takes 8-bit pixels and prepares them inside, so it cannot be fed wrongly prepared ones.
    """
    import keras

    vgg16 = keras.applications.VGG16(weights=None, include_top=False, input_shape=classifier.image_shape_)
    mean, scale = classifier.feature_mean_, classifier.feature_scale_
    x = keras.layers.GlobalAveragePooling2D()(vgg16.output)
    x = keras.layers.Rescaling(1 / scale, -mean / scale)(x)
    x = keras.layers.Dense(classifier.dense_units, activation="relu")(x)
    network = keras.Model(vgg16.input, keras.layers.Dense(2)(x))
    network.set_weights([*classifier.frozen_weights_, *classifier.weights_])
    network.compile(jit_compile=False)
    return network


def head_only(classifier: FineTunedClassifier) -> FineTunedClassifier:
    """Return the classifier to be trained as before, by the same seed, until its head has learnt and nothing else."""
    # The second phase cannot be left out, but steps this small change no float32 weight.
    return clone(classifier).set_params(epochs=1, learning_rate=1e-12)


def nearest_pixels(paths: pd.Series, size: int) -> np.ndarray:
    """Read the images as the loader does, but for the resize filter, ``float32 (n, size, size, 3)``."""
    images = [Image.open(path).convert("L").resize((size, size), Image.Resampling.NEAREST) for path in paths]
    return np.stack([np.asarray(image, dtype="float32") for image in images])[..., None].repeat(3, axis=3)


def same_steps(pipeline: Pipeline, test: pd.DataFrame) -> None:
    """Show that a Pipeline has one way to predict, whatever asks for it."""
    accuracy = pipeline.score(test["path"], test["target"])
    shuffled = test.sample(frac=1, random_state=SEED)
    single = pd.Series({path: pipeline.predict([path])[0] for path in shuffled["path"]})
    listed = float((single[test["path"]].to_numpy() == test["target"].to_numpy()).mean())
    print(f"pipeline.score: accuracy {accuracy:.4f}; from pipeline.predict, one image at a time: {listed:.4f}")


if __name__ == "__main__":
    main()
