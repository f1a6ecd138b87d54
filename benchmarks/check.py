"""The command `cxr-sklearn check` on originals of which nothing is kept.

    python benchmarks/check.py [--images 5856]

The whole command as the shell runs it, with an empty store; of two runs, each with a store of its own, the faster
counts. The files were just written, so that the system has them in memory: a disk comes on top. They are JPEGs of 1,300
x 1,000 pixels, which take as long to decode as real ones (1.9 ms a megapixel), each another part of one of some twenty
drawings, enlarged, so that few look alike: copies of a few files would decode as fast, but near-identical images by the
thousand are not what a set looks like. Fails where the command takes more than 12 s.
"""

from __future__ import annotations

import io
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from common import command_line, conclude, drawn_originals, figure, parse, scratch, seconds_of
from PIL import Image

WANTED_S = 12
SPLITS = {"train": 0.8, "val": 0.1, "test": 0.1}


def main() -> None:
    """Run the command and print one JSON object."""
    options = parse(__doc__, {"images": (5856, 60)})
    with scratch() as folder:
        megabytes = write_parts(folder / "images", options.images) / 1e6
        seconds = min(seconds_of(check, folder, f"store-{i}") for i in range(2))
        found = json.loads((folder / "found.json").read_text())
    alike = sum(len(group["paths"]) for group in found["near_identical"])
    shown = f"{found['images'] / seconds:,.0f} images/s of {megabytes / options.images:.2f} MB; {alike:,} look alike"
    figures = [figure(f"check of {found['images']:,} originals", seconds, shown, most=WANTED_S, unit="s")]
    conclude("check", options, figures)


def write_parts(folder: Path, n: int) -> int:
    """Write n files in the folders of the Kaggle set, two of each patient, and return their bytes."""
    drawn = [Image.open(io.BytesIO(content)).convert("L") for content in drawn_originals()]
    bounds = np.cumsum([round(n * share) for share in SPLITS.values()])
    with ThreadPoolExecutor() as pool:
        places = []
        for i in range(n):
            split = list(SPLITS)[int(np.searchsorted(bounds[:-1], i // 2 * 2, side="right"))]
            name = (
                f"NORMAL/IM-{i // 2:04d}-{i % 2 + 1:04d}.jpeg"
                if i % 4 < 2
                else f"PNEUMONIA/person{i // 2}_virus_{i}.jpeg"
            )
            places.append(folder / split / name)
        for parent in {place.parent for place in places}:
            parent.mkdir(parents=True)
        return sum(pool.map(partial(_write_part, drawn), range(n), places))


def _write_part(drawn: list[Image.Image], i: int, place: Path) -> int:
    image, rng = drawn[i % len(drawn)], np.random.default_rng(i)
    left, top, right, bottom = rng.uniform(0, 0.3, 4) * [image.width, image.height, image.width, image.height]
    part = image.resize(image.size, box=(left, top, image.width - right, image.height - bottom))
    part.save(place, quality=92)
    return place.stat().st_size


def check(folder: Path, store: str) -> None:
    """Run the command, and keep what it says."""
    command = [*command_line(), "check", folder / "images", "--store", folder / store, "--json"]
    with (folder / "found.json").open("w") as file:
        done = subprocess.run(command, stdout=file, check=False)
    if done.returncode not in (0, 1):  # 1: of images that look alike, some may be on both sides of a split
        raise SystemExit("check failed; what it said stands above")


if __name__ == "__main__":
    main()
