"""A grid search over frozen features: every image embedded once, against a pipeline with joblib's memory and with none.

    python benchmarks/search.py [--images 1000] [--size 128] [--plain 0]

Six values of C in five folds and a refit, twice, each in a new process: ours with a store; the rivals with the same
estimators and `store=None`, in a `Pipeline(memory=...)` that joblib keeps, and in one without memory (with --plain 1).
Images are counted as they go through the network. The time is that of `GridSearchCV.fit`, building the network
included. The images are drawn at 224 pixels and read at --size: 128 by default, because the rivals embed many
thousands; at --size 224 an image costs three times as much, and the ratios of seconds grow. Fails where ours embeds an
image more than once, or is not at least 8 times as fast as the rival with memory, 50 times in the second search.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from common import conclude, figure, fresh, parse, scratch, seconds_of
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import FrozenEmbedder, ImageLoader, load_folder, write_radiographs

GRID = {"classify__C": [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]}
FOLDS = 5
WANTED = {"first": 8, "second": 50}
#: Images that the rival with memory has to embed, by the number of them: what is held out is never remembered.
EXPECTED = {"first": FOLDS - 1 + len(GRID["classify__C"]) + 1, "second": len(GRID["classify__C"])}


class CountingEmbedder(FrozenEmbedder):
    """Counts the images that go through the network, in all clones together."""

    n_through = 0

    def _embed(self, chunk: object, images: list[np.ndarray]) -> np.ndarray:
        CountingEmbedder.n_through += len(images)
        return super()._embed(chunk, images)


def main() -> None:
    """Search twice on each side and print one JSON object."""
    options = parse(__doc__, {"images": (1000, 40), "size": (128, 32), "plain": (0, 0)})
    with scratch() as folder:
        write_radiographs(folder / "images", options.images * 2 // 3 + 20, random_state=0)
        time.sleep(2.1)  # files as young as that are never taken for unchanged
        sides = {"ours": {"store": folder / "store"}, "memory": {"memory": folder / "memory"}}
        if options.plain:
            sides["plain"] = {}
        common = {"folder": folder / "images", "n": options.images, "size": options.size}
        found = {
            (run, name): fresh(search, **common, **kept) for run in ("first", "second") for name, kept in sides.items()
        }
    figures = []
    for run, wanted in WANTED.items():
        ours, rival = found[run, "ours"], found[run, "memory"]
        shown = ", ".join(f"{name} {found[run, name]['seconds']:.2f} s" for name in sides)
        ratio = rival["seconds"] / ours["seconds"]
        figures.append(figure(f"{run} search at {options.size} px, seconds", ratio, shown, least=wanted))
        shown = ", ".join(f"{name} {found[run, name]['embedded']:,}" for name in sides)
        shown += f" ({EXPECTED[run] * options.images:,} expected of memory)"
        most = options.images if run == "first" else 0
        figures.append(figure(f"{run} search, images embedded", ours["embedded"], shown, most=most, unit="images"))
    accuracies = [result["accuracy"] for result in found.values()]
    spread = max(accuracies) - min(accuracies)
    figures.append(figure("cross-validated accuracy, largest difference", spread, f"{accuracies[0]:.4f}", unit=""))
    conclude("search", options, figures)


def search(folder: str, n: int, size: int, store: str | None = None, memory: str | None = None) -> dict:
    """Seconds of one search, and how many images it embedded."""
    frame = load_folder(Path(folder), sizes=False).sample(n, random_state=0)
    steps = [
        ("load", ImageLoader(size)),
        ("embed", CountingEmbedder("VGG16", weights="random", store=store)),
        ("scale", StandardScaler()),
        ("classify", LogisticRegression(max_iter=5000)),
    ]
    grid = GridSearchCV(Pipeline(steps, memory=memory), GRID, cv=FOLDS)
    seconds = seconds_of(grid.fit, frame["path"], frame["target"])
    return {"seconds": seconds, "embedded": CountingEmbedder.n_through, "accuracy": grid.best_score_}


if __name__ == "__main__":
    main()
