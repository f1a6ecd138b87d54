"""Originals on disk to VGG16 features, against Keras' own way and against the bare network.

    python benchmarks/embed.py [--originals DIR] [--images 512] [--rounds 3]

Ours is ImageLoader and FrozenEmbedder with an empty store, all it writes included. The rival is
`image_dataset_from_directory`, `preprocess_input` and `VGG16.predict`, in float32 as people run it: as Keras compiles
it by itself, and without XLA, which is faster on a CPU; the faster one counts. The limit is our own compiled network
on batches of decoded images in memory, half of them before and half after ours, in the same process. Every side runs
in processes of its own, in turn; imports, building and one batch to warm up are not timed; random weights cost as much
as others. Fails where ours is not at least 1.75 times as fast as the rival in the precision "auto" (where that is
bfloat16), 1.05 times in float32, or slower than 0.93 of the bare network; where int8 is not at least 3.5 times as fast
as the rival in float32, and 1.7 times as fast as the rival in bfloat16.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import (
    conclude,
    fastest,
    figure,
    fresh,
    in_turn,
    originals_given,
    parse,
    scratch,
    seconds_of,
    write_originals,
)

from cxr_sklearn import FrozenEmbedder, ImageLoader
from cxr_sklearn._keras import import_keras, resolve_precision

SIZE, BATCH = 224, 32
WANTED = {"auto": 1.75, "float32": 1.05}
WANTED_OF_INT8 = {"float32": 3.5, "bfloat16": 1.7}
WANTED_OF_BARE = 0.93


def main() -> None:
    """Time all sides and print one JSON object."""
    options = parse(__doc__, {"images": (512, 32), "rounds": (3, 1)}, "originals")
    options.originals = originals_given(options.originals)
    sides = {
        "auto": lambda: fresh(ours, folder=folder, precision="auto"),
        "rival": lambda: fresh(rival, folder=folder, xla=False),
        "float32": lambda: fresh(ours, folder=folder, precision="float32"),
        "rival with XLA": lambda: fresh(rival, folder=folder, xla=True),
        "rival in bfloat16": lambda: fresh(rival, folder=folder, xla=False, precision="bfloat16"),
        "int8": lambda: fresh(ours, folder=folder, precision="int8"),
        "ONNX Runtime in float32": lambda: fresh(ours, folder=folder, precision="float32", engine="onnx"),
    }
    with scratch() as temporary:
        folder = temporary / "images"
        write_originals(folder, options.images, options.originals)
        results = in_turn(sides, options.rounds)
    rates = {name: options.images / fastest(runs) for name, runs in results.items()}
    fair = max(rates["rival"], rates["rival with XLA"])
    against = f"Keras {rates['rival']:.1f}, as it compiles by itself {rates['rival with XLA']:.1f} images/s"
    figures = []
    for precision, wanted in WANTED.items():
        resolved, rate = resolve_precision(precision), rates[precision]
        name = precision if precision == resolved else f"{precision} ({resolved})"
        least = wanted if precision == "float32" or resolved != "float32" else None
        shown = f"ours {rate:.1f}, {against}"
        figures.append(figure(f"embedding, {name}, against Keras", rate / fair, shown, least=least))
        of_bare = statistics.median(run["of_bare"] for run in results[precision])
        bare = options.images / fastest(results[precision], "bare_seconds")
        shown = f"ours {rate:.1f}, network {bare:.1f} images/s; the ratio is the median of {options.rounds} runs"
        figures.append(figure(f"embedding, {name}, against the bare network", of_bare, shown, least=WANTED_OF_BARE))
    rivals = {"float32": fair, "bfloat16": rates["rival in bfloat16"]}
    for precision, wanted in WANTED_OF_INT8.items():
        shown = f"ours {rates['int8']:.1f}, Keras {rivals[precision]:.1f} images/s"
        name = f"embedding, int8, against Keras in {precision}"
        figures.append(figure(name, rates["int8"] / rivals[precision], shown, least=wanted))
    rate = rates["ONNX Runtime in float32"]
    shown = f"ours {rate:.1f}, Keras {fair:.1f} images/s"
    figures.append(figure("embedding, ONNX Runtime in float32, against Keras", rate / fair, shown))
    conclude("embed", options, figures)


def ours(folder: str, precision: str, engine: str = "auto") -> dict:
    """Seconds of the pipeline from paths to stored features, and its rate as a part of the bare network's."""
    paths = sorted(map(str, Path(folder).iterdir()))
    loader = ImageLoader(SIZE)
    pixels = np.asarray(loader.transform(paths))
    with tempfile.TemporaryDirectory() as store:
        embedder = FrozenEmbedder(
            "VGG16", weights="random", precision=precision, batch_size=BATCH, store=store, engine=engine
        )
        embedder.fit(pixels).transform(255 - pixels[:BATCH])
        half = len(paths) // BATCH // 2 * BATCH  # whole batches
        network = bare_network(embedder)
        bare = seconds_of(through, network, pixels[:half])
        seconds = seconds_of(lambda: embedder.transform(loader.transform(paths)))
        bare += seconds_of(through, network, pixels[half:])
    if embedder.n_embedded_ != len(paths):
        raise RuntimeError("not every image went through the network")
    return {"seconds": seconds, "bare_seconds": bare, "of_bare": bare / seconds}


def bare_network(embedder: FrozenEmbedder) -> Callable[[np.ndarray], object]:
    """Return the call of the network alone, of either engine."""
    if not embedder._uses_onnx():
        return embedder._network().predict_on_batch
    session = embedder._session()
    return lambda images: session.run(None, {"images": images})


def through(network: Callable[[np.ndarray], object], pixels: np.ndarray) -> None:
    """Send decoded images through the network, a batch after the other."""
    for start in range(0, len(pixels), BATCH):
        network(pixels[start : start + BATCH])


def rival(folder: str, xla: bool, precision: str = "float32") -> dict:
    """Seconds of what the documentation of Keras shows."""
    keras = import_keras()
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "bfloat16" else precision)
    network = keras.applications.VGG16(include_top=False, pooling="avg", weights=None, input_shape=(SIZE, SIZE, 3))
    if not xla:
        network.compile(jit_compile=False)
    images = keras.utils.image_dataset_from_directory(
        folder, labels=None, image_size=(SIZE, SIZE), batch_size=BATCH, shuffle=False, verbose=False
    )
    images = images.map(keras.applications.vgg16.preprocess_input).prefetch(2)
    network.predict(images.take(1), verbose=0)
    return {"seconds": seconds_of(lambda: network.predict(images, verbose=0))}


if __name__ == "__main__":
    main()
