"""Save models of the current version, for tests of later ones: ``python -m tests.models.make``."""

import json
from pathlib import Path

import pandas as pd
from sklearn.pipeline import Pipeline

from cxr_sklearn import (
    CXRModel,
    DomainDetector,
    ImageLoader,
    ScratchCNNClassifier,
    __version__,
    load_recipe,
    save_model,
    write_radiographs,
)
from cxr_sklearn.models.calibration import fit_calibrator


def keep(folder: Path, name: str, model: CXRModel, frame: pd.DataFrame) -> None:
    """Save a model and the scores that it gives to some of the images."""
    save_model(model, folder / f"{name}.skops")
    few = frame["path"].iloc[:4]
    known = {
        "images": [Path(path).relative_to(folder).as_posix() for path in few],
        "scores": model.predict_proba(few)[:, 1].tolist(),
        "threshold": model.threshold,
    }
    (folder / f"{name}.json").write_text(json.dumps(known, indent=1) + "\n")


def main() -> None:
    """Write one model that needs no network and one that does."""
    folder = Path(__file__).parent / __version__
    frame = write_radiographs(folder / "images", 12, size=48, random_state=0)
    measured = load_recipe("shortcuts").build(store=None).fit(frame["path"], frame["target"])
    scores = frame.assign(score=measured.predict_proba(frame["path"])[:, 1])
    domain = DomainDetector(store=None).fit(frame["path"])
    calibrator = fit_calibrator(scores, "sigmoid")
    keep(folder, "shortcuts", CXRModel(measured, 0.4, calibrator=calibrator, domain=domain), frame)
    network = ScratchCNNClassifier(filters=(4, 8), epochs=2, early_stopping=False, precision="float32", random_state=0)
    model = Pipeline([("load", ImageLoader(size=32)), ("classify", network)])
    keep(folder, "scratch_cnn", CXRModel(model.fit(frame["path"], frame["target"]), 0.4), frame)
    for path in frame["path"].iloc[4:]:
        Path(path).unlink()


if __name__ == "__main__":
    main()
