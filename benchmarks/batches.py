"""Images a second by precision and batch size, on whatever Keras computes on: a GPU where it sees one.

    KERAS_BACKEND=jax python benchmarks/batches.py [chest_xray] [--images 1024]

First the bare network (VGG16 with random weights at 224 pixels) on decoded images in memory; then, with a folder, from
its files to features in a store, and what its decoding alone would allow. No rival and no verdict: it is for choosing a
batch size.
"""

from __future__ import annotations

import argparse
import itertools
import time

import numpy as np
from common import scratch

from cxr_sklearn import FrozenEmbedder, ImageLoader, load_folder
from cxr_sklearn._keras import gpu_is_used, keras_backend

PRECISIONS = ("float32", "bfloat16")
BATCHES = (32, 128, 512)


def main() -> None:
    """Print a line for each precision and batch size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", help="folder of radiographs, or a CSV file")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    options = parser.parse_args()
    print(f"Keras on {keras_backend()}, {'on a GPU' if gpu_is_used() else 'on the CPU'}")
    images = np.random.default_rng(0).integers(0, 256, (options.images, 224, 224, 3), dtype=np.uint8)
    for precision, size in itertools.product(PRECISIONS, options.batches):
        print(f"network, {precision}, batches of {size}: {network_rate(images, precision, size):,.1f} images/s")
    if options.directory is None:
        return
    batch = ImageLoader().transform(load_folder(options.directory)["path"][: options.images])
    start = time.perf_counter()
    n = sum(len(chunk) for chunk in batch.decode_ahead(64))
    print(f"decoding: {n / (time.perf_counter() - start):,.1f} images/s")
    for precision, size in itertools.product(PRECISIONS, options.batches):
        with scratch() as store:
            embedder = FrozenEmbedder(weights="random", precision=precision, batch_size=size, store=store).fit(batch)
            embedder.transform(batch[:size])  # builds and traces
            start = time.perf_counter()
            embedder.transform(batch[size:])
            rate = embedder.n_embedded_ / (time.perf_counter() - start)
        print(f"files to features, {precision}, batches of {size}: {rate:,.1f} images/s")


def network_rate(images: np.ndarray, precision: str, size: int) -> float:
    """Images a second of the bare network, once it is built and traced."""
    embedder = FrozenEmbedder(weights="random", precision=precision, store=None).fit(images[:1])
    network = embedder._network()
    network.predict_on_batch(images[:size])
    start = time.perf_counter()
    for first in range(0, len(images), size):
        network.predict_on_batch(images[first : first + size])
    return len(images) / (time.perf_counter() - start)


if __name__ == "__main__":
    main()
