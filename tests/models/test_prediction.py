from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from cxr_sklearn import DomainDetector, ShortcutFeatures, write_radiographs
from cxr_sklearn.exceptions import DataError, ModelError
from cxr_sklearn.models.model import CXRModel
from cxr_sklearn.models.prediction import image_paths, predict

from ..conftest import write_image


class TestImagePaths:
    def test_folders_are_searched_and_files_taken_as_they_are(self, tmp_path, monkeypatch):
        for name in ("b.png", "sub/a.JPEG", ".hidden/c.png", "sub/.d.png", "notes.txt"):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            path.touch()
        monkeypatch.chdir(tmp_path)
        assert image_paths(["notes.txt", "."]) == ["notes.txt", "b.png", "sub/a.JPEG"]
        assert image_paths([".hidden/c.png", ".hidden"]) == [".hidden/c.png"]

    def test_nothing_twice(self, tmp_path, monkeypatch):
        (tmp_path / "b.png").touch()
        monkeypatch.chdir(tmp_path)
        assert image_paths(["./b.png", ".", "b.png"]) == ["b.png"]

    def test_invalid_paths(self, tmp_path):
        with pytest.raises(DataError, match="holds no image files"):
            image_paths([tmp_path])
        with pytest.raises(DataError, match="a path is empty"):
            image_paths([""])


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 40, size=48, random_state=0)


def fitted(frame, classifier, target=None):
    pipeline = make_pipeline(ShortcutFeatures(store=None), classifier)
    return pipeline.fit(frame["path"], frame["target"] if target is None else target)


class TestPredict:
    def test_a_row_for_each(self, frame, tmp_path):
        pipeline = fitted(frame, LogisticRegression())
        detector = DomainDetector(store=None).fit(frame["path"])
        (tmp_path / "text.png").write_text("no image")
        noise = write_image(tmp_path / "noise.png")
        usual = frame["path"][detector.predict(frame["path"]) == 1].iloc[0]
        paths = [usual, tmp_path / "text.png", noise]
        table = predict(CXRModel(pipeline, 0.3, domain=detector), paths, store=None)
        assert table["path"].tolist() == [str(path) for path in paths]
        scores = pipeline.predict_proba([paths[0], noise])[:, 1]
        np.testing.assert_array_equal(table["score"], [scores[0], np.nan, scores[1]])
        assert (table["threshold"] == 0.3).all()
        assert table["domain"].fillna("").tolist() == ["in", "", "out"]
        assert table["error"].isna().tolist() == [True, False, True]

    def test_each_image_is_decoded_once(self, frame, decoded):
        model = CXRModel(fitted(frame, LogisticRegression()), domain=DomainDetector(store=None).fit(frame["path"]))
        decoded.clear()
        table = predict(model, frame["path"], store=None)
        assert decoded == Counter({(path, 64): 1 for path in frame["path"]})
        np.testing.assert_array_equal(table["score"], model.predict_proba(frame["path"])[:, 1])

    def test_models_that_tell_something_else(self, frame):
        said = frame["target"].map({0: "normal", 1: "pneumonia"})
        with pytest.raises(ModelError, match=r"its classes are \['normal', 'pneumonia'\]"):
            predict(CXRModel(fitted(frame, LogisticRegression(), said)), frame["path"], store=None)
        with pytest.raises(ModelError, match="gives no probabilities"):
            predict(CXRModel(fitted(frame, LinearSVC(random_state=0))), frame["path"], store=None)
