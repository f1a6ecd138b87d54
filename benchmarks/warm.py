"""The command `cxr-sklearn compare` on images whose features are kept: what waiting is left.

    python benchmarks/warm.py [--images 5000]

The whole command as the shell runs it, start of Python and report included, with as many processes as there are cores;
of two runs the faster counts. Nothing is embedded: 64-pixel images are drawn, and stand-ins for their features are
written to the store. They have the dtype and the number of VGG16's of three blocks, and as those of real radiographs
follow some hundred common factors, so that a perceptron needs about as many epochs for them (80 where it needs 76 for
3,000 images of the Kaggle set); independent noise would take twice as many. Fails where the command takes more than
10 s.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import numpy as np
from common import command_line, conclude, figure, parse, scratch, seconds_of

from cxr_sklearn import ImageLoader, load_recipe, write_radiographs

PIPELINES = ("vgg16_logistic", "vgg16_mlp")
WANTED_S = 10
N_FEATURES, N_FACTORS = 1280, 200


def main() -> None:
    """Run the command and print one JSON object."""
    options = parse(__doc__, {"images": (5000, 60)})
    with scratch() as folder:
        n = fill(folder, options.images)
        seconds = min(seconds_of(compare, folder, os.cpu_count()) for _ in range(2))
        shown = described(folder)
    figures = [figure(f"compare with kept features, {n:,} images", seconds, shown, most=WANTED_S, unit="s")]
    conclude("warm", options, figures, images=n)


def fill(folder: Path, n_images: int) -> int:
    """Draw images, write stand-ins for their features to a store beside them, and return how many there are."""
    frame = write_radiographs(folder / "images", n_images // 2, size=64, random_state=0)
    pipeline = load_recipe(PIPELINES[0]).build(store=folder / "store", weights="random")
    batch = ImageLoader(crop=pipeline["load"].crop).transform(frame["path"])
    store = pipeline["embed"].fit(batch)._store()
    with store.claim(batch.keys) as (missing, rows):
        rows.update(zip(missing, stand_ins(frame["target"].to_numpy()), strict=True))
    time.sleep(2.1)  # files as young as that are never taken for unchanged
    return len(frame)


def stand_ins(target: np.ndarray) -> np.ndarray:
    """Return rows that are like features: not negative, and with factors in common of which eight tell the classes."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(len(target), N_FACTORS))
    factors[:, :8] += 0.7 * target[:, np.newaxis]
    loadings = rng.normal(size=(N_FACTORS, N_FEATURES)) / np.sqrt(np.arange(1, N_FACTORS + 1))[:, np.newaxis]
    noise = 0.3 * rng.normal(size=(len(target), N_FEATURES))
    return np.maximum(factors @ loadings + noise + 1, 0).astype(np.float32)


def compare(folder: Path, jobs: int | None) -> None:
    """Run the command, without --jobs for None."""
    recipes = [word for name in PIPELINES for word in ("--pipeline", name)]
    places = ["--out", folder / "run", "--store", folder / "store"]
    processes = [] if jobs is None else ["--jobs", str(jobs)]
    command = [*command_line(), "compare", folder / "images", *recipes, "--weights", "random", *places, *processes]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def described(folder: Path) -> str:
    """Say what the last run spent on each pipeline, and make sure that it embedded nothing."""
    facts = json.loads((folder / "run" / "metrics.json").read_text())["pipelines"]
    if embedded := {name: facts[name]["n_embedded"] for name in PIPELINES if facts[name]["n_embedded"]}:
        raise RuntimeError(f"images were embedded, so these are not the keys that the command asks for: {embedded}")
    return "fits: " + ", ".join(f"{name} {facts[name]['seconds']['fitting']:.1f} s" for name in PIPELINES)


if __name__ == "__main__":
    main()
