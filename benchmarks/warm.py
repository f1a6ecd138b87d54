"""The command `cxr-sklearn compare` on images whose features are kept, against the run that kept them.

    python benchmarks/warm.py [--images 5000]

The whole command as the shell runs it, start of Python and report included: once with an empty store, which embeds
every image with VGG16 (random weights) at 224 pixels, then twice with the same store, of which the faster counts. The
images are drawn, at 64 pixels, and enlarged by the pipelines: an image costs the network the same. The rival is the
first run: what it takes without kept features. Fails where the run with kept features takes more than 10 s.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from common import command_line, conclude, figure, parse, scratch, seconds_of

from cxr_sklearn import write_radiographs

PIPELINES = ("vgg16_logistic", "vgg16_mlp")
WANTED_S = 10


def main() -> None:
    """Run the command three times and print one JSON object."""
    options = parse(__doc__, {"images": (5000, 60)})
    with scratch() as folder:
        n = len(write_radiographs(folder / "images", options.images // 2, size=64, random_state=0))
        time.sleep(2.1)  # files as young as that are never taken for unchanged
        first, *again = (seconds_of(compare, folder) for _ in range(3))
        facts = json.loads((folder / "run" / "metrics.json").read_text())["pipelines"]
    second = min(again)
    parts = {
        name: " + ".join(f"{seconds:.1f} {part}" for part, seconds in facts[name]["seconds"].items())
        for name in PIPELINES
    }
    shown = f"first run {first:.1f} s; within the last, seconds: {parts}".replace("'", "")
    figures = [
        figure(f"compare with kept features, {n:,} images", second, shown, most=WANTED_S, unit="s"),
        figure("the first run against it", first / second, f"{first:.1f} s, {second:.1f} s"),
    ]
    conclude("warm", options, figures, images=n)


def compare(folder: Path) -> None:
    """Run the command."""
    recipes = [word for name in PIPELINES for word in ("--pipeline", name)]
    places = ["--out", folder / "run", "--store", folder / "store"]
    jobs = ["--jobs", str(os.cpu_count())]
    command = [*command_line(), "compare", folder / "images", *recipes, "--weights", "random", *places, *jobs]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
