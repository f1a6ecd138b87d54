import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from cxr_sklearn import ImageLoader, compare
from cxr_sklearn.evaluation.probes import occlusion_facts, permutation_facts
from cxr_sklearn.evaluation.tables import read_table
from cxr_sklearn.exceptions import DataError, InputError
from cxr_sklearn.images.changes import ImageOccluder
from cxr_sklearn.study.probes import occluded, occluded_rows, permuted_labels, permuted_rows

from ..conftest import write_image


def frame(n_patients=120, seed=0):
    rng = np.random.default_rng(seed)
    patients = np.repeat([f"p{i:03}" for i in range(n_patients)], rng.integers(1, 4, n_patients))
    target = pd.Series(patients).str[1:].astype(int) % 3 > 0
    paths = [f"{i}.png" for i in range(len(patients))]
    return pd.DataFrame({"path": paths, "patient": patients, "split": "train", "target": target.astype(int)})


def test_labels_are_dealt_out_by_patient():
    train = frame()
    dealt = permuted_labels(train, 0)
    n_labels = dealt.groupby(train["patient"]).nunique()
    assert n_labels.max() == 1
    first = train.groupby("patient")["target"].first()
    assert dealt.groupby(train["patient"]).first().sum() == first.sum()
    assert 0.3 < (dealt == train["target"]).mean() < 0.8
    assert not dealt.equals(permuted_labels(train, 1))
    assert dealt.equals(permuted_labels(train, 0))


class ByName:
    """Features of a path: noise and, if there is a leak, the identity of the patient."""

    def __init__(self, train, leak):
        rng = np.random.default_rng(1)
        noise = pd.DataFrame(rng.normal(size=(len(train), 3)), index=train["path"])
        identity = train["patient"].str[1:].astype(float).to_numpy() * 100
        self.rows = noise.assign(leak=identity if leak else 0.0)

    def __call__(self, paths):
        return self.rows.loc[list(paths)].to_numpy()


def test_nothing_is_learnt_from_permuted_labels():
    train = frame()
    model = make_pipeline(FunctionTransformer(ByName(train, leak=True)), KNeighborsClassifier(1))
    rows = permuted_rows("x", model, train, random_state=0, verbose=0)
    assert 0.4 * len(train) < len(rows) < 0.6 * len(train)
    facts = permutation_facts(rows)
    low, high = facts["chance95"]
    assert low < 0.5 < high
    assert facts["p"] > 0.02
    assert facts["passed"]


def test_a_patient_on_both_sides_of_a_split_is_found_out():
    """If a split divides patients, what is learnt from one image holds for the others."""
    train = frame()
    model = make_pipeline(FunctionTransformer(ByName(train, True)), KNeighborsClassifier(1))
    dealt = train.assign(target=permuted_labels(train, 0))
    half = train.groupby("patient").cumcount() == 0
    scores = model.fit(dealt["path"][half], dealt["target"][half]).predict_proba(dealt["path"][~half])[:, 1]
    facts = permutation_facts(dealt[~half].assign(score=scores))
    assert facts["roc_auc"] > 0.95
    assert facts["p"] < 0.001
    assert not facts["passed"]


def test_chance_is_where_chance_ends():
    """95 of 100 trainings on permuted labels are in the interval, though some patients have many similar images."""
    inside, p = [], []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(120), np.where(np.arange(120) % 10 == 0, 15, 1))
        train = pd.DataFrame({"path": np.arange(len(patients)), "patient": patients, "split": "train",
                              "target": patients % 2})  # fmt: skip
        features = rng.normal(size=(120, 5))[patients] + rng.normal(0, 0.1, (len(patients), 5))
        model = make_pipeline(FunctionTransformer(features.__getitem__), LogisticRegression())
        facts = permutation_facts(permuted_rows("x", model, train, random_state=seed, verbose=0))
        inside.append(facts["chance95"][0] <= facts["roc_auc"] <= facts["chance95"][1])
        p.append(facts["p"])
    assert 0.91 <= np.mean(inside) <= 0.98
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09


@pytest.mark.parametrize("part", ["border", "centre"])
def test_half_of_the_image_is_hidden(part):
    images = np.random.default_rng(0).integers(0, 256, (2, 100, 140), dtype=np.uint8)
    batch = ImageOccluder(part).fit_transform(images)
    hidden = np.asarray(batch)[..., 0]
    changed = hidden != images
    assert changed.mean() == pytest.approx(0.5, abs=0.02)
    assert changed[:, 50, 70].all() == (part == "centre")
    assert changed[:, 5].mean() > 0.9 if part == "border" else not changed[:, 5].any()
    assert np.unique(hidden[0][changed[0]]).tolist() == [round(images[0].mean())]
    assert batch.keys != ImageOccluder("centre" if part == "border" else "border").transform(images).keys


def test_an_unknown_part():
    with pytest.raises(InputError, match="must be one of"):
        ImageOccluder("lung").transform(np.zeros((1, 9, 9), dtype=np.uint8))


class CentreOnly(ClassifierMixin, BaseEstimator):
    """Calls an image pneumonia if its centre is bright."""

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, X):
        p = np.asarray(X)[:, 8:12, 8:12].mean(axis=(1, 2, 3)) / 255
        return np.column_stack([1 - p, p])


@pytest.fixture
def test_images(tmp_path):
    rows = []
    for i in range(60):
        path = write_image(tmp_path / f"{i}.png", seed=i, size=(20, 20))
        rows.append((path, f"p{i}", "test"))
    return pd.DataFrame(rows, columns=["path", "patient", "split"])


def test_occlusion_shows_where_a_classifier_looks(test_images):
    model = Pipeline([("load", ImageLoader(size=20)), ("look", CentreOnly())]).fit(test_images["path"], None)
    score = model.predict_proba(test_images["path"])[:, 1]
    test = test_images.assign(target=(score > np.median(score)).astype(int), score=score)
    rows = occluded_rows("x", model, test, verbose=0)
    facts = occlusion_facts(test, rows)
    assert facts["border"] == {"roc_auc": 1, "change": 0, "ci95": None}
    centre = facts["centre"]
    assert centre["roc_auc"] < 0.8
    assert centre["change"] == pytest.approx(centre["roc_auc"] - 1)
    assert centre["ci95"][0] < centre["change"] < centre["ci95"][1] < 0
    with pytest.raises(DataError, match="lacks images of the probe 'border'; `compare --sanity`"):
        occlusion_facts(test, rows.iloc[1:])


def test_a_pipeline_that_loads_its_images_itself_is_left_alone(test_images):
    model = make_pipeline(FunctionTransformer(), LogisticRegression())
    assert occluded(model, "border") is None
    rows = occluded_rows("x", model, test_images.assign(target=1), verbose=0)
    assert rows.empty
    assert rows.columns.tolist() == ["path", "patient", "split", "fold", "pipeline", "target", "score", "probe"]


def test_sanity_checks_are_kept_and_reported(embedded_frame, tmp_path):
    frame, store = embedded_frame
    metrics = compare(frame, ["shortcuts"], out=tmp_path, store=store, cv=3, sanity=True)
    probes = read_table(tmp_path, "probes")
    assert set(probes["probe"]) == {"permuted"}
    assert 0.3 < len(probes) / (frame["split"] == "train").sum() < 0.7
    facts = metrics["pipelines"]["shortcuts"]["sanity"]
    assert facts["permuted"]["roc_auc"] == roc_auc_score(probes["target"], probes["score"])
    assert facts["occlusion"] == {}
    page = (tmp_path / "report.html").read_text()
    assert "AUC on permuted labels" in page
    assert "loads its images itself" in page
