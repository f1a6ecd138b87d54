"""More and more images: whether time per image, and memory beyond the result, stay what they were.

    python benchmarks/growth.py [--largest 64000] [--rounds 2]

Images of 32 pixels through MobileNet with random weights, from paths to stored features: the largest number, a quarter,
a sixteenth and a 64th of it, each in a process of its own that first embeds 32 images, which is not timed; then again
in new processes, where the store has all. The fastest of the rounds counts. Fails where the largest number takes more
than a tenth longer per image than a quarter of it, or more than a tenth more memory beyond the result than a sixteenth.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from common import conclude, fastest, figure, fresh, in_turn, parse, peak_megabytes, scratch, seconds_of
from PIL import Image

from cxr_sklearn import FrozenEmbedder, ImageLoader, make_radiographs

SIZE, WARM_UP, PARTS = 32, 32, (64, 16, 4, 1)
WANTED = 1.1


def main() -> None:
    """Embed all numbers of images twice and print one JSON object."""
    options = parse(__doc__, {"largest": (64_000, 3_200), "rounds": (2, 1)})
    numbers = [options.largest // part for part in PARTS]
    with scratch() as folder:
        write_images(folder / "images", options.largest)
        # The warm side of a round comes after its cold one in either order: each round has a store of its own.
        sides = {n: lambda n=n: cold_and_warm(folder, n) for n in numbers}
        results = in_turn(sides, options.rounds)
    figures = [found for run in ("cold", "warm") for found in compared(run, numbers, results)]
    conclude("growth", options, figures)


def compared(run: str, numbers: list[int], results: dict[int, list[dict]]) -> list[dict]:
    """Figures of the cold or the warm runs."""
    microseconds = {n: 1e6 * fastest([found[run] for found in results[n]]) / (n - WARM_UP) for n in numbers}
    beyond = {n: min(found[run]["beyond"] for found in results[n]) for n in numbers}
    *_, middle, quarter, largest = numbers
    times = ", ".join(f"{n:,}: {value:,.0f} us" for n, value in microseconds.items())
    memory = ", ".join(f"{n:,}: {value:,.0f} MB" for n, value in beyond.items())
    memory += f"; {1e6 * (beyond[largest] - beyond[middle]) / (largest - middle):,.0f} bytes an image"
    slower, more = microseconds[largest] / microseconds[quarter], beyond[largest] / beyond[middle]
    return [
        figure(f"{run}: time per image, {largest:,} against {quarter:,}", slower, times, most=WANTED),
        figure(f"{run}: memory beyond the result, {largest:,} against {middle:,}", more, memory, most=WANTED),
    ]


def cold_and_warm(folder: Path, n: int) -> dict:
    """Embed n images, and have them from the store in a new process."""
    with scratch() as store:
        cold, warm = (fresh(embed, folder=folder / "images", n=n, store=store) for _ in range(2))
    if (cold["embedded"], warm["embedded"]) != (n - WARM_UP, 0):
        raise RuntimeError("the store did not keep what it was given, or had it before")
    return {"cold": cold, "warm": warm}


def write_images(folder: Path, n: int) -> None:
    """Write n PNGs, no two alike: radiographs with noise."""
    folder.mkdir()
    drawn, rng = make_radiographs(10, size=SIZE, random_state=0)[0], np.random.default_rng(0)
    for i in range(n):
        noise = rng.integers(0, 16, (SIZE, SIZE), dtype=np.uint8)
        Image.fromarray(drawn[i % len(drawn)] // 16 * 15 + noise).save(folder / f"{i:06d}.png", compress_level=1)


def embed(folder: str, n: int, store: str) -> dict:
    """Seconds without the first batch, and the peak memory of this process beyond the features and the given paths."""
    loader, paths = ImageLoader(SIZE), [f"{folder}/{i:06d}.png" for i in range(n)]
    embedder = FrozenEmbedder("MobileNet", weights="random", store=store).fit(loader.transform(paths))
    embedder.transform(loader.transform(paths[:WARM_UP]))
    features = []
    seconds = seconds_of(lambda: features.append(embedder.transform(loader.transform(paths[WARM_UP:]))))
    given = sys.getsizeof(paths) + sum(map(sys.getsizeof, paths))
    beyond = peak_megabytes() - (features[0].nbytes + given) / (1 << 20)
    return {"seconds": seconds, "beyond": beyond, "embedded": embedder.n_embedded_}


if __name__ == "__main__":
    main()
