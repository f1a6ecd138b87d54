"""Exported models: ONNX Runtime gives the scores that scikit-learn gives."""

import hashlib
import json
import os
import sys

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, RobustScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

from cxr_sklearn import (
    AugmentedClassifier,
    BalancedClassifier,
    CXRModel,
    FineTunedClassifier,
    FrozenEmbedder,
    ImageAugmenter,
    ImageLoader,
    ScratchCNNClassifier,
    ShortcutFeatures,
    export_onnx,
    load_folder,
    load_model,
    load_recipe,
    make_radiographs,
    save_model,
)
from cxr_sklearn.exceptions import BackendError, InputError, ModelError
from cxr_sklearn.images.batch import as_batch
from cxr_sklearn.models import onnx as exporter
from cxr_sklearn.models._onnx_graph import Graph
from cxr_sklearn.models._onnx_steps import Value, Work, known_scores, probability, recalibrated
from cxr_sklearn.models.calibration import METHODS, calibrated_scores, fit_calibrator
from cxr_sklearn.models.calibration import recalibrated as ours_recalibrated

onnx = pytest.importorskip("onnx")
pytest.importorskip("skl2onnx")
runtime = pytest.importorskip("onnxruntime")
DRAW = np.random.default_rng(0)
ROWS = (DRAW.normal(size=(120, 12)) * DRAW.uniform(0.5, 3, 12) + DRAW.normal(size=12)).astype(np.float32)
LABELS = (ROWS[:, :4].sum(axis=1) + 2 * DRAW.normal(size=120) > ROWS[:, :4].sum(axis=1).mean()).astype(int)
NEW = (DRAW.normal(size=(200, 12)) * 3).astype(np.float32)


def run(graph, name, **inputs):
    """Compute one value of a graph with ONNX Runtime."""
    helper = onnx.helper
    infos = [
        helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(array.dtype), ["n", *array.shape[1:]])
        for key, array in inputs.items()
    ]
    graph.rename(name, "found")
    proto = graph.model(infos, [helper.make_tensor_value_info("found", onnx.TensorProto.DOUBLE, ["n"])])
    session = runtime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["found"], inputs)[0]


def found_by_onnx(model, rows):
    work = Work()
    return run(work.graph, probability(work, model, Value("rows", work.graph.cast("rows"))), rows=rows)


class RowMeans(FrozenEmbedder):
    """Stands in for a network: the mean grey level of each column of an image."""

    def fit(self, X, y=None):
        self.image_shape_, self.precision_, self.weights_id_ = as_batch(X).shape[1:], "float32", "random:0"
        return self

    def transform(self, X):
        return np.asarray(as_batch(X))[..., 0].mean(axis=1).astype(np.float32)


def means():
    return RowMeans("MobileNet", weights="random", store=None)


@pytest.fixture
def stand_in(monkeypatch):
    """The network of RowMeans, as a graph."""
    helper, kind = onnx.helper, onnx.TensorProto

    def protos(network):
        if not isinstance(network, RowMeans):
            return plain(network)
        nodes = [
            helper.make_node("Cast", ["images"], ["levels"], to=kind.FLOAT),
            helper.make_node("ReduceMean", ["levels"], ["features"], axes=[1, 3], keepdims=0),
        ]
        graph = helper.make_graph(
            nodes, "means",
            [helper.make_tensor_value_info("images", kind.UINT8, ["n", *network.image_shape_])],
            [helper.make_tensor_value_info("features", kind.FLOAT, ["n", network.image_shape_[1]])],
        )  # fmt: skip
        return [helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])]

    plain = exporter._network_protos
    monkeypatch.setattr(exporter, "_network_protos", protos)


