import numpy as np
import pandas as pd
import pytest

from cxr_sklearn.evaluation.scores import COLUMNS, read_scores, write_scores
from cxr_sklearn.exceptions import DataError


def test_the_table_comes_back_as_it_was_written(scores, tmp_path):
    write_scores(scores.assign(extra=1), tmp_path / "scores.csv")
    back = read_scores(tmp_path / "scores.csv")
    assert back.columns.tolist() == COLUMNS
    pd.testing.assert_frame_equal(back.drop(columns="score"), scores.drop(columns="score"), check_dtype=False)
    np.testing.assert_allclose(back["score"], scores["score"], rtol=1e-8)
    write_scores(back, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "scores.csv").read_bytes()


def test_a_missing_or_foreign_file(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_scores(tmp_path / "scores.csv")
    (tmp_path / "scores.csv").write_text("path,score\na,1\n")
    with pytest.raises(DataError, match=r"lacks the columns \['patient'"):
        read_scores(tmp_path / "scores.csv")
