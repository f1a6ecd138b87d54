"""A saved model loads as it was, and nothing else loads."""

import copy
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from hashlib import sha256
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.sparse
import skops.io
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_selection import SelectKBest, mutual_info_classif
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF, DotProduct, Matern, RationalQuadratic, WhiteKernel
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from cxr_sklearn import (
    BalancedClassifier,
    CXRModel,
    DomainDetector,
    FineTunedClassifier,
    FrozenEmbedder,
    ImageLoader,
    ShortcutFeatures,
    load_model,
    save_model,
    write_radiographs,
)
from cxr_sklearn.exceptions import ModelError, WeightsUnavailableError
from cxr_sklearn.models._steps import parts_of
from cxr_sklearn.models.calibration import METHODS, fit_calibrator
from cxr_sklearn.models.files import FORMAT, MAGIC, check_saveable, keep_model
from cxr_sklearn.models.prediction import predict
from cxr_sklearn.study.recipes import load_recipe, recipe_names

from ..conftest import ROOT

SCORE = (
    "import sys, numpy as np; from cxr_sklearn import load_model; "
    "model = load_model(sys.argv[1], trusted=True, store=sys.argv[3]); "
    "np.save(sys.argv[2], model.predict_proba(sys.argv[4:]))"
)


#: A class that is defined in a recipe's file cannot be loaded from another process.
RECIPES = [name for name in recipe_names() if "\nclass " not in (ROOT / "pipelines" / f"{name}.py").read_text()]


@pytest.fixture(scope="module")
def frame(tmp_path_factory):
    return write_radiographs(tmp_path_factory.mktemp("radiographs"), 12, size=48, random_state=0)


@pytest.fixture(scope="module")
def fitted(frame, tmp_path_factory):
    """A small fitted pipeline and a detector."""
    store = tmp_path_factory.mktemp("store")
    pipeline = load_recipe("shortcuts").build(store=store).fit(frame["path"], frame["target"])
    return pipeline, DomainDetector(store).fit(frame["path"])


def in_another_process(path, frame, tmp_path):
    command = [sys.executable, "-c", SCORE, path, tmp_path / "scores.npy", tmp_path / "other", *frame["path"]]
    subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True)
    return np.load(tmp_path / "scores.npy")


@pytest.mark.keras
@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_gives_the_same_scores_in_another_process(frame, tmp_path, name):
    recipe = load_recipe(name)
    pipeline = recipe.build(weights="random", store=tmp_path / "store", random_state=0)
    small = {"load__size": 32, "classify__epochs": 1, "classify__head_epochs": 1, "classify__early_stopping": False}
    pipeline.set_params(**{key: value for key, value in small.items() if key in pipeline.get_params()})
    pipeline.fit(frame["path"], frame["target"])
    few, paths = frame.iloc[:5], frame["path"]
    for ending in ("skops", "joblib"):
        path = tmp_path / f"model.{ending}"
        save_model(pipeline, path)
        again = in_another_process(path, few, tmp_path)
        np.testing.assert_array_equal(again[:, 1], pipeline.predict_proba(few["path"])[:, 1])
        loaded = load_model(path, trusted=True)
        np.testing.assert_array_equal(loaded.predict_proba(paths)[:, 1], pipeline.predict_proba(paths)[:, 1])
    if "logistic" in name or "mlp" in name:
        assert (tmp_path / "model.skops").stat().st_size < 5_000_000


@pytest.mark.parametrize("method", METHODS)
def test_calibrated_pipelines_and_what_comes_with_them(frame, fitted, tmp_path, method):
    pipeline, domain = fitted
    scores = frame.assign(score=pipeline.predict_proba(frame["path"])[:, 1])
    calibrator = fit_calibrator(scores, method)
    model = CXRModel(pipeline, 0.4, calibrator=calibrator, domain=domain, metadata={"metrics": {"auc": 0.9}})
    manifest = save_model(model, tmp_path / "model.skops")
    found = load_model(tmp_path / "model.skops")
    np.testing.assert_array_equal(found.predict_proba(frame["path"]), model.predict_proba(frame["path"]))
    np.testing.assert_array_equal(found.domain.score_samples(frame["path"]), domain.score_samples(frame["path"]))
    assert found.metadata == json.loads(json.dumps(manifest))
    assert (manifest["threshold"], manifest["metrics"], manifest["classes"]) == (0.4, {"auc": 0.9}, [0, 1])
    assert manifest["versions"]["cxr-sklearn"]
    assert manifest["weights"] == []