@pytest.fixture(autouse=True, scope="module")
def keras_home(tmp_path_factory):
    """A folder of weights for this module, so that exported networks are not left behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        yield


@pytest.fixture(scope="module")
def images():
    pixels, frame = make_radiographs(20, size=40, random_state=0)
    return pixels, frame["target"].to_numpy()


def fitted(images, *steps, loader=None):
    return make_pipeline(loader or ImageLoader(24), ImageAugmenter(random_state=0), means(), *steps).fit(*images)


def facts_of(path):
    return json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["cxr_sklearn"])


def scored(path, model, pixels):
    """Score and decision of a file, for images loaded as the model does."""
    grey = np.asarray(model.pipeline[0].transform(pixels))[..., 0]
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"images": grey[i : i + 16]}) for i in range(0, len(grey), 16)]
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


@pytest.mark.parametrize(
    "head",
    [
        LogisticRegression(),
        SGDClassifier(loss="log_loss", random_state=0),
        LinearDiscriminantAnalysis(),
        MLPClassifier((8,), max_iter=3000, random_state=0),
        MLPClassifier((8, 4), "tanh", max_iter=3000, random_state=0),
        KNeighborsClassifier(),
        GaussianNB(),
        BernoulliNB(),
        DecisionTreeClassifier(max_depth=4, random_state=0),
        RandomForestClassifier(20, random_state=0),
        ExtraTreesClassifier(20, random_state=0),
        GradientBoostingClassifier(n_estimators=20, random_state=0),
        BalancedClassifier(LogisticRegression(), "weights"),
        FixedThresholdClassifier(LogisticRegression(), threshold=0.2),
        FrozenEstimator(LogisticRegression().fit(ROWS, LABELS)),
        GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2),
    ],
    ids=lambda head: type(head).__name__,
)
def test_heads_give_the_probabilities_of_scikit_learn(head):
    head.fit(ROWS, LABELS)
    np.testing.assert_allclose(found_by_onnx(head, NEW), head.predict_proba(NEW)[:, 1], rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*probability.*:FutureWarning")
def test_a_support_vector_machine_with_probabilities():
    head = SVC(probability=True, random_state=0).fit(ROWS, LABELS)
    np.testing.assert_allclose(found_by_onnx(head, NEW), head.predict_proba(NEW)[:, 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "step",
    [
        StandardScaler(), MinMaxScaler(), MaxAbsScaler(), RobustScaler(), Normalizer(), PCA(5), PCA(5, whiten=True),
        SelectKBest(k=4), VarianceThreshold(0.5), "passthrough", None, make_pipeline(StandardScaler(), PCA(3)),
        FeatureUnion([("a", PCA(2)), ("b", StandardScaler()), ("c", "drop")], transformer_weights={"a": 3}),
    ],
    ids=lambda step: type(step).__name__,
)  # fmt: skip
def test_steps_before_the_head(step):
    pipeline = make_pipeline(step, make_pipeline(StandardScaler(), LogisticRegression())).fit(ROWS, LABELS)
    np.testing.assert_allclose(found_by_onnx(pipeline, NEW), pipeline.predict_proba(NEW)[:, 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "head",
    [
        LogisticRegression(), LinearSVC(), SVC(), KNeighborsClassifier(9),
        MLPClassifier((4,), max_iter=3000, random_state=0),
        make_pipeline(StandardScaler(), LinearSVC()), BalancedClassifier(LogisticRegression()),
    ],
    ids=lambda head: type(head).__name__,
)  # fmt: skip
def test_calibrated_heads(head, method):
    # An isotonic map may jump where a score in float32 differs from one in float64.
    rows = NEW.astype(float)
    model = CalibratedClassifierCV(head, method=method, cv=2).fit(ROWS.astype(float), LABELS)
    np.testing.assert_allclose(found_by_onnx(model, rows), model.predict_proba(rows)[:, 1], rtol=0, atol=1e-5)


def test_a_calibrated_frozen_head():
    head = FrozenEstimator(make_pipeline(StandardScaler(), LogisticRegression()).fit(ROWS, LABELS))
    model = CalibratedClassifierCV(head, method="sigmoid").fit(ROWS, LABELS)
    np.testing.assert_allclose(found_by_onnx(model, NEW), model.predict_proba(NEW)[:, 1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("recalibration", [None, (-1.5, 0.7)])
def test_calibrators_of_a_model_are_exact_everywhere(method, recalibration):
    scores = DRAW.beta(0.5, 0.5, 300)
    rows = pd.DataFrame({"score": scores, "target": (DRAW.random(300) < scores).astype(int)})
    calibrator = fit_calibrator(rows, method)
    grid = np.unique(np.concatenate([[0, 1e-300, 1e-16, 1 - 1e-16, 1], scores, np.linspace(0, 1, 2001)]))
    graph = Graph()
    found = known_scores(graph, calibrator, "scores")
    if recalibration:
        found = recalibrated(graph, found, *recalibration)
    wanted = ours_recalibrated(calibrated_scores(grid, calibrator), recalibration)
    np.testing.assert_allclose(run(graph, found, scores=grid), wanted, rtol=0, atol=1e-9)


def test_an_isotonic_map_of_one_or_two_steps():
    for target in ([0, 1, 0, 1], [1, 1, 0, 0]):
        rows = pd.DataFrame({"score": [0.2, 0.8, 0.3, 0.9], "target": target})
        calibrator, grid, graph = fit_calibrator(rows, "isotonic"), np.linspace(0, 1, 101), Graph()
        found = run(graph, known_scores(graph, calibrator, "scores"), scores=grid)
        np.testing.assert_allclose(found, calibrated_scores(grid, calibrator), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (
            HistGradientBoostingClassifier(max_iter=2),
            "HistGradientBoostingClassifier cannot be exported to ONNX",
        ),
        (QuadraticDiscriminantAnalysis(), "QuadraticDiscriminantAnalysis cannot be exported to ONNX: there is no"),
        (DummyClassifier(), "DummyClassifier cannot be exported to ONNX: there is no translation"),
        (KNeighborsClassifier(weights="distance"), "KNeighborsClassifier .*only neighbours of equal weight"),
        (SGDClassifier(loss="modified_huber"), "SGDClassifier .*not those of a logistic regression"),
        (CalibratedClassifierCV(GradientBoostingClassifier(n_estimators=2), cv=2), "its decision function goes"),
    ],
    ids=lambda head: type(head).__name__,
)
def test_heads_that_are_refused_are_named(head, said):
    with pytest.raises(InputError, match=said):
        found_by_onnx(head.fit(ROWS, LABELS), NEW)


class TestFile:
    def test_scores_decisions_and_facts(self, stand_in, images, tmp_path):
        loader = ImageLoader((24, 20), resize="pad", crop=0.8)
        pipeline = fitted(images, StandardScaler(), LogisticRegression(), loader=loader)
        facts = {"description": "Drawn \u201cbones\u201d.", "recipe": "mine", "development": {"images": ["digest"]}}
        model = CXRModel(pipeline, 0.4, metadata=facts, recalibration=(0.5, 0.9))
        returned = export_onnx(model, tmp_path / "m.onnx")
        score, decision = scored(tmp_path / "m.onnx", model, images[0])
        wanted = model.predict_proba(images[0])
        np.testing.assert_allclose(score, wanted[:, 1], rtol=0, atol=1e-5)
        np.testing.assert_array_equal(decision, model.decide(wanted))
        assert (score.dtype, decision.dtype) == (np.float64, np.int64)
        found = facts_of(tmp_path / "m.onnx")
        assert found == returned
        assert (found["size"], found["crop"], found["fit"], found["format"]) == ([24, 20], 0.8, "pad", 1)
        assert (found["threshold"], found["classes"]) == (0.4, ["normal", "pneumonia"])
        assert found["calibration"] == {"method": None, "recalibration": [0.5, 0.9]}
        assert found["description"] == "Drawn \u201cbones\u201d."
        assert found["model_card"] == {"description": "Drawn \u201cbones\u201d.", "recipe": "mine"}
        assert found["check"]["largest_difference"] < 1e-5

    def test_the_digest_is_of_the_file_without_it(self, stand_in, images, tmp_path):
        digest = export_onnx(fitted(images, LogisticRegression(max_iter=9999)), tmp_path / "m.onnx")["sha256"]
        content = (tmp_path / "m.onnx").read_bytes()
        assert content.count(digest.encode()) == 1
        assert hashlib.sha256(content.replace(digest.encode(), b"0" * 64)).hexdigest() == digest

    def test_no_foreign_operators_and_no_other_files(self, stand_in, images, tmp_path):
        export_onnx(
            fitted(images, StandardScaler(), MLPClassifier((4,), max_iter=5000, random_state=0)), tmp_path / "m.onnx"
        )
        proto = onnx.load(tmp_path / "m.onnx")
        assert {opset.domain for opset in proto.opset_import} <= {"", "ai.onnx.ml"}
        assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
        assert [i.name for i in proto.graph.input] == ["images"]
        assert [o.name for o in proto.graph.output] == ["score", "decision"]

    @pytest.mark.parametrize("method", METHODS)
    def test_a_model_that_was_saved_and_calibrated(self, stand_in, images, tmp_path, method):
        pipeline = fitted(images, StandardScaler(), BalancedClassifier(LogisticRegression(C=0.01), "weights"))
        rows = pd.DataFrame({"score": pipeline.predict_proba(images[0])[:, 1], "target": images[1]})
        rows.loc[::7, "target"] = 1 - rows.loc[::7, "target"]
        calibrator = fit_calibrator(rows, method)
        save_model(CXRModel(pipeline, 0.5, calibrator=calibrator), tmp_path / "m.joblib")
        model = load_model(tmp_path / "m.joblib", trusted=True)
        assert export_onnx(model, tmp_path / "m.onnx")["calibration"]["method"] == method
        score, _ = scored(tmp_path / "m.onnx", model, images[0])
        np.testing.assert_allclose(score, model.predict_proba(images[0])[:, 1], rtol=0, atol=1e-5)

    def test_a_threshold_above_one_calls_nothing_pneumonia(self, stand_in, images, tmp_path):
        model = CXRModel(fitted(images, StandardScaler(), LogisticRegression()), 2)
        export_onnx(model, tmp_path / "m.onnx")
        assert not scored(tmp_path / "m.onnx", model, images[0])[1].any()

    def test_a_file_with_other_scores_is_not_kept(self, stand_in, images, tmp_path, monkeypatch):
        model = fitted(images, StandardScaler(), LogisticRegression())
        export_onnx(model, tmp_path / "m.onnx")
        before = (tmp_path / "m.onnx").read_bytes()
        plain = RowMeans.transform
        monkeypatch.setattr(RowMeans, "transform", lambda self, X: plain(self, X) ** 2)
        with pytest.raises(ModelError, match="gives other scores than the model, by up to"):
            export_onnx(model, tmp_path / "m.onnx")
        assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
        assert (tmp_path / "m.onnx").read_bytes() == before

    def test_only_exported_models_are_replaced(self, stand_in, images, tmp_path):
        model, path = fitted(images, StandardScaler(), LogisticRegression()), tmp_path / "m.onnx"
        for _ in range(2):
            facts = export_onnx(model, path)
        others = onnx.load(path)
        del others.metadata_props[:]
        changed = path.read_bytes().replace(facts["sha256"].encode(), b"0" * 64)
        for content in (others.SerializeToString(), changed[:-1], b"text"):
            path.write_bytes(content)
            with pytest.raises(InputError, match="exists and is not a model that cxr_sklearn wrote"):
                export_onnx(model, path)
            assert path.read_bytes() == content

    def test_what_cannot_be_exported_is_refused_before_a_network_is(self, images, tmp_path, monkeypatch):
        def never(network):
            raise AssertionError

        monkeypatch.setattr(exporter, "_network_protos", never)
        X, y = images
        measured = make_pipeline(ShortcutFeatures(store=None), StandardScaler(), LogisticRegression()).fit(X, y)
        with pytest.raises(InputError, match="ShortcutFeatures cannot be exported to ONNX: it looks at facts"):
            export_onnx(measured, tmp_path / "m.onnx")
        with pytest.raises(InputError, match="HistGradientBoostingClassifier cannot be exported"):
            export_onnx(fitted(images, HistGradientBoostingClassifier(max_iter=2)), tmp_path / "m.onnx")
        views = AugmentedClassifier(make_pipeline(means(), StandardScaler(), LogisticRegression()), tta=True)
        with pytest.raises(InputError, match="tta=True"):
            export_onnx(make_pipeline(ImageLoader(24), views).fit(X, y), tmp_path / "m.onnx")
        unloaded = make_pipeline(means(), StandardScaler(), LogisticRegression()).fit(X, y)
        with pytest.raises(InputError, match="an ImageLoader that sees all images must come before it"):
            export_onnx(unloaded, tmp_path / "m.onnx")

    @pytest.mark.parametrize(("name", "said"), [("m.skops", "must end in .onnx"), ("no/m.onnx", "does not exist")])
    def test_places_that_no_file_can_be_written_to(self, images, tmp_path, name, said):
        with pytest.raises(InputError, match=said):
            export_onnx(fitted(images, StandardScaler(), LogisticRegression()), tmp_path / name)

    def test_without_the_extra_its_name_is_said(self, images, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "skl2onnx", None)
        with pytest.raises(BackendError, match=r"an export needs skl2onnx; run pip install 'cxr-sklearn\[onnx\]'"):
            export_onnx(fitted(images, StandardScaler(), LogisticRegression()), tmp_path / "m.onnx")

    def test_the_command_says_what_it_wrote(self, stand_in, images, tmp_path):
        from typer.testing import CliRunner

        from cxr_sklearn.cli import app

        save_model(CXRModel(fitted(images, StandardScaler(), LogisticRegression())), tmp_path / "m.joblib")
        out = tmp_path / "m.onnx"
        done = CliRunner().invoke(app, ["export", str(tmp_path / "m.joblib"), "-o", str(out), "--trust"])
        assert done.exit_code == 0, done.output
        assert "for images of 24 x 24 pixels" in done.output
        assert "its scores differ from the model's by at most" in " ".join(done.output.split())
        assert facts_of(out)["size"] == [24, 24]


@pytest.mark.keras
class TestNetworks:
    @pytest.mark.parametrize(
        "classifier",
        [
            ScratchCNNClassifier((4, 8), epochs=1, early_stopping=False, precision="float32", random_state=0),
            FineTunedClassifier(
                "MobileNet", "random", "conv_pw_6", "conv_pw_6_relu", head_epochs=1, epochs=1, early_stopping=False,
                precision="float32", random_state=0,
            ),
            FineTunedClassifier(
                "MobileNet", "random", "all", "conv_pw_2_relu", head_epochs=0, epochs=1, early_stopping=False,
                precision="float32", random_state=0,
            ),
        ],
        ids=["scratch", "cut", "whole"],
    )  # fmt: skip
    def test_trained_networks(self, images, tmp_path, classifier):
        model = CXRModel(make_pipeline(ImageLoader(32), classifier).fit(*images), 0.5)
        export_onnx(model, tmp_path / "m.onnx")
        score, _ = scored(tmp_path / "m.onnx", model, images[0])
        np.testing.assert_allclose(score, model.predict_proba(images[0])[:, 1], rtol=0, atol=1e-5)

    def test_a_quantised_frozen_network(self, images, tmp_path):
        embedder = FrozenEmbedder("MobileNet", weights="random", precision="int8", store=None)
        pipeline = make_pipeline(ImageLoader(32), embedder, StandardScaler(), LogisticRegression()).fit(*images)
        model = CXRModel(pipeline, 0.5)
        facts = export_onnx(model, tmp_path / "m.onnx")
        assert (facts["precision"], facts["weights"][0]["id"]) == ("int8", "random:0")
        score, _ = scored(tmp_path / "m.onnx", model, images[0])
        np.testing.assert_allclose(score, model.predict_proba(images[0])[:, 1], rtol=0, atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.realdata
    def test_scores_of_real_radiographs(self, real_data, tmp_path):
        weights = os.environ.get("CXR_VGG16")
        if not weights:
            pytest.skip("no ImageNet weights of VGG16; name their file in CXR_VGG16")
        frame = load_folder(real_data / "chest_xray_224").sample(frac=1, random_state=0)
        rows = frame.groupby("target").head(60)
        others = frame.drop(rows.index)["path"].head(300)
        pipeline = load_recipe("vgg16_logistic").build(store=None, weights=weights, precision="float32", random_state=0)
        model = CXRModel(pipeline.fit(rows["path"], rows["target"]))
        export_onnx(model, tmp_path / "m.onnx")
        score, _ = scored(tmp_path / "m.onnx", model, others)
        np.testing.assert_allclose(score, model.predict_proba(others)[:, 1], rtol=0, atol=1e-5)
