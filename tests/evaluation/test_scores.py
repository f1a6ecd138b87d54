import json

import numpy as np
import pandas as pd
import pytest

from cxr_sklearn.evaluation.metrics import METRICS
from cxr_sklearn.evaluation.scores import COLUMNS, read_scores, summarise, write_scores
from cxr_sklearn.exceptions import DataError


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


def test_the_table_comes_back_as_it_was_written(scores, tmp_path):
    write_scores(scores.assign(extra=1), tmp_path / "scores.csv")
    back = read_scores(tmp_path / "scores.csv")
    assert back.columns.tolist() == COLUMNS
    pd.testing.assert_frame_equal(back.drop(columns="score"), scores.drop(columns="score"), check_dtype=False)
    np.testing.assert_allclose(back["score"], scores["score"], rtol=1e-8)
    write_scores(back, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "scores.csv").read_bytes()


def test_the_summary_is_computed_fold_by_fold(scores):
    from cxr_sklearn.evaluation.metrics import compute_metrics

    summary = summarise(scores)["NA"]
    threshold = summary["threshold"]["value"]
    train = scores[scores["split"] == "train"]
    folds = [compute_metrics(f["target"], f["score"], threshold) for _, f in train.groupby("fold")]
    assert set(summary["cv"]) == set(summary["test"]) == set(METRICS)
    for name in METRICS:
        assert summary["cv"][name]["mean"] == np.mean([fold[name] for fold in folds])
        assert summary["cv"][name]["std"] == np.std([fold[name] for fold in folds])
    assert sum(summary["confusion"].values()) == 90
    assert json.loads(json.dumps(summary)) == summary


def test_test_scores_do_not_touch_the_threshold(scores):
    changed = scores.assign(score=np.where(scores["split"] == "test", 0.5, scores["score"]))
    assert summarise(changed)["NA"]["threshold"] == summarise(scores)["NA"]["threshold"]


def test_a_missing_or_foreign_file(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_scores(tmp_path / "scores.csv")
    (tmp_path / "scores.csv").write_text("path,score\na,1\n")
    with pytest.raises(DataError, match=r"lacks the columns \['patient'"):
        read_scores(tmp_path / "scores.csv")