def test_the_manifest_names_the_weights(frame, tmp_path):
    recipe = load_recipe("vgg16_logistic")
    pipeline = recipe.build(weights="random", store=tmp_path)
    embedder = pipeline[1]
    embedder.fit(pipeline[0].transform(frame["path"]))
    pipeline[-1].classes_ = np.array([0, 1])
    (found,) = save_model(pipeline, tmp_path / "model.skops")["weights"]
    assert found["backbone"] == "VGG16"
    assert found["id"] == "random:0"
    assert found["source"] == "drawn by cxr_sklearn"


def test_features_are_looked_for_in_the_store_of_this_machine(fitted, tmp_path):
    save_model(CXRModel(fitted[0], domain=fitted[1]), tmp_path / "model.skops")
    found = load_model(tmp_path / "model.skops", store=tmp_path / "here")
    assert found.pipeline[0].store == found.domain.store == tmp_path / "here"
    assert load_model(tmp_path / "model.skops").pipeline[0].store == "auto"


def test_a_store_that_is_off_stays_off(frame, tmp_path, monkeypatch):
    pipeline = load_recipe("shortcuts").build(store=None).fit(frame["path"], frame["target"])
    domain = DomainDetector(None).fit(frame["path"])
    save_model(CXRModel(pipeline, domain=domain), tmp_path / "model.skops")
    found = load_model(tmp_path / "model.skops")
    assert found.pipeline[0].store is found.domain.store is None
    monkeypatch.setenv("CXR_SKLEARN_CACHE", str(tmp_path / "cache"))
    predict(found, frame["path"][:2])
    assert not (tmp_path / "cache").exists()
    predict(found, frame["path"][:2], store=tmp_path / "asked for")
    assert (tmp_path / "asked for").exists()
    save_model(found, tmp_path / "again.skops")
    assert load_model(tmp_path / "again.skops").domain.store is None
    assert load_model(tmp_path / "again.skops", store=tmp_path).domain.store == tmp_path


def test_a_part_with_a_store_beside_one_without(frame, fitted, tmp_path):
    save_model(CXRModel(fitted[0], domain=DomainDetector(None).fit(frame["path"])), tmp_path / "model.skops")
    found = load_model(tmp_path / "model.skops")
    assert (found.pipeline[0].store, found.domain.store) == ("auto", None)


def test_nothing_is_left_of_a_write_that_fails(fitted, tmp_path, monkeypatch):
    save_model(fitted[0], tmp_path / "model.skops")
    before = (tmp_path / "model.skops").read_bytes()

    def fail(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="No space left"):
        save_model(fitted[0], tmp_path / "model.skops")
    monkeypatch.undo()
    assert (tmp_path / "model.skops").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.skops"]


def own(X):
    return X


