"""Draw synthetic radiographs, embed them with VGG16 (random weights), and keep features and frame for the tests.

    make synthetic-cache

writes ``features.npz`` (float16, one row per image) and ``frame.csv`` beside this file.
"""

from pathlib import Path

import numpy as np

from cxr_sklearn import FrozenEmbedder, make_radiographs

N_PATIENTS, SEED = 150, 0


def draw():
    """Images and frame behind the kept features."""
    return make_radiographs(N_PATIENTS, random_state=SEED)


def embed(images):
    """Features as they were kept, in float32 on every machine."""
    return FrozenEmbedder("VGG16", weights="random", precision="float32", store=None, verbose=1).fit_transform(images)


if __name__ == "__main__":
    folder = Path(__file__).parent
    images, frame = draw()
    np.savez_compressed(folder / "features.npz", features=embed(images).astype(np.float16))
    frame.to_csv(folder / "frame.csv", index=False)
    print(f"{len(frame)} images, {sum(path.stat().st_size for path in folder.glob('f*.*')) / 1000:.0f} kB")
