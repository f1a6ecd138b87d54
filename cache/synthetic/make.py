"""Draw synthetic radiographs, embed them as the recipes do, with random weights, and keep features and frame.

    make synthetic-cache

writes ``features.npz`` (float16, one row per image) and ``frame.csv`` beside this file.
"""

from pathlib import Path

import numpy as np

from cxr_sklearn import FrozenEmbedder, ImageLoader, make_radiographs

LAYERS = ("block3_pool", "block4_pool", "block5_pool")
N_PATIENTS, SEED = 150, 0


def draw():
    """Images and frame behind the kept features."""
    return make_radiographs(N_PATIENTS, random_state=SEED)


def embed(images):
    """Features as they were kept, in float32 on every machine."""
    embedder = FrozenEmbedder("VGG16", "random", LAYERS, precision="float32", store=None, verbose=1)
    return embedder.fit_transform(ImageLoader(crop=0.8).transform(images))


if __name__ == "__main__":
    folder = Path(__file__).parent
    images, frame = draw()
    np.savez_compressed(folder / "features.npz", features=embed(images).astype(np.float16))
    frame.to_csv(folder / "frame.csv", index=False)
    print(f"{len(frame)} images, {sum(path.stat().st_size for path in folder.glob('f*.*')) / 1000:.0f} kB")