class TestWhatCannotBeSaved:
    def test_parts_that_cannot_be_imported_cannot_be_saved(self, frame, fitted, tmp_path):
        class Mine(StandardScaler):
            pass

        with pytest.raises(ModelError, match=r"cannot be saved as \.joblib: .*Mine.*importable from a module"):
            check_saveable(make_pipeline(ShortcutFeatures(), Mine()), tmp_path / "model.joblib")
        assert not list(tmp_path.glob("*.joblib"))

    def test_parts_of_ones_own_go_into_joblib_alone(self, frame, fitted, tmp_path):
        pipeline = make_pipeline(*(step for _, step in fitted[0].steps[:1]), FunctionTransformer(own), StandardScaler(),
                                 LogisticRegression())  # fmt: skip
        pipeline.fit(frame["path"], frame["target"])
        with pytest.raises(ModelError, match=r"parts that nobody could load .*test_files.own"):
            save_model(pipeline, tmp_path / "model.skops")
        assert not list(tmp_path.iterdir())
        save_model(pipeline, tmp_path / "model.joblib")
        again = load_model(tmp_path / "model.joblib", trusted=True)
        np.testing.assert_array_equal(again.predict_proba(frame["path"]), pipeline.predict_proba(frame["path"]))

    def test_what_is_not_fitted(self, tmp_path):
        with pytest.raises(ModelError, match="not fitted"):
            save_model(load_recipe("shortcuts").build(), tmp_path / "model.skops")

    def test_metadata_that_json_cannot_hold(self, fitted, tmp_path):
        for value in (np.int64(3), float("nan"), {1, 2}):
            with pytest.raises(ValueError, match="must be JSON-serialisable"):
                save_model(CXRModel(fitted[0], metadata={"fact": value}), tmp_path / "model.skops")

    def test_what_is_not_a_detector(self, fitted, tmp_path):
        with pytest.raises(ValueError, match="must be a fitted DomainDetector"):
            save_model(CXRModel(fitted[0], domain=DomainDetector()), tmp_path / "model.skops")

    @pytest.mark.parametrize("threshold", [None, 5j, "youden", -1, float("nan"), float("inf"), True])
    def test_a_threshold_that_could_not_be_loaded(self, fitted, tmp_path, threshold):
        with pytest.raises(ValueError, match=r"threshold=.* must be a finite number"):
            save_model(CXRModel(fitted[0], threshold), tmp_path / "model.skops")
        assert not list(tmp_path.iterdir())

    def test_a_calibrator_that_could_not_be_loaded(self, fitted, tmp_path):
        with pytest.raises(ValueError, match="calibrator must be a CalibratedClassifierCV, not LogisticRegression"):
            save_model(CXRModel(fitted[0], calibrator=LogisticRegression()), tmp_path / "model.skops")

    def test_a_pipeline_that_does_not_end_in_a_classifier(self, fitted, tmp_path):
        pipeline = make_pipeline(StandardScaler())
        pipeline[0].classes_ = np.array([0, 1])
        with pytest.raises(ValueError, match="pipeline must be a classifier"):
            save_model(pipeline, tmp_path / "model.joblib")

    def test_it_is_known_before_the_training(self, tmp_path):
        check_saveable(load_recipe("vgg16_mlp").build(weights=Path("mine.h5")), tmp_path / "new" / "model.skops")
        assert not list((tmp_path / "new").iterdir())
        with pytest.raises(ModelError, match=r"save it as \.joblib"):
            check_saveable(make_pipeline(FunctionTransformer(own)), tmp_path / "model.skops")
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match="file"):
            check_saveable(make_pipeline(StandardScaler()), tmp_path / "file" / "model.skops")

    def test_other_endings(self, fitted, tmp_path):
        with pytest.raises(ValueError, match=r"must end in \.skops or \.joblib"):
            save_model(fitted[0], tmp_path / "model.pkl")


def sealed(payload, **changes):
    """A file as a stranger could make it, with correct checksums."""
    manifest = {"format": 1, "kind": "skops", "sha256": sha256(payload).hexdigest(), "versions": {}, "classes": [0, 1],
                **changes}  # fmt: skip
    line = json.dumps(manifest).encode() + b"\n"
    return MAGIC + sha256(line).hexdigest().encode() + b"\n" + line + payload


class Creates:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


