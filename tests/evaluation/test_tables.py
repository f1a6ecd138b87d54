import numpy as np
import pandas as pd
import pytest

from cxr_sklearn.evaluation.tables import TABLES, read_scores, read_table, write_table
from cxr_sklearn.exceptions import DataError


def test_a_table_comes_back_as_it_was_written(scores, tmp_path):
    write_table(scores, tmp_path, "scores")
    back = read_table(tmp_path, "scores")
    assert back["fold"].dtype == "Int64"
    pd.testing.assert_frame_equal(back.drop(columns="score"), scores.drop(columns="score"), check_dtype=False)
    np.testing.assert_allclose(back["score"], scores["score"], rtol=1e-8)
    write_table(back, tmp_path, "probes")
    assert (tmp_path / "probes.csv").read_bytes() == (tmp_path / "scores.csv").read_bytes()


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_not_there_is_empty(tmp_path, name):
    empty = read_table(tmp_path, name)
    assert empty.empty
    assert tuple(empty.columns) == TABLES[name].columns


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: "", "is not a table"),
        (lambda text: '"', "is not a table"),
        (lambda text: "a,b\n1,2\n", "lacks the columns"),
        (lambda text: text.replace("7", "seven"), "holds text where there should be numbers"),
        (lambda text: text.replace("word", ""), "has empty cells in the columns"),
    ],
)
def test_a_file_that_is_something_else(tmp_path, name, spoil, message):
    table = TABLES[name]
    row = ["word" if column in table.text else "7" for column in table.columns]
    (tmp_path / f"{name}.csv").write_text(spoil(",".join(table.columns) + "\n" + ",".join(row) + "\n"))
    with pytest.raises(DataError, match=rf"{name}\.csv {message}.*`cxr-sklearn {table.written_by}`"):
        read_table(tmp_path, name)


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
def test_invalid_scores(scores, tmp_path, column, value, message):
    scores.loc[3, column] = value
    write_table(scores, tmp_path, "scores")
    with pytest.raises(DataError, match=message):
        read_scores(tmp_path)
