"""Everything that can follow the networks of an exported model, in all combinations: heads, calibrations, rules."""

import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier, StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV, TunedThresholdClassifierCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from cxr_sklearn import (
    AugmentedClassifier,
    BalancedClassifier,
    CXRModel,
    ImageAugmenter,
    ImageLoader,
    ScratchCNNClassifier,
    export_onnx,
)
from cxr_sklearn.evaluation.thresholds import find_threshold, parse_rule
from cxr_sklearn.exceptions import InputError
from cxr_sklearn.models.calibration import METHODS, fit_calibrator

onnx = pytest.importorskip("onnx")
pytest.importorskip("skl2onnx")
runtime = pytest.importorskip("onnxruntime")

from cxr_sklearn.models.onnx import translated  # noqa: E402

from .test_onnx_export import DRAW, LABELS, ROWS, images, means, scored, stand_in  # noqa: E402, F401

#: Like ROWS, because calibrations magnify the rounding of float32 where scores are nearly 0 or 1.
NEW = DRAW.normal(ROWS.mean(axis=0), ROWS.std(axis=0), (200, 12)).astype(np.float32)
TARGET = (NEW[:, :4].sum(axis=1) + 2 * DRAW.normal(size=200) > ROWS[:, :4].sum(axis=1).mean()).astype(int)
RULES = ("youden", "sensitivity=.95", "specificity=.99", "cost=5:1", "0.3")
ADAPTATIONS = (None, (-1.5, 0.7))
HEADS = {
    "logistic": LogisticRegression(),
    "discriminant": LinearDiscriminantAnalysis(),
    "mlp": MLPClassifier((8,), max_iter=3000, random_state=0),
    "bayes": GaussianNB(),
    "neighbours": KNeighborsClassifier(9),
    "forest": RandomForestClassifier(20, random_state=0),
    "searched": GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {}, cv=2),
    "fixed threshold": FixedThresholdClassifier(LogisticRegression(), threshold=0.2),
    "tuned threshold": TunedThresholdClassifierCV(LogisticRegression(), cv=2),
    **{f"balanced by {method}": BalancedClassifier(LogisticRegression(), method, random_state=0)
       for method in ("none", "weights", "undersample")},
    **{f"calibrated {method}": CalibratedClassifierCV(LinearSVC(), method=method, cv=2) for method in METHODS},
    "calibrated kernel": CalibratedClassifierCV(SVC(), cv=2),
    "vote": VotingClassifier([("a", LogisticRegression()), ("b", GaussianNB())], voting="soft"),
    "vote by weights": VotingClassifier(
        [("a", make_pipeline(StandardScaler(), LogisticRegression())), ("b", "drop"), ("c", KNeighborsClassifier(9)),
         ("d", CalibratedClassifierCV(LinearSVC(), cv=2))], voting="soft", weights=[3, 9, 1, 2],
    ),
    "stack": StackingClassifier(
        [("a", BalancedClassifier(LogisticRegression())), ("b", "drop"), ("c", GaussianNB())], cv=2
    ),
    "stack of decision functions": StackingClassifier(
        [("a", LinearSVC()), ("b", SVC()), ("c", ExtraTreesClassifier(9, random_state=0))], cv=2
    ),
    "stack with its input": StackingClassifier(
        [("a", LogisticRegression())], make_pipeline(StandardScaler(), LogisticRegression()), cv=2, passthrough=True
    ),
    "calibrated stack": CalibratedClassifierCV(
        StackingClassifier([("a", LinearSVC()), ("b", GaussianNB())], LogisticRegression(), cv=2), cv=2
    ),
}  # fmt: skip


def found_by_onnx(model):
    """Score and decision of NEW, which stand for the features that a network gives."""
    kinds, helper = {"score": onnx.TensorProto.DOUBLE, "decision": onnx.TensorProto.INT64}, onnx.helper
    rows = helper.make_tensor_value_info("network_0", onnx.TensorProto.FLOAT, ["n", 12])
    ends = [helper.make_tensor_value_info(name, kind, ["n"]) for name, kind in kinds.items()]
    content = translated(model).graph.model([rows], ends).SerializeToString()
    return runtime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(list(kinds), {"network_0": NEW})


@pytest.fixture(scope="module", params=HEADS)
def fitted_head(request):
    return HEADS[request.param].fit(ROWS.astype(float), LABELS)