#: Classifiers that hold trees once they are fitted, and some that hold other things.
WITH_TREES = [
    RandomForestClassifier(2),
    AdaBoostClassifier(n_estimators=2),
    BaggingClassifier(n_estimators=2),
    GradientBoostingClassifier(n_estimators=2),
    HistGradientBoostingClassifier(max_iter=2),
    KNeighborsClassifier(),
    CalibratedClassifierCV(ExtraTreesClassifier(2), cv=2),
    GridSearchCV(DecisionTreeClassifier(), {"max_depth": [1, 2]}, cv=2),
    VotingClassifier([("a", LogisticRegression()), ("b", DecisionTreeClassifier())], voting="soft"),
    BalancedClassifier(RandomForestClassifier(2), "weights"),
    Pipeline([("nothing", None), ("inner", make_pipeline(StandardScaler(), RandomForestClassifier(2)))]),
]
WITHOUT = [
    GaussianProcessClassifier(
        Matern() + 2.0 * RBF() * RationalQuadratic() ** 2 + WhiteKernel() + DotProduct(), optimizer=None
    ),
    GaussianProcessClassifier(),
    KNeighborsClassifier(algorithm="brute"),
    LinearDiscriminantAnalysis(),
    GaussianNB(),
    SVC(probability=False, random_state=0),
    MLPClassifier((3,), max_iter=3),
    make_pipeline(StandardScaler(), PCA(2), LogisticRegression()),
    make_pipeline(SelectKBest(k=2), LogisticRegression()),
    make_pipeline(SelectKBest(mutual_info_classif, k=2), BaggingClassifier(LogisticRegression(), 2)),
    CalibratedClassifierCV(LogisticRegression(), cv=2),
]


class TestWhatTheHeadHoldsOnceItIsFitted:
    """It is known before the training: what can be saved unfitted can be saved fitted."""

    def pipelines(self, head):
        measure = ShortcutFeatures(store=None)
        yield make_pipeline(measure, clone(head))
        yield make_pipeline(StackingClassifier([("inner", make_pipeline(measure, clone(head)))], cv=2))
        yield make_pipeline(BalancedClassifier(make_pipeline(measure, clone(head)), "undersample"))

    @pytest.mark.parametrize("head", WITH_TREES, ids=lambda head: type(head).__name__)
    def test_trees(self, head, tmp_path):
        for pipeline in self.pipelines(head):
            with pytest.raises(ModelError, match=r"nobody could load from a \.skops file: .*; save it as \.joblib"):
                check_saveable(pipeline, tmp_path / "model.skops")
            check_saveable(pipeline, tmp_path / "model.joblib")

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("head", WITHOUT, ids=lambda head: type(head).__name__)
    def test_others(self, head, frame, tmp_path):
        for pipeline in self.pipelines(head):
            check_saveable(pipeline, tmp_path / "model.skops")
            save_model(pipeline.fit(frame["path"], frame["target"]), tmp_path / "model.skops")
            again = load_model(tmp_path / "model.skops", store=None)
            np.testing.assert_array_equal(again.pipeline.predict(frame["path"]), pipeline.predict(frame["path"]))

    def test_a_head_that_cannot_be_tried_is_left_to_the_training(self, tmp_path):
        pipeline = make_pipeline(ShortcutFeatures(store=None), PCA(50), RandomForestClassifier(2))
        check_saveable(pipeline, tmp_path / "model.skops")

    def test_the_neighbours_of_many_features_need_no_tree(self, tmp_path):
        check_saveable(make_pipeline(ImageLoader(), FrozenEmbedder(), KNeighborsClassifier()), tmp_path / "model.skops")

    def test_a_model_that_was_trained_is_kept_beside(self, frame, tmp_path):
        pipeline = make_pipeline(ShortcutFeatures(store=None), RandomForestClassifier(2))
        pipeline.fit(frame["path"], frame["target"])
        with pytest.warns(UserWarning, match=r"kept as .*model\.joblib, which runs code .*: the pipeline has parts"):
            assert keep_model(CXRModel(pipeline), tmp_path / "model.skops") == tmp_path / "model.joblib"
        load_model(tmp_path / "model.joblib", trusted=True)
        (tmp_path / "mine.joblib").write_text("mine")
        with pytest.raises(ModelError, match="nobody could load"):
            keep_model(CXRModel(pipeline), tmp_path / "mine.skops")
        assert (tmp_path / "mine.joblib").read_text() == "mine"


