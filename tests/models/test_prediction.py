import errno
import os
from collections import Counter

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC

from cxr_sklearn import DomainDetector, ShortcutFeatures, write_radiographs
from cxr_sklearn.exceptions import DataError, ModelError
from cxr_sklearn.images._walk import image_paths
from cxr_sklearn.models.model import CXRModel
from cxr_sklearn.models.prediction import predict

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

    def test_links_to_folders_are_followed_and_come_to_an_end(self, tmp_path):
        for one, other in (("a", "b"), ("b", "a")):
            write_image(tmp_path / one / f"{one}.png")
            (tmp_path / one / "link").symlink_to(tmp_path / other)
        assert image_paths([tmp_path / "a"]) == [str(tmp_path / "a" / "a.png"), str(tmp_path / "a" / "link" / "b.png")]

    def test_a_folder_with_the_suffix_of_an_image_is_a_folder(self, tmp_path):
        image = write_image(tmp_path / "series.dcm" / "one.png")
        assert image_paths([tmp_path]) == image_paths([tmp_path / "series.dcm"]) == [image]

    def test_a_folder_that_may_not_be_read(self, tmp_path, monkeypatch):
        write_image(tmp_path / "open.png")
        (tmp_path / "closed").mkdir()
        scandir = os.scandir

        def refuse(path):
            if os.fspath(path).endswith("closed"):
                raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(DataError, match="closed cannot be read: Permission denied"):
            image_paths([tmp_path])

    def test_what_is_passed_by_is_counted_and_named(self, tmp_path):
        image = write_image(tmp_path / "one.png")
        for i in range(4):
            (tmp_path / f"{i}.gif").touch()
        (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
        (tmp_path / "notes.txt").touch()
        with pytest.warns(UserWarning, match=r"^5 image files .*, skipped: \S*0.gif, \S*1.gif, \S*2.gif and 2 more; "):
            assert image_paths([tmp_path]) == [image]
        (tmp_path / "one.png").unlink()
        with pytest.raises(DataError, match="holds no image files; 5 image files"):
            image_paths([tmp_path])

    def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(self, tmp_path):
        (tmp_path / "gone.png").symlink_to(tmp_path / "absent.png")
        assert image_paths([tmp_path]) == [str(tmp_path / "gone.png")]

    def test_a_folder_called_tilde(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_image(tmp_path / "~" / "one.png")
        assert [os.path.realpath(path) for path in image_paths(["."])] == [str(tmp_path / "~" / "one.png")]
        assert image_paths(["."]) != ["~/one.png"]

    @pytest.mark.parametrize(
        ("name", "what"), [("set.zip", "an archive"), ("a.csv", "a table"), ("a.xlsx", "not a CSV")]
    )
    def test_files_of_another_kind(self, tmp_path, name, what):
        (tmp_path / name).touch()
        with pytest.raises(DataError, match=f"{name} is {what}"):
            image_paths([tmp_path / name])

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