@pytest.mark.parametrize("method", [None, *METHODS])
def test_scores_and_decisions_are_those_of_the_model(fitted_head, method):
    pipeline = make_pipeline(ImageLoader(24), means(), fitted_head)
    scores = fitted_head.predict_proba(NEW.astype(float))[:, 1]
    known = pd.DataFrame({"score": fitted_head.predict_proba(ROWS)[:, 1], "target": LABELS})
    calibrator = None if method is None else fit_calibrator(known, method)
    for recalibration in ADAPTATIONS:
        model = CXRModel(pipeline, calibrator=calibrator, recalibration=recalibration)
        wanted = model.probabilities(scores)
        for rule in RULES:
            model.threshold = find_threshold(parse_rule(rule), TARGET, wanted)
            found, decisions = found_by_onnx(model)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
            is_clear = np.abs(wanted - model.threshold) > 1e-5
            decided = model.decide(np.column_stack([1 - wanted, wanted]))
            np.testing.assert_array_equal(decisions[is_clear], decided[is_clear])
            assert is_clear.any()


def branch(**options):
    loader = options.pop("loader", None) or ImageLoader(24)
    return make_pipeline(loader, means(), StandardScaler(), LogisticRegression(**options))


@pytest.mark.parametrize(
    "model",
    [
        VotingClassifier([("a", branch()), ("b", branch(C=0.01))], voting="soft", weights=[1, 3]),
        StackingClassifier([("a", branch()), ("b", BalancedClassifier(branch(C=0.01), "undersample"))], cv=2),
        StackingClassifier([("a", branch())], make_pipeline(StandardScaler(), LogisticRegression()), cv=2),
        CalibratedClassifierCV(branch(), cv=2),
        CalibratedClassifierCV(StackingClassifier([("a", branch())], LogisticRegression(), cv=2), cv=2),
        make_pipeline(
            FeatureUnion([("a", branch()[:-1]), ("b", branch()[:2])]), StandardScaler(), LogisticRegression()
        ),
        make_pipeline(
            ImageLoader(24), ImageAugmenter(random_state=0),
            StackingClassifier([("a", branch()[1:]), ("b", branch(C=0.01)[1:])], cv=2),
        ),
        make_pipeline(ImageLoader(24), AugmentedClassifier(branch()[1:], random_state=0)),
    ],
    ids=["vote", "stack", "stack of one", "calibrated", "calibrated stack", "union", "after one loader", "augmented"],
)  # fmt: skip
def test_compositions_of_whole_pipelines_have_one_network(stand_in, images, tmp_path, model):  # noqa: F811
    model = CXRModel(make_pipeline(model).fit(*images), 0.4)
    export_onnx(model, tmp_path / "m.onnx")
    grey = np.asarray(ImageLoader(24).fit_transform(images[0]))[..., 0]
    session = runtime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    score, decision = session.run(["score", "decision"], {"images": grey})
    wanted = model.predict_proba(images[0])
    np.testing.assert_allclose(score, wanted[:, 1], rtol=0, atol=1e-5)
    np.testing.assert_array_equal(decision, model.decide(wanted))
    kinds = [node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node]
    assert kinds.count("ReduceMean") == 1


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            StackingClassifier([("a", branch()), ("b", branch(loader=ImageLoader(32)))], cv=2),
            "ImageLoader cannot be exported to ONNX: another one of the model loads images differently",
        ),
        (
            StackingClassifier([("a", branch())], cv=2, stack_method="predict"),
            "StackingClassifier cannot be exported to ONNX: it takes only decisions from its Pipeline",
        ),
        (
            make_pipeline(ImageLoader(24), AugmentedClassifier(branch()[1:], tta=True)),
            "AugmentedClassifier cannot be exported to ONNX: with tta=True it draws views",
        ),
    ],
    ids=["two sizes", "decisions", "views"],
)
def test_what_cannot_be_composed_is_said_before_work_begins(images, tmp_path, model, said):  # noqa: F811
    with pytest.raises(InputError, match=said):
        export_onnx(make_pipeline(model).fit(*images), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_vote_without_probabilities_is_refused():
    vote = VotingClassifier([("a", LogisticRegression())]).fit(ROWS, LABELS)
    with pytest.raises(InputError, match="VotingClassifier cannot be exported to ONNX: with voting='hard'"):
        translated(CXRModel(make_pipeline(ImageLoader(24), means(), vote)))


@pytest.mark.keras
def test_a_vote_of_a_trained_and_a_frozen_network(stand_in, images, tmp_path):  # noqa: F811
    scratch = ScratchCNNClassifier((4, 8), epochs=1, early_stopping=False, precision="float32", random_state=0)
    parts = [("scratch", scratch), ("frozen", branch()[1:])]
    model = CXRModel(make_pipeline(ImageLoader(24), VotingClassifier(parts, voting="soft")).fit(*images))
    export_onnx(model, tmp_path / "m.onnx")
    score, _ = scored(tmp_path / "m.onnx", model, images[0])
    np.testing.assert_allclose(score, model.predict_proba(images[0])[:, 1], rtol=0, atol=1e-5)
