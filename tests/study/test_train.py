import numpy as np
import pytest

from cxr_sklearn import DomainDetector, load, save, train, write_radiographs
from cxr_sklearn.exceptions import DataError
from cxr_sklearn.study.compare import compare


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 40, size=48, random_state=0)


def test_it_gives_what_compare_gives_and_does_not_look_at_test(frame, tmp_path):
    blind = frame.assign(path=frame["path"].where(frame["split"] != "test", "absent" + frame["path"]))
    model = train(blind, "shortcuts", store=tmp_path / "store", cv=3)
    metrics = compare(frame, "shortcuts", out=tmp_path, store=tmp_path / "store", cv=3)
    compared = load(tmp_path / "models" / "shortcuts.skops", store=None)
    np.testing.assert_array_equal(model.pipeline.predict_proba(frame["path"]), compared.predict_proba(frame["path"]))
    threshold = metrics["pipelines"]["shortcuts"]["threshold"]["value"]  # of scores as scores.csv rounds them
    assert model.manifest["threshold"] == pytest.approx(threshold, abs=1e-8)
    assert isinstance(model.domain, DomainDetector)
    assert save(model.pipeline, tmp_path / "model.skops", **model.manifest)["data"]["train"]["patients"] > 9


def test_what_cannot_be_trained(frame, tmp_path):
    with pytest.raises(ValueError, match="cv=1 must be an integer of at least 2"):
        train(frame, "shortcuts", cv=1)
    with pytest.raises(ValueError, match="calibrate='no' must be one of"):
        train(frame, "shortcuts", calibrate="no")
    with pytest.raises(DataError, match="there are no normal images in the train split"):
        train(frame[frame["target"] == 1], "shortcuts")
    with pytest.raises(DataError, match="too few for 500 folds"):
        train(frame, "shortcuts", store=tmp_path, cv=500)
