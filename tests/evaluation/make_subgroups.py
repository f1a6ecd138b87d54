"""Simulate scores of patients of both sexes and all ages, and what fairlearn makes of them.

In an environment of its own: `pip install fairlearn`, then `python tests/evaluation/make_subgroups.py`. The figures are
those of fairlearn 0.15.0 and scikit-learn 1.9.1.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import sklearn.metrics as sk
from fairlearn.metrics import MetricFrame, selection_rate

HERE = Path(__file__).parent


def main() -> None:
    """Simulate, measure and write."""
    rng = np.random.default_rng(7)
    n_patients = 220
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 4, n_patients))
    sick, age = rng.random(n_patients) < 0.55, rng.integers(0, 96, n_patients)
    sex = rng.choice(["F", "M", ""], n_patients, p=[0.45, 0.45, 0.1])
    target = sick[patient].astype(int)
    score = 1 / (1 + np.exp(-rng.normal(1.2 * (2 * target - 1) - 0.8 * (sex == "F")[patient], 1.2)))
    scores = pd.DataFrame({
        "path": [f"{i}.png" for i in range(len(patient))],
        "patient": [f"p{number}" for number in patient],
        "target": target,
        "score": score.round(2),
        "sex": sex[patient],
        "age": age[patient],
    })  # fmt: skip
    scores.to_csv(HERE / "subgroup_scores.csv", index=False)

    called = (scores["score"] >= 0.5).astype(int)
    decisions = {
        "recall": sk.recall_score,
        "specificity": lambda y, d: sk.recall_score(y, d, pos_label=0),
        "precision": sk.precision_score,
        "npv": lambda y, d: sk.precision_score(y, d, pos_label=0),
        "accuracy": sk.accuracy_score,
        "called_pneumonia": selection_rate,
    }
    bands = pd.cut(scores["age"], [-1, 17, 39, 64, 120], labels=["0-17", "18-39", "40-64", "65+"]).astype(str)
    rows = []
    for column, groups in (("sex", scores["sex"].replace("", "not known")), ("age", bands)):
        frames = [
            MetricFrame(metrics=decisions, y_true=scores["target"], y_pred=called, sensitive_features=groups),
            MetricFrame(metrics={"roc_auc": sk.roc_auc_score}, y_true=scores["target"], y_pred=scores["score"],
                        sensitive_features=groups),
        ]  # fmt: skip
        for frame in frames:
            for group, values in frame.by_group.iterrows():
                rows += [(column, group, metric, value) for metric, value in values.items()]
            if column == "age":  # without a group that is not known
                rows += [(column, "difference", metric, value) for metric, value in frame.difference().items()]
    pd.DataFrame(rows, columns=["column", "group", "metric", "value"]).to_csv(HERE / "subgroups.csv", index=False)


if __name__ == "__main__":
    main()
