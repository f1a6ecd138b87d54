import pandas as pd
import pytest

from cxr_sklearn.evaluation.training import read_training, training_table, write_training
from cxr_sklearn.exceptions import DataError


def test_the_table_comes_back_as_it_was_written(tmp_path):
    phases = {"head": {"loss": [0.5], "auc": [0.75]}, "all": {"loss": [0.25, 0.125], "auc": [0.5, 1.0]}}
    training = training_table("cnn", phases)
    assert training["phase"].tolist() == ["head", "all", "all"]
    assert training["epoch"].tolist() == [1, 1, 2]
    write_training(training, tmp_path / "training.csv")
    pd.testing.assert_frame_equal(read_training(tmp_path / "training.csv"), training.reset_index(drop=True))
    assert read_training(tmp_path / "absent.csv").empty
    assert training_table("cnn", {"head": {}, "all": {"loss": [1.0]}})["phase"].tolist() == ["all"]


def test_a_pipeline_may_have_any_name(tmp_path):
    write_training(training_table("NA", {"all": {"loss": [1.0], "auc": [float("nan")]}}), tmp_path / "training.csv")
    training = read_training(tmp_path / "training.csv")
    assert training["pipeline"].tolist() == ["NA"]
    assert training["auc"].isna().all()


@pytest.mark.parametrize("text", ["", "pipeline,phase\ncnn,all\n", '"'])
def test_a_file_that_is_something_else(tmp_path, text):
    (tmp_path / "training.csv").write_text(text)
    with pytest.raises(DataError, match=r"training\.csv"):
        read_training(tmp_path / "training.csv")