class TestHostileFiles:
    @pytest.fixture
    def evil(self, tmp_path):
        yield tmp_path / "evil"
        assert not (tmp_path / "evil").exists()

    def refused(self, tmp_path, content, ending="skops", **options):
        path = tmp_path / f"model.{ending}"
        path.write_bytes(content)
        with pytest.raises(ModelError) as caught:
            load_model(path, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def test_a_bare_pickle(self, evil, tmp_path):
        for options in ({}, {"trusted": True}):
            assert "is not a model" in self.refused(tmp_path, pickle.dumps(Creates(str(evil))), **options)

    def test_a_joblib_model_that_nobody_vouches_for(self, evil, tmp_path):
        file = io.BytesIO()
        joblib.dump({"pipeline": Creates(str(evil))}, file)
        said = self.refused(tmp_path, sealed(file.getvalue(), kind="joblib"), "joblib")
        assert "would run code from it" in said
        assert "another ending" in self.refused(tmp_path, sealed(file.getvalue(), kind="joblib"), trusted=True)
        assert "--trust" in said

    def test_a_pickle_that_says_it_is_skops(self, evil, tmp_path):
        assert "cannot be loaded" in self.refused(tmp_path, sealed(pickle.dumps(Creates(str(evil)))))

    def test_a_schema_that_asks_for_a_command(self, evil, tmp_path):
        payload = self.with_schema(
            {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode", "__id__": 1, "protocol": 2,
             "content": {"module_path": "os", "function": "system"}}
        )  # fmt: skip
        assert "asks for code that a model does not need: " in self.refused(tmp_path, sealed(payload))

    def test_a_method_of_a_trusted_object(self, evil, tmp_path):
        text = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": '"x"', "__id__": 2}
        payload = self.with_schema(
            {"__class__": "mkdir", "__module__": "os", "__loader__": "MethodNode", "__id__": 1, "protocol": 2,
             "content": {"func": "mkdir", "obj": text}}
        )  # fmt: skip
        self.refused(tmp_path, sealed(payload))

    def with_schema(self, schema):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("schema.json", json.dumps(schema))
        return file.getvalue()

    def test_a_zip_bomb(self, evil, tmp_path):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("schema.json", b" " * 50_000_000)
        assert "it is compressed" in self.refused(tmp_path, sealed(file.getvalue()))

    def test_an_object_that_is_not_a_pipeline(self, evil, tmp_path):
        for parts in ([1, 2], {"pipeline": StandardScaler()}):
            assert "holds no pipeline" in self.refused(tmp_path, sealed(skops.io.dumps(parts)))

    @pytest.mark.parametrize("share", [0, 0.001, 0.01, 0.3, 0.7, 0.999])
    def test_a_file_cut_short(self, evil, fitted, tmp_path, share):
        save_model(fitted[0], tmp_path / "whole.skops")
        whole = (tmp_path / "whole.skops").read_bytes()
        assert any(
            word in self.refused(tmp_path, whole[: int(share * len(whole))]) for word in ("damaged", "is not a model")
        )

    def test_a_flipped_byte_wherever_it_is(self, evil, fitted, tmp_path):
        save_model(fitted[0], tmp_path / "whole.skops")
        whole = (tmp_path / "whole.skops").read_bytes()
        places = [*range(0, 1200, 7), *np.random.default_rng(0).integers(0, len(whole), 60)]
        for place in places:
            flipped = bytearray(whole)
            flipped[place] ^= 1 << int(place) % 8
            said = self.refused(tmp_path, bytes(flipped))
            assert "damaged" in said or "is not a model" in said

    def test_a_later_format(self, evil, fitted, tmp_path):
        said = self.refused(tmp_path, sealed(b"unknown to this version", format=FORMAT + 1))
        assert "written by a later version" in said

    def test_an_archive_inside_the_archive(self, evil, tmp_path):
        payload = skops.io.dumps({"pipeline": StandardScaler(), "matrix": scipy.sparse.eye_array(3).tocsr()})
        assert ".npz" in self.refused(tmp_path, sealed(payload))

    @pytest.mark.parametrize("changes", [{"kind": "exe"}, {"format": "new"}, {"sha256": None}, {"format": None},
                                         {"format": True}, {"format": 0},
                                         {"versions": [1]}, {"threshold": "x"}, {"threshold": -1},
                                         {"threshold": float("nan")}, {"threshold": None}])  # fmt: skip
    def test_an_odd_manifest(self, evil, tmp_path, changes):
        self.refused(tmp_path, sealed(b"x", **changes))

    def test_a_manifest_without_end(self, evil, tmp_path):
        line = b"[" * 100_000
        self.refused(tmp_path, MAGIC + sha256(line).hexdigest().encode() + b"\n" + line)

    @pytest.mark.parametrize("name", ["backbone", "layer", "pooling"])
    def test_names_that_lead_out_of_the_store(self, frame, evil, tmp_path, name):
        pipeline = load_recipe("vgg16_logistic").build(weights="random")
        embedder = pipeline[1].fit(pipeline[0].transform(frame["path"]))
        pipeline[-1].classes_ = np.array([0, 1])
        setattr(embedder, name, str(evil / "x"))
        said = self.refused(tmp_path, sealed(skops.io.dumps({"pipeline": pipeline})))
        assert "is not a model that cxr_sklearn saved" in said
        assert str(evil) in said

    def test_objects_shared_so_often_that_looking_at_them_takes_years(self, evil, tmp_path):
        node = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": '"x"', "__id__": 1}
        for number in range(2, 60):
            again = {"__class__": "list", "__module__": "builtins", "__loader__": "ListNode", "content": [],
                     "__id__": node["__id__"]}  # fmt: skip
            node = {**again, "content": [node, again], "__id__": number}
        payload = self.with_schema({**node, "protocol": 2})
        assert "two objects under one number" in self.refused(tmp_path, sealed(payload))

    def test_what_is_not_what_it_says(self, evil, fitted, tmp_path):
        pipeline, domain = copy.deepcopy(fitted)
        pipeline[0].store = domain.store = None
        payload = skops.io.dumps({"pipeline": pipeline})
        assert "the classes of its pipeline" in self.refused(tmp_path, sealed(payload, classes=["normal", "pneumonia"]))
        unplaced = copy.deepcopy(domain)
        unplaced.offset_ = float("nan")
        for odd in (unplaced, DomainDetector(), StandardScaler(), "x"):
            payload = skops.io.dumps({"pipeline": pipeline, "domain": odd})
            assert "domain must be a fitted DomainDetector" in self.refused(tmp_path, sealed(payload))

    def test_a_pipe(self, evil, tmp_path):
        os.mkfifo(tmp_path / "model.skops")
        with pytest.raises(ModelError, match="is not a file"):
            load_model(tmp_path / "model.skops")

    def test_no_file(self, tmp_path):
        with pytest.raises(OSError, match="No such file"):
            load_model(tmp_path / "absent.skops")


def test_another_backend_is_reported(fitted, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    save_model(fitted[0], tmp_path / "model.skops")
    monkeypatch.delenv("KERAS_BACKEND")
    with pytest.warns(UserWarning, match=r"was saved with Keras backend numpy .* \(here tensorflow 2"):
        load_model(tmp_path / "model.skops")


def test_other_versions_are_reported(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr("cxr_sklearn._io.version", lambda name: "0.0.1")
    save_model(fitted[0], tmp_path / "model.skops")
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=r"was saved with .*scikit-learn 0\.0\.1 \(here 1\."):
        load_model(tmp_path / "model.skops")


class TestWeights:
    @pytest.fixture
    def saved(self, frame, tmp_path):
        """A model with weights from a file, which is then moved."""
        import keras

        network = keras.applications.MobileNet(weights=None, include_top=False, input_shape=(32, 32, 3))
        network.save_weights(tmp_path / "mine.weights.h5")
        classifier = FineTunedClassifier(
            "MobileNet", weights=tmp_path / "mine.weights.h5", trainable_from="conv_pw_13", epochs=1, head_epochs=1,
            early_stopping=False, random_state=0,
        )  # fmt: skip
        pipeline = make_pipeline(ImageLoader(size=32), classifier).fit(frame["path"], frame["target"])
        save_model(pipeline, tmp_path / "model.skops")
        (tmp_path / "mine.weights.h5").rename(tmp_path / "moved.weights.h5")
        return pipeline.predict_proba, tmp_path

    @pytest.mark.keras
    @pytest.mark.slow
    def test_weights_that_were_moved_or_changed(self, frame, saved):
        predict_proba, folder = saved
        with pytest.raises(WeightsUnavailableError, match=r"mine\.weights\.h5"):
            load_model(folder / "model.skops")
        moved = folder / "moved.weights.h5"
        model = load_model(folder / "model.skops", weights=moved)
        again = model.predict_proba(frame["path"])
        moved.rename(folder / "mine.weights.h5")
        np.testing.assert_array_equal(again, predict_proba(frame["path"]))
        (folder / "mine.weights.h5").write_bytes((folder / "mine.weights.h5").read_bytes() + b"x")
        with pytest.raises(WeightsUnavailableError, match="are not those that the model was trained with"):
            load_model(folder / "model.skops")

    def test_a_file_is_given_to_the_network_it_belongs_to(self, frame, tmp_path):
        """Of two networks with weights from files, one file was moved; no network needs to be built."""
        for name in ("one", "two"):
            (tmp_path / f"{name}.h5").write_text(name)
        paths = {name: tmp_path / f"{name}.h5" for name in ("one", "two")}
        embedders = [(name, FrozenEmbedder("MobileNet", weights=path)) for name, path in paths.items()]
        images = ImageLoader(size=32).transform(frame["path"])
        union = FeatureUnion([(name, step.fit(images)) for name, step in embedders])
        pipeline = make_pipeline(
            ImageLoader(size=32), union, DummyClassifier().fit([[0]] * len(frame), frame["target"])
        )
        save_model(pipeline, tmp_path / "model.joblib")
        paths["two"].rename(tmp_path / "moved.h5")
        again = load_model(tmp_path / "model.joblib", trusted=True, weights=tmp_path / "moved.h5")
        kept, moved = (step.weights for _, step in again.pipeline[1].transformer_list)
        assert (kept, moved) == (str(paths["one"]), str(tmp_path / "moved.h5"))
        with pytest.raises(WeightsUnavailableError, match=r"weights of MobileNet here .* are not those"):
            load_model(tmp_path / "model.joblib", trusted=True, weights=paths["one"])


def test_wrapped_parts_are_found(frame, tmp_path):
    inner = make_pipeline(ShortcutFeatures(store=tmp_path), KNeighborsClassifier(3))
    model = make_pipeline(CalibratedClassifierCV(inner, cv=2)).fit(frame["path"], frame["target"])
    save_model(model, tmp_path / "model.joblib")  # .skops cannot hold the tree of the neighbours
    again = load_model(tmp_path / "model.joblib", trusted=True, store=None, weights="elsewhere.h5")
    measuring = [part for part in parts_of(again) if isinstance(part, ShortcutFeatures)]
    assert len(measuring) == 3  # the template and two fitted ones
    assert all(part.store is None for part in measuring)
    assert again.predict_proba(frame["path"]).shape == (len(frame), 2)  # `weights` of the neighbours is left alone


KEPT = sorted((ROOT / "tests" / "models").glob("*/*.skops"))


def test_there_are_models_of_earlier_versions():
    assert KEPT


@pytest.mark.keras
@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore:.*was saved with")
def test_models_of_earlier_versions_are_still_read(path):
    """And they give the same scores to the images beside them."""
    known = json.loads(path.with_suffix(".json").read_text())
    model = load_model(path, store=None)
    scores = model.predict_proba([str(path.parent / name) for name in known["images"]])[:, 1]
    np.testing.assert_allclose(scores, known["scores"], atol=1e-3)  # JPEG decoders differ a little
    assert model.threshold == known["threshold"]
