import json

import pytest

from cxr_sklearn.evaluation.tables import read_scores, write_table
from cxr_sklearn.exceptions import DataError
from cxr_sklearn.study.run_folder import read_metrics


def test_scores_come_back(scores, tmp_path):
    write_table(scores, tmp_path, "scores")
    assert len(read_scores(tmp_path)) == len(scores)


def test_no_scores(tmp_path, scores):
    with pytest.raises(DataError, match="does not exist"):
        read_scores(tmp_path)
    write_table(scores[:0], tmp_path, "scores")
    with pytest.raises(DataError, match="holds no scores"):
        read_scores(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("score", 1.5, "scores outside 0 to 1, first in line 5"),
        ("score", -0.1, "scores outside 0 to 1, first in line 5"),
        ("score", float("nan"), r"empty cells in the columns \['score'\]"),
        ("target", 2, "targets other than 0 and 1, first in line 5"),
        ("split", "Test", "splits other than train, val and test, first in line 5"),
        ("fold", None, "training scores without a fold, first in line 5"),
        ("path", 'train/0, "odd" náme.png', "images that a pipeline scored twice, first in line 5"),
    ],
)
def test_scores_that_no_run_writes(scores, tmp_path, column, value, message):
    scores.loc[3, column] = value
    write_table(scores, tmp_path, "scores")
    with pytest.raises(DataError, match=message):
        read_scores(tmp_path)


def test_metrics_that_are_none(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_metrics(tmp_path)
    texts = {"{": "is not metrics", "[]": "lacks", '{"pipelines": {}, "data": {}, "run": 1}': "is not metrics",
             '{"pipelines": {}, "data": {}, "run": {}}': r"lacks \['lang', 'threshold'\]"}  # fmt: skip
    for text, message in texts.items():
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(DataError, match=message):
            read_metrics(tmp_path)
    whole = {"pipelines": {}, "data": {}, "run": {"threshold": "youden", "lang": "en"}}
    (tmp_path / "metrics.json").write_text(json.dumps(whole))
    assert read_metrics(tmp_path) == whole
