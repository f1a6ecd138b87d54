"""What a model's threshold costs at another place, and what adapting it gives back: ten halves of the test patients.

    python examples/another_hospital.py model.skops chest_xray --store features

In each draw, half of the test patients adapt the model: once with their prevalence alone and no label, once with their
labels. The other half judges. Metrics are means over the draws, with the standard deviation.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from cxr_sklearn import CXRModel, adapt, load_folder, load_model


def main() -> None:
    """Adapt, judge, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("images")
    parser.add_argument("--store", default="auto")
    parser.add_argument("--draws", type=int, default=10)
    options = parser.parse_args()
    model, frame = load_model(options.model, store=options.store), load_folder(options.images)
    test = frame[frame["split"] == "test"]
    rows = []
    for seed in range(options.draws):
        patients = test["patient"].drop_duplicates().sample(frac=0.5, random_state=seed)
        known, new = (test[test["patient"].isin(patients) == inside] for inside in (True, False))
        share = float(known["target"].mean())
        models = {
            "as made": model,
            "prevalence": adapt(model, known.drop(columns="target"), prevalence=share, store=options.store),
            "labels": adapt(model, known, store=options.store),
        }
        rows += [{"model": name, **describe(one, new)} for name, one in models.items()]
    by_model = pd.DataFrame(rows).groupby("model", sort=False)
    spread = by_model.std().map("({:.3f})".format)
    print((by_model.mean().map("{:.3f} ".format) + spread).to_string())


def describe(model: CXRModel, images: pd.DataFrame) -> dict[str, float]:
    """Return the metrics of a model at its threshold."""
    target, score = images["target"].to_numpy(), model.predict_proba(images["path"])[:, 1]
    called = score >= model.threshold
    return {
        "threshold": model.threshold,
        "AUC": float(roc_auc_score(target, score)),
        "accuracy": float(np.mean(called == target)),
        "sensitivity": float(called[target == 1].mean()),
        "specificity": float(1 - called[target == 0].mean()),
    }


if __name__ == "__main__":
    main()
