"""An epoch of fine-tuning: VGG16 cut at block5_conv1 against plain Keras on the whole network.

    python benchmarks/finetune.py [--images 480] [--precision float32] [--wanted 4]

Same images, layers that learn, head, optimizer and batches; random weights, which cost as much as others. On both sides
the fastest of some epochs after the first counts, without the scoring after it. What the cut network pays once per
image, the frozen part, is shown beside it. Fails where the epoch is not at least --wanted times faster: 4 by default.
Where both compute equally fast it is 4.8: of 17.7 billion multiplications an image the cut leaves out 14.0.
"""

from __future__ import annotations

import argparse

import numpy as np
from common import conclude, figure, timed

from cxr_sklearn import FineTunedClassifier, make_radiographs
from cxr_sklearn._keras import import_keras, keras_settings
from cxr_sklearn.classifiers import _frozen_layers as cut
from cxr_sklearn.classifiers import _training as training
from cxr_sklearn.features._backbones import Backbone

SIZE = 224
WANTED_RATIO = 4.0
N_IMAGES, N_QUICK = 480, 32


def main() -> None:
    """Time both sides and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, help=f"default {N_IMAGES}, with --quick {N_QUICK}")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--wanted", type=float, default=WANTED_RATIO)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run? Nothing is judged")
    options = parser.parse_args()
    options.images = options.images or (N_QUICK if options.quick else N_IMAGES)
    images, frame = make_radiographs(options.images, size=SIZE, random_state=0)
    images, y = images[: options.images], frame["target"].to_numpy()[: options.images]

    cut_seconds, frozen_seconds = time_cut(images, y, options.precision)
    whole_seconds = time_whole(images, y, options.precision)
    result = {
        "images": len(images),
        "precision": options.precision,
        "cut_epoch_s": round(cut_seconds, 2),
        "whole_epoch_s": round(whole_seconds, 2),
        "ratio": round(whole_seconds / cut_seconds, 2),
        "frozen_part_once_s": round(frozen_seconds, 2),
    }
    shown = f"cut {cut_seconds:.2f} s, whole {whole_seconds:.2f} s; the frozen part, once, {frozen_seconds:.1f} s"
    ratio = whole_seconds / cut_seconds
    figures = [figure(f"an epoch of fine-tuning, {options.precision}", ratio, shown, least=options.wanted)]
    conclude("finetune", options, figures, **result)


def time_cut(images: np.ndarray, y: np.ndarray, precision: str) -> tuple[float, float]:
    """Seconds of the fastest of three epochs after the first, and of the frozen part for all images."""
    epochs, frozen = [], []
    timed(training, "_one_epoch", epochs)
    timed(cut.FrozenMaps, "keep", frozen)
    FineTunedClassifier(
        weights="random", head_epochs=0, epochs=4, early_stopping=False, precision=precision, random_state=0
    ).fit(images, y)
    return min(epochs[1:]), sum(frozen)


def time_whole(images: np.ndarray, y: np.ndarray, precision: str) -> float:
    """Seconds of the faster of two epochs of the same network in plain Keras."""
    keras = import_keras()
    vgg = Backbone("VGG16", "random", "random:0", None, precision).network((SIZE, SIZE, 3))
    for layer in vgg.layers:
        layer.trainable = layer.name.startswith("block5")
    with keras_settings(precision):
        pixels = keras.Input((SIZE, SIZE, 3))
        h = vgg(keras.applications.vgg16.preprocess_input(pixels))
        h = keras.layers.GlobalAveragePooling2D()(h)
        h = keras.layers.Dropout(0.5)(keras.layers.Dense(256, activation="relu")(h))
        network = keras.Model(pixels, keras.layers.Dense(2, dtype="float32")(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(1e-5), loss, metrics=["accuracy"], jit_compile=False)
    rgb = np.repeat(images[..., None], 3, axis=3).astype(np.float32)
    network.fit(rgb[:64], y[:64], batch_size=32, verbose=0)
    seconds: list[float] = []
    timed(network, "fit", seconds)
    for _ in range(2):
        network.fit(rgb, y, batch_size=32, verbose=0)
    return min(seconds)


if __name__ == "__main__":
    main()
