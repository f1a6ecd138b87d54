"""An epoch of training against plain Keras `fit` of the same network, and whether the network ever waits for images.

    python benchmarks/training.py [--images 128] [--scratch 480] [--rounds 2] [--originals DIR]

Two networks: VGG16 at 64 pixels in which every layer learns (`FineTunedClassifier`), and the small CNN at 128 pixels
(`ScratchCNNClassifier`), both from arrays in memory, with the same optimizer, batches and precision on both sides. The
rival has the faster of Keras' two ways to compute, with and without XLA. On each side the fastest epoch after the first
of all rounds counts, without the scoring after it, which is shown beside it. Fails where an epoch takes longer than the
rival's, or where more than a twentieth of an epoch from JPEGs, with augmentation, is spent waiting for a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import conclude, fastest, figure, fresh, in_turn, originals_given, parse, scratch, timed, write_originals

from cxr_sklearn import FineTunedClassifier, ImageAugmenter, ImageLoader, ScratchCNNClassifier, make_radiographs
from cxr_sklearn._keras import import_keras, keras_settings, resolve_precision
from cxr_sklearn.classifiers import _training as training

EPOCHS = 3
BATCH = 32
SIZES = {"fine": 64, "scratch": 128}
MOST_WAITING = 0.05


def main() -> None:
    """Run all sides in turn and print one JSON object."""
    sizes = {"images": (128, 12), "scratch": (480, 12), "rounds": (2, 1)}
    options = parse(__doc__, sizes, "originals")
    counts = {"fine": options.images, "scratch": options.scratch}
    sides = {}
    for network, n in counts.items():
        sides[f"{network} ours"] = partial(fresh, ours, network=network, n=n)
        sides[f"{network} augmented"] = partial(fresh, ours, network=network, n=n, augmented=True)
        sides[f"{network} keras"] = partial(fresh, rival, network=network, n=n, xla=False)
    results = in_turn(sides, options.rounds)
    results |= in_turn({f"{name} xla": partial(fresh, rival, network=name, n=n, xla=True)
                        for name, n in counts.items()}, 1)  # fmt: skip
    shares: dict[str, dict] = {}
    with scratch() as folder:
        write_originals(folder / "images", options.images, originals_given(options.originals))
        for decoding, budget in (("once", 1 << 31), ("in every epoch", 0)):
            shares[decoding] = fresh(waiting, folder=folder / "images", budget=budget)

    figures = []
    for network, what in (("fine", "VGG16, every layer learns"), ("scratch", "the small CNN")):
        if len({result["learnt"] for name in results if name.startswith(network) for result in results[name]}) != 1:
            raise SystemExit(f"{what}: the networks of the two sides differ in size")
        plain, compiled = fastest(results[f"{network} keras"]), fastest(results[f"{network} xla"])
        kept = fastest(results[f"{network} ours"])
        scoring = fastest(results[f"{network} ours"], "scoring")
        shown = (f"{kept:.2f} s, and {scoring:.2f} s of scoring and statistics after it; "
                 f"Keras {plain:.2f} s, with XLA {compiled:.2f} s")  # fmt: skip
        augmented = fastest(results[f"{network} augmented"])
        best = min(plain, compiled)
        figures += [
            figure(f"an epoch of {what}, against Keras", best / kept, shown, least=1.0),
            figure("the same with augmentation, against Keras without", best / augmented, f"{augmented:.2f} s"),
        ]
    for decoding, result in shares.items():
        shown = f"{result['waited']:.3f} s of {result['seconds']:.2f} s for {options.images} originals"
        what = f"share of an epoch spent waiting, augmented, decoded {decoding}"
        figures.append(figure(what, result["waited"] / result["seconds"], shown, most=MOST_WAITING, unit=""))
    conclude("training", options, figures, precision=resolve_precision("auto"))


def ours(network: str, n: int, augmented: bool = False) -> dict:
    """Seconds of the fastest epoch after the first, of the scoring per epoch, and the number of learnt weights."""
    images, y = pixels(network, n)
    epochs, whole = [], []
    timed(training, "_one_epoch", epochs)
    timed(training.Training, "run", whole)
    fitted = classifier(network, ImageAugmenter() if augmented else None).fit(images, y)
    scoring = (whole[0] - sum(epochs)) / EPOCHS
    return {"seconds": min(epochs[1:]), "scoring": scoring, "learnt": n_learnt(fitted._network())}


def rival(network: str, n: int, xla: bool) -> dict:
    """Seconds of the fastest epoch after the first of one `fit`, and the number of learnt weights."""
    images, y = pixels(network, n)
    keras = import_keras()
    with keras_settings(resolve_precision("auto")):
        model = plain_vgg(keras) if network == "fine" else plain_cnn(keras)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-5), loss, metrics=["accuracy"], jit_compile=xla)
    moments = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            moments.append(time.perf_counter())

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            moments.append(time.perf_counter())

    grey = images[..., np.newaxis]
    inputs = np.repeat(grey, 3, axis=3) if network == "fine" else grey
    model.fit(inputs, y, batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[Clock()])
    seconds = np.subtract(moments[1::2], moments[::2])
    return {
        "seconds": float(seconds[1:].min()),
        "learnt": n_learnt(model),
    }


def waiting(folder: str, budget: int) -> dict:
    """Seconds of the fastest epoch after the first, from files and augmented, and how much of it was spent waiting.

    The network waits for a batch from the end of the step before it, or from the start of the epoch, until the thread
    that reads ahead has it; the first batch of an epoch included.
    """
    paths = sorted(Path(folder).iterdir())
    found = []
    original = training._one_epoch

    def one_epoch(network: Any, dataset: Iterable[Any], advance: Callable[[int], None]) -> dict:
        start, waited = time.perf_counter(), []

        def noted() -> Iterator[Any]:
            batches = iter(dataset)
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                waited.append(time.perf_counter() - asked)
                if batch is None:
                    return
                yield batch

        scores = original(network, noted(), advance)
        found.append({"seconds": time.perf_counter() - start, "waited": sum(waited)})
        return scores

    training._one_epoch = one_epoch
    model = classifier("fine", ImageAugmenter()).set_params(memory_budget=budget)
    model.fit(ImageLoader(SIZES["fine"]).transform([str(path) for path in paths]), np.arange(len(paths)) % 2)
    return min(found[1:], key=lambda epoch: epoch["seconds"])


def n_learnt(model: Any) -> int:
    """Return how many numbers learn."""
    return int(sum(np.prod(weight.shape) for weight in model.trainable_weights))


def classifier(network: str, augmenter: ImageAugmenter | None) -> Any:
    """Return our side."""
    options = {"epochs": EPOCHS, "batch_size": BATCH, "early_stopping": False, "random_state": 0}
    if network == "scratch":
        return ScratchCNNClassifier(augmenter=augmenter, **options)
    return FineTunedClassifier(weights="random", trainable_from="all", head_epochs=0, augmenter=augmenter, **options)


def plain_vgg(keras: Any) -> Any:
    """Return VGG16 with the same head, from colour images of 64 pixels."""
    layers, size = keras.layers, SIZES["fine"]
    images = keras.Input((size, size, 3))
    vgg = keras.applications.VGG16(include_top=False, weights=None, input_shape=(size, size, 3))
    h = layers.GlobalAveragePooling2D()(vgg(keras.applications.vgg16.preprocess_input(images)))
    h = layers.Dropout(0.5)(layers.Dense(256, activation="relu")(h))
    return keras.Model(images, layers.Dense(2, dtype="float32")(h))


def plain_cnn(keras: Any) -> Any:
    """Return the CNN of `ScratchCNNClassifier` from grey images of 128 pixels."""
    layers, size = keras.layers, SIZES["scratch"]
    images = keras.Input((size, size, 1))
    h = layers.Rescaling(1 / 255)(images)
    for filters in (32, 64, 128):
        h = layers.Conv2D(filters, 3, padding="same", activation="relu")(h)
        h = layers.MaxPooling2D(padding="same")(layers.BatchNormalization()(h))
    h = layers.Dense(128, activation="relu")(layers.Flatten()(h))
    return keras.Model(images, layers.Dense(2, dtype="float32")(layers.Dropout(0.5)(h)))


def pixels(network: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return drawn radiographs and their classes."""
    images, frame = make_radiographs(n, size=SIZES[network], random_state=0)
    return images[:n], frame["target"].to_numpy()[:n]


if __name__ == "__main__":
    main()
