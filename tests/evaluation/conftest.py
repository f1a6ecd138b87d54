"""A table of simulated scores, and a run of the shipped frozen recipes on kept features."""

import numpy as np
import pandas as pd
import pytest

from cxr_sklearn import compare

FROZEN = ["vgg16_logistic", "vgg16_mlp", "shortcuts"]


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    parts = []
    for split, n in (("train", 200), ("val", 80), ("test", 90)):
        target = np.arange(n) % 2
        parts.append(pd.DataFrame({
            "path": [f"{split}/{i}, \"odd\" náme.png" for i in range(n)],
            "patient": [f"{i // 2:04}" for i in range(n)],
            "split": split,
            "fold": pd.array([i // 2 % 4 if split == "train" else None for i in range(n)], dtype="Int64"),
            "pipeline": "NA",
            "target": target,
            "score": 1 / (1 + np.exp(-rng.normal(target, 1))),
        }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="session")
def run(embedded_frame, tmp_path_factory):
    """Metrics, folder and frame of one run; nothing may be written into the folder."""
    frame, store = embedded_frame
    out = tmp_path_factory.mktemp("run") / "deep" / "er"
    return compare(frame, FROZEN, out=out, weights="random", store=store, cv=3), out, frame
