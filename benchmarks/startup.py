"""How long things take to begin: the import, the help, and one image scored in the shell and in Python.

    python benchmarks/startup.py [--rounds 7]

`import cxr_sklearn` against `import sklearn`, each in a new Python, in turn, and the import of two classes, because the
package imports nothing before it is asked for; `cxr-sklearn --help`; `cxr-sklearn predict` with a saved pipeline of
VGG16 (random weights) on an image it has never seen, and on one whose features are kept; the same with the model
exported to ONNX, and `cxr-sklearn serve` with it until its page is there; and in Python, with the pipeline loaded and
one image scored before, a path against the bare call of the network on decoded pixels. The fastest of the rounds
counts. Fails where the import takes more than 1.5 times that of scikit-learn, the help or `predict` with the exported
model more than a second, or its page more than two.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
from common import command_line, conclude, figure, fresh, in_turn, parse, scratch, seconds_of
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cxr_sklearn import FrozenEmbedder, ImageLoader, export_onnx, load_model, save_model, write_radiographs

WANTED_IMPORT, WANTED_HELP_S = 1.5, 1
#: With an exported model.
WANTED_PREDICT_S, WANTED_SERVE_S = 1, 2
N_PREDICTED = 20


def main() -> None:
    """Time everything and print one JSON object."""
    options = parse(__doc__, {"rounds": (7, 1), "predictions": (3, 1)})
    with scratch() as folder:
        images = fresh(make_model, folder=folder)["unseen"]
        best = in_order(
            {
                "sklearn": [sys.executable, "-c", "import sklearn"],
                "cxr_sklearn": [sys.executable, "-c", "import cxr_sklearn"],
                "classes": [sys.executable, "-c", "from cxr_sklearn import FrozenEmbedder, ImageLoader"],
                "help": [*command_line(), "--help"],
            },
            options.rounds,
        )
        time.sleep(2.1)  # files as young as that are never taken for unchanged
        predict = [*command_line(), "predict", folder / "model.skops", "--store", folder / "store"]
        cold = [seconds_of(run, [*predict, image]) for image in images[: options.predictions]]
        kept = [seconds_of(run, [*predict, image]) for image in images[: options.predictions]]
        exported = folder / "model.onnx"
        predict = [*command_line(), "predict", exported]
        quick = min(seconds_of(run, [*predict, image]) for image in images[: options.predictions + 1])
        served = min(seconds_until_served(exported) for _ in range(options.predictions + 1))
        python = fresh(in_python, folder=folder, images=images[-N_PREDICTED:])
    ratio, of_classes = (best[name] / best["sklearn"] for name in ("cxr_sklearn", "classes"))
    shown = f"cxr_sklearn {best['cxr_sklearn']:.2f} s, two classes {best['classes']:.2f} s"
    shown += f", sklearn {best['sklearn']:.2f} s"
    figures = [
        figure("import, against scikit-learn", ratio, shown, most=WANTED_IMPORT),
        figure("import of two classes, against scikit-learn", of_classes, shown),
        figure("cxr-sklearn --help", best["help"], "", most=WANTED_HELP_S, unit="s"),
        figure("predict in the shell, image never seen", min(cold), "", unit="s"),
        figure("predict in the shell, features kept", min(kept), f"{min(cold) / min(kept):.1f} x less", unit="s"),
    ]
    for what, seconds, most in (
        ("predict in the shell, exported model, image never seen", quick, WANTED_PREDICT_S),
        ("serve an exported model", served, WANTED_SERVE_S),
    ):
        figures.append(figure(what, seconds, "", most=most, unit="s"))
    for name in ("cold", "kept"):
        shown = f"pipeline {1000 * python[name]:.1f} ms, network {1000 * python['network']:.1f} ms"
        what = f"predict in Python, {name}, against the bare network"
        figures.append(figure(what, python[name] / python["network"], shown))
    conclude("startup", options, figures)


def in_order(commands: dict[str, list], rounds: int) -> dict[str, float]:
    """Run commands in turn and return the least seconds of each; one round before them warms the disk up."""
    sides = {name: lambda command=command: {"seconds": seconds_of(run, command)} for name, command in commands.items()}
    results = in_turn(sides, rounds + 1)
    return {name: min(result["seconds"] for result in found[1:]) for name, found in results.items()}


def run(command: list) -> None:
    """Run a command as the shell would."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def seconds_until_served(model: Path) -> float:
    """Time `cxr-sklearn serve` from its start until its page was sent."""
    start = time.perf_counter()
    command = [*command_line(), "serve", str(model), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            address = next(found[0] for line in server.stdout if (found := re.search(r"http://[\w.:]+", line)))
            urllib.request.urlopen(address).read()
            return time.perf_counter() - start
        finally:
            server.terminate()


def make_model(folder: str) -> dict:
    """Write images, fit a pipeline on twenty, save and export it, and tell which images it has not seen."""
    frame = write_radiographs(Path(folder, "images"), 40, random_state=0).sort_values("path")
    some = frame.groupby("target").head(10)
    embedder = FrozenEmbedder("VGG16", weights="random", store=Path(folder, "store"))
    model = make_pipeline(ImageLoader(), embedder, StandardScaler(), LogisticRegression())
    save_model(model.fit(some["path"], some["target"]), Path(folder, "model.skops"))
    export_onnx(model, Path(folder, "model.onnx"))
    return {"unseen": frame["path"].drop(some.index).tolist()}


def in_python(folder: str, images: list[str]) -> dict:
    """Median seconds for one image: by the loaded pipeline, new and kept, and by the network alone."""
    model = load_model(Path(folder, "model.skops"), store=Path(folder, "store"))
    loader, embedder = (step for _, step in model.pipeline.steps[:2])
    pixels = np.asarray(loader.transform(images))
    network = embedder._network()
    warm_up, *others = images
    model.predict_proba([warm_up])
    cold = [seconds_of(model.predict_proba, [image]) for image in others]
    kept = [seconds_of(model.predict_proba, [image]) for image in others]
    bare = [seconds_of(network.predict_on_batch, one[np.newaxis]) for one in pixels[1:]]
    return {name: float(np.median(seconds)) for name, seconds in (("cold", cold), ("kept", kept), ("network", bare))}


if __name__ == "__main__":
    main()
