"""A table of simulated scores."""

import numpy as np
import pandas as pd
import pytest


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
