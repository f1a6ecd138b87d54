"""Save models of the present version, for later ones to be tested with: ``python -m tests.models.make``."""

import json
from pathlib import Path

import pandas as pd
from sklearn.pipeline import Pipeline

from cxr_sklearn import DomainDetector, ImageLoader, ScratchCNNClassifier, __version__, save, write_radiographs
from cxr_sklearn.models.calibration import calibrated, fit_calibrator
from cxr_sklearn.study.recipes import load_recipe


def keep(folder: Path, name: str, pipeline: Pipeline, frame: pd.DataFrame, **options: object) -> None:
    """Save a pipeline and the scores that it gives to some of the images."""
    save(pipeline, folder / f"{name}.skops", threshold=0.4, **options)
    few = frame["path"].iloc[:4]
    known = {
        "images": [Path(path).relative_to(folder).as_posix() for path in few],
        "scores": pipeline.predict_proba(few)[:, 1].tolist(),
        "threshold": 0.4,
    }
    (folder / f"{name}.json").write_text(json.dumps(known, indent=1) + "\n")


def main() -> None:
    """Write one model that needs no network and one that does."""
    folder = Path(__file__).parent / __version__
    frame = write_radiographs(folder / "images", 12, size=48, random_state=0)
    measured = load_recipe("shortcuts").build(store=None).fit(frame["path"], frame["target"])
    scores = frame.assign(score=measured.predict_proba(frame["path"])[:, 1])
    domain = DomainDetector(store=None).fit(frame["path"])
    keep(folder, "shortcuts", calibrated(measured, fit_calibrator(scores, "sigmoid")), frame, domain=domain)
    network = ScratchCNNClassifier(filters=(4, 8), epochs=2, early_stopping=False, precision="float32", random_state=0)
    model = Pipeline([("load", ImageLoader(size=32)), ("classify", network)])
    keep(folder, "scratch_cnn", model.fit(frame["path"], frame["target"]), frame)
    for path in frame["path"].iloc[4:]:
        Path(path).unlink()


if __name__ == "__main__":
    main()
