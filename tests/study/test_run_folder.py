import json

import pytest

from cxr_sklearn.exceptions import DataError
from cxr_sklearn.study.run_folder import read_metrics


def test_invalid_metrics(tmp_path):
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
