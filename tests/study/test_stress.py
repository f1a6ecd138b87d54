import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer

from cxr_sklearn import BalancedClassifier, ImageLoader, stress_test
from cxr_sklearn.evaluation.bootstrap import bootstrap, interval
from cxr_sklearn.evaluation.probes import stress_facts
from cxr_sklearn.evaluation.tables import score_rows
from cxr_sklearn.exceptions import DataError, InputError, ModelError
from cxr_sklearn.images.changes import (
    CHANGES,
    Blur,
    Collimation,
    Exposure,
    Gamma,
    ImageStresser,
    InTurn,
    Noise,
    Rotation,
    Shrinking,
)
from cxr_sklearn.models.calibration import fit_calibrator
from cxr_sklearn.models.model import CXRModel
from cxr_sklearn.study.probes import stressed, stressed_rows, stressed_validation
from cxr_sklearn.study.search import Fitted

from ..conftest import write_image


def flat(level, shape=(10, 20)):
    return np.full(shape, level, dtype=np.uint8)


@pytest.mark.parametrize(
    ("change", "before", "after"),
    [
        # 0.65 * (grey - 127.5) + 127.5 + 45
        ("bright", [0, 100, 127, 128, 200, 255], [90, 155, 172, 173, 220, 255]),
        # 255 * (grey / 255) ** 1.8
        ("gamma", [0, 100, 128, 200, 255], [0, 47, 74, 165, 255]),
    ],
)
def test_grey_levels(change, before, after):
    assert CHANGES[change](np.array([before], dtype=np.uint8)).tolist() == [after]


def test_blurred_keeps_what_is_coarse_and_loses_what_is_fine():
    coarse = np.repeat(np.repeat(flat(0, (1, 2)) + np.array([[0, 200]], dtype=np.uint8), 160, axis=0), 80, axis=1)
    assert CHANGES["blurred"](coarse)[:, [0, 159]].tolist() == [[0, 200]] * 160
    fine = np.indices((160, 160)).sum(axis=0) % 2 * np.uint8(200)
    inner = CHANGES["blurred"](fine.astype(np.uint8))[8:-8, 8:-8]
    assert np.abs(inner.astype(int) - 100).max() <= 1


def test_collimated_is_darker_above_brighter_below_and_black_at_the_sides():
    changed = CHANGES["collimated"](flat(100, (11, 20)))
    assert changed[[0, 5, 10], 10].tolist() == [60, 100, 140]
    assert (changed[:, [0, 1, 18, 19]] == 0).all()
    assert (changed[:, 2:18] > 0).all()
    # Levels end at black and white.
    assert CHANGES["collimated"](flat(20, (11, 20)))[0, 10] == 0
    assert CHANGES["collimated"](flat(240, (11, 20)))[10, 10] == 255


def test_tilted_turns_counter_clockwise_and_leaves_black_corners():
    grey = flat(0, (101, 101))
    grey[8:13, 48:53] = 255  # 40 pixels above the centre
    rows, columns = np.nonzero(CHANGES["tilted"](grey) > 127)
    angle = np.deg2rad(10)
    assert rows.mean() == pytest.approx(50 - 40 * np.cos(angle), abs=0.5)
    assert columns.mean() == pytest.approx(50 - 40 * np.sin(angle), abs=0.5)
    white = CHANGES["tilted"](flat(255, (101, 101)))
    assert white[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [0] * 4
    assert white[50, 50] == 255


def test_noise_is_coarse_seeded_and_as_strong_as_it_says():
    drawn = np.random.default_rng(0).normal(0, 18, (112, 112))
    noisy = CHANGES["noisy"](flat(128, (112, 112)))
    assert noisy.tolist() == np.clip(np.rint(128 + drawn.astype(np.float32)), 0, 255).tolist()
    assert noisy.std() == pytest.approx(18, rel=0.02)
    double = CHANGES["noisy"](flat(128, (224, 224)))
    assert double.tolist() == np.repeat(np.repeat(noisy, 2, axis=0), 2, axis=1).tolist()
    assert Noise(18, 112, 1)(flat(128)).tolist() != Noise(18, 112, 0)(flat(128)).tolist()


def test_small_is_in_the_middle_of_black():
    small = CHANGES["small"](flat(255, (100, 50)))  # 82 by 41
    assert (small[9:91, 4:45] == 255).all()
    assert small.sum() == 82 * 41 * 255


def test_combined_is_four_in_turn():
    grey = np.random.default_rng(0).integers(0, 256, (90, 130), dtype=np.uint8)
    wanted = grey
    for name in ("tilted", "bright", "blurred", "collimated"):
        wanted = CHANGES[name](wanted)
    assert CHANGES["combined"](grey).tolist() == wanted.tolist()
    assert wanted.tolist() != CHANGES["collimated"](grey).tolist()


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (3, 200), (260, 90)])
def test_images_of_any_size(name, shape):
    grey = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    grey.flags.writeable = False  # as Pillow returns them
    before = grey.copy()
    changed = CHANGES[name](grey)
    assert (changed.shape, changed.dtype) == (shape, np.uint8)
    assert changed.tolist() == CHANGES[name](grey).tolist()
    assert grey.tolist() == before.tolist()


def test_a_change_says_all_of_what_it_does():
    own = {"Blur": Blur, "Collimation": Collimation, "Exposure": Exposure, "Gamma": Gamma, "InTurn": InTurn,
           "Noise": Noise, "Rotation": Rotation, "Shrinking": Shrinking}  # fmt: skip
    assert len({repr(change) for change in CHANGES.values()}) == len(CHANGES) == 8
    for change in CHANGES.values():
        assert eval(repr(change), own) == change


def test_keys_follow_the_change_in_every_process(tmp_path):
    path = write_image(tmp_path / "a.png", size=(20, 30))
    code = (
        "import json, sys\nfrom cxr_sklearn import ImageLoader\n"
        "from cxr_sklearn.images.changes import ImageStresser, CHANGES\n"
        "batch = ImageLoader(size=8).transform([sys.argv[1]])\n"
        "print(json.dumps({n: ImageStresser(c).transform(batch).keys[0].hex() for n, c in CHANGES.items()}))"
    )
    there = json.loads(subprocess.check_output([sys.executable, "-c", code, path], text=True))
    batch = ImageLoader(size=8).transform([path])
    here = {name: ImageStresser(change).transform(batch).keys[0].hex() for name, change in CHANGES.items()}
    assert here == there
    assert len({batch.keys[0].hex(), *here.values()}) == 9


def test_the_step_takes_images_of_an_image_loader_only():
    step = ImageStresser(CHANGES["gamma"])
    assert clone(step).change == CHANGES["gamma"]
    with pytest.raises(InputError, match="load them with an ImageLoader"):
        step.fit_transform(np.zeros((2, 9, 9), dtype=np.uint8))


class Brightness(ClassifierMixin, BaseEstimator):
    """Calls an image pneumonia if its centre is bright; counts its fits."""

    fitted_on: list = []

    def fit(self, X, y, sample_weight=None):
        self.classes_ = np.array([0, 1])
        self.fitted_on.append(X)
        return self

    def predict_proba(self, X):
        grey = np.asarray(X)
        p = grey[:, 2:-2, 2:-2].mean(axis=(1, 2, 3)) / 255
        return np.column_stack([1 - p, p])


@pytest.fixture
def images(tmp_path):
    """90 images of 45 patients in train, val and test; brighter ones are more likely to be pneumonia."""
    rows = []
    for i in range(90):
        grey = np.random.default_rng(i).integers(0, 256, (30, 24)) * 0.5 + (60 if i // 2 % 2 else 40)
        Image.fromarray(grey.astype(np.uint8)).save(tmp_path / f"{i}.png")
        rows.append((str(tmp_path / f"{i}.png"), f"p{i // 2}", ("train", "val", "test")[i // 2 % 3], i // 2 % 2))
    return pd.DataFrame(rows, columns=["path", "patient", "split", "target"])


def simple():
    return Pipeline([("load", ImageLoader(size=16, crop=0.8)), ("classify", Brightness())])


def nested():
    return Pipeline([("no", "passthrough"), ("both", simple())])


def balanced_inside():
    return Pipeline([("load", ImageLoader(size=16, crop=0.8)), ("all", BalancedClassifier(Brightness(), "weights"))])


def balanced_around():
    return Pipeline([("no", None), ("all", BalancedClassifier(simple(), "undersample", random_state=0))])


@pytest.mark.parametrize("build", [simple, nested, balanced_inside, balanced_around])
@pytest.mark.parametrize("is_calibrated", [False, True])
def test_a_stressed_pipeline_sees_the_files_changed(images, tmp_path, build, is_calibrated):
    """As if the file held the changed image: the change comes before cropping and resizing."""
    model = build().fit(images["path"], images["target"])
    if is_calibrated:
        score = model.predict_proba(images["path"])[:, 1]
        model = CXRModel(model, calibrator=fit_calibrator(images.assign(score=score), "sigmoid"))
    plain = model.predict_proba(images["path"][:6])
    for name, change in CHANGES.items():
        paths = []
        for i, path in enumerate(images["path"][:6]):
            paths.append(str(tmp_path / f"{name}-{i}.png"))
            Image.fromarray(change(np.asarray(Image.open(path)))).save(paths[-1])
        found = stressed(model, change).predict_proba(images["path"][:6])
        assert found.tolist() == model.predict_proba(paths).tolist()
        assert found.tolist() != plain.tolist()
    assert model.predict_proba(images["path"][:6]).tolist() == plain.tolist()  # it is unchanged


def loads_itself():
    features = FunctionTransformer(lambda paths: np.zeros((len(paths), 9, 9, 3)))
    return make_pipeline(features, BalancedClassifier(Brightness(), "weights"))


def test_rows(images):
    val = images[images["split"] == "val"]
    model = simple().fit(images["path"], images["target"])
    rows = stressed_rows("x", model, val, verbose=0)
    assert rows.columns.tolist() == ["path", "patient", "split", "fold", "pipeline", "target", "score", "probe"]
    assert rows["probe"].unique().tolist() == [f"stress:{name}" for name in CHANGES]
    for name, part in rows.groupby("probe"):
        assert part["path"].tolist() == val["path"].tolist()
        wanted = stressed(model, CHANGES[name.removeprefix("stress:")]).predict_proba(val["path"])[:, 1]
        assert part["score"].tolist() == pytest.approx(wanted)
    held_out = stressed_rows("x", model, val, 0, fold=0)
    clean = held_out[held_out["probe"] == "stress:clean"]
    assert clean["score"].tolist() == model.predict_proba(val["path"])[:, 1].tolist()
    assert (held_out["fold"] == 0).all()
    assert len(held_out) == 9 * len(val)
    itself = loads_itself().fit(images["path"], images["target"])
    assert stressed_rows("x", itself, val, verbose=0).empty
    assert stressed_rows("x", itself, val, verbose=0, fold=0).empty


def run_of(images, n_val):
    """A frame with `n_val` validation images, half of them pneumonia, its scores, and two folds of training images."""
    val = images[images["split"] == "val"]
    halves = [pd.concat([part] * n_val)[: n_val // 2] for _, part in val.groupby("target")]
    frame = pd.concat([images[images["split"] != "val"], *halves], ignore_index=True)
    parts = [score_rows(part, "x", np.full(len(part), 0.5), 0 if split == "train" else None)
             for split, part in frame.groupby("split")]  # fmt: skip
    train = np.arange((frame["split"] == "train").sum())
    return frame, pd.concat(parts), [(train[10:], train[:10]), (train[:10], train[10:])]


@pytest.mark.parametrize(("n_val", "n_folds"), [(60, 2), (58, 2), (58, 1)])
def test_validation_where_it_decides_and_else_the_first_fold(images, n_val, n_folds):
    for path in images.loc[images["split"] == "test", "path"]:
        Path(path).write_text("no image")  # test images are not used: they cannot even be read
    model = simple().fit(images["path"], images["target"])
    frame, scores, folds = run_of(images, n_val)
    Brightness.fitted_on.clear()
    rows = stressed_validation("x", Fitted(simple(), model, None, scores, {}), frame, folds[:n_folds], 0)
    if n_val == 60:  # 30 of each class
        assert Brightness.fitted_on == []
        assert set(rows["split"]) == {"val"}
        assert set(rows["path"]) == set(frame.loc[frame["split"] == "val", "path"])
        assert "stress:clean" not in set(rows["probe"])
        return
    train = frame[frame["split"] == "train"]
    assert set(rows["path"]) == set(train["path"].iloc[:10])
    assert set(rows["split"]) == {"train"}
    assert "stress:clean" in set(rows["probe"])
    # With one fold the final model has not seen its images either.
    assert [batch.name(0) for batch in Brightness.fitted_on] == [train["path"].iloc[10]] * (n_folds - 1)


def test_no_fit_is_for_nothing(images):
    model = loads_itself().fit(images["path"], images["target"])
    frame, scores, folds = run_of(images, 10)
    Brightness.fitted_on.clear()
    rows = stressed_validation("x", Fitted(loads_itself(), model, None, scores, {}), frame, folds, 0)
    assert rows.empty
    assert Brightness.fitted_on == []


@pytest.fixture
def tables(images):
    """Rows of scores.csv and probes.csv of one pipeline."""
    val = images[images["split"] == "val"]
    model = simple().fit(images["path"], images["target"])
    probes = stressed_rows("x", model, val, verbose=0)
    # Half of the scores carry no information, so these classes overlap.
    noise = np.random.default_rng(0).random(len(probes))
    probes["score"] = np.where(np.arange(len(probes)) % 2, probes["score"], noise)
    return score_rows(val, "x", model.predict_proba(val["path"])[:, 1]), probes.reset_index(drop=True)


def figures(rows, threshold):
    called = rows["score"] >= threshold
    return {
        "roc_auc": sk.roc_auc_score(rows["target"], rows["score"]),
        "recall": sk.recall_score(rows["target"], called),
        "specificity": sk.recall_score(rows["target"], called, pos_label=0),
        "called_pneumonia": called.mean(),
    }


@pytest.mark.parametrize("source", ["val", "held-out"])
def test_facts(tables, source):
    scores, probes = tables
    threshold = float(scores["score"].median())
    if source == "held-out":  # the clean scores are among the probes; validation images are not used
        probes = pd.concat([scores.assign(probe="stress:clean"), probes])
        scores = scores[:3].assign(score=0.5)
    facts = stress_facts(scores, probes, threshold)
    clean_rows = tables[0]
    assert (facts["source"], facts["n_images"], facts["n_patients"]) == (source, len(clean_rows), 15)
    clean = figures(clean_rows, threshold)
    by_name = dict(list(tables[1].groupby("probe")))
    drawn = bootstrap(clean_rows["patient"], clean_rows["target"],
                      {"clean": clean_rows["score"]} | {name: rows["score"] for name, rows in by_name.items()},
                      dict.fromkeys(["clean", *by_name], 0.5))  # fmt: skip
    before = drawn["clean"].metrics["roc_auc"]
    assert facts["clean"].pop("ci95") == pytest.approx(interval(before, clean["roc_auc"]))
    assert facts["clean"] == pytest.approx(clean)
    assert list(facts["changes"]) == list(CHANGES)
    for name, found in facts["changes"].items():
        wanted = figures(by_name[f"stress:{name}"], threshold)
        change = wanted["roc_auc"] - clean["roc_auc"]
        ends = interval(drawn[f"stress:{name}"].metrics["roc_auc"] - before, change)
        assert found.pop("ci95") == pytest.approx(ends)
        assert found == pytest.approx(wanted | {"change": change})
        assert ends[0] <= change <= ends[1]
    mean = facts["mean"]
    for key in ("roc_auc", "recall", "specificity", "called_pneumonia", "change"):
        assert mean[key] == pytest.approx(np.mean([found[key] for found in facts["changes"].values()]))
    of_means = np.mean([drawn[name].metrics["roc_auc"] for name in by_name], axis=0) - before
    assert mean["ci95"] == pytest.approx(interval(of_means, mean["change"]))


def test_the_order_of_rows_does_not_matter(tables):
    scores, probes = tables
    assert stress_facts(scores, probes.sample(frac=1, random_state=0), 0.4) == stress_facts(scores, probes, 0.4)


def test_nothing_tried_and_images_that_are_missing(tables):
    scores, probes = tables
    assert stress_facts(scores, probes[:0], 0.5) is None
    assert stress_facts(scores, probes.assign(probe="border"), 0.5) is None
    with pytest.raises(DataError, match="lacks images of the probe 'gamma'; `compare --stress`"):
        stress_facts(scores, probes.drop(index=probes.index[probes["probe"] == "stress:gamma"][3]), 0.5)


def test_stress_test(images):
    model = simple().fit(images["path"], images["target"])
    val = images[images["split"] == "val"]
    table = stress_test(model, val, threshold=0.4)
    assert table.index.name == "change"
    assert table.index.tolist() == ["clean", *CHANGES]
    assert (table.dtypes == np.float64).all()
    for name, found in table.iterrows():
        changed = model if name == "clean" else stressed(model, CHANGES[name])
        wanted = figures(val.assign(score=changed.predict_proba(val["path"])[:, 1]), 0.4)
        assert found.to_dict() == pytest.approx(wanted)
    pd.testing.assert_frame_equal(stress_test(model, val, ["noisy", "gamma"], threshold=0.4),
                                  table.loc[["clean", "noisy", "gamma"]])  # fmt: skip
    assert stress_test(model, val, "gamma").index.tolist() == ["clean", "gamma"]
    own = stress_test(model, val, {"darker": Gamma(1.8), "black": Exposure(0, -200)}, threshold=0.4)
    assert own.loc["darker"].equals(table.loc["gamma"].rename("darker"))
    assert own.loc["black"].to_dict() == {"roc_auc": 0.5, "recall": 0, "specificity": 1, "called_pneumonia": 0}


@dataclass(frozen=True)
class Masked:
    """Its ``repr`` has dots in place of most of the mask."""

    mask: np.ndarray

    def __call__(self, grey):
        return grey


@dataclass(frozen=True)
class Returning:
    """Returns something other than a grey image, or fails."""

    kind: str

    def __call__(self, grey):
        return grey.tolist() if self.kind == "list" else grey.astype(self.kind)


@dataclass(frozen=True)
class InPlace:
    """Writes into its input."""

    def __call__(self, grey):
        grey[:4] = 255
        return grey


def test_a_change_sees_all_pixels_of_a_jpeg(tmp_path):
    seen = []

    @dataclass(frozen=True)
    class Seeing:
        def __call__(self, grey):
            seen.append(grey.shape)
            return grey

    path = tmp_path / "large.jpeg"
    Image.fromarray(np.zeros((400, 600), dtype=np.uint8)).save(path)
    np.asarray(ImageLoader(size=16, crop=0.5).transform([str(path)]).changed(Seeing()))
    assert seen == [(400, 600)]


def test_a_change_may_write_into_its_image(images):
    model = simple().fit(images["path"], images["target"])
    val = images[images["split"] == "val"]
    first, second = (stress_test(model, val, {"mine": InPlace()}) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"changes": ["gamma", "upside down"]}, InputError, r"changes=\['upside down'\] must be among bright, gamma"),
        ({"changes": {"clean": Gamma(2)}}, InputError, "not be called 'clean'"),
        ({"changes": {"mine": 3}}, InputError, "'mine' must be a callable"),
        ({"changes": {"mine": lambda grey: grey}}, InputError, "make the change a frozen dataclass"),
        ({"changes": {"mine": Masked(np.zeros((200, 200)))}}, InputError, "must describe it completely"),
        (
            {"changes": {"mine": Returning("float32")}},
            InputError,
            r"must return grey levels, uint8 \(H, W\), not float32",
        ),
        ({"changes": {"mine": Returning("bool")}}, InputError, "not bool"),
        ({"changes": {"mine": Returning("list")}}, InputError, "not list"),
        ({"changes": {"mine": Returning("oops")}}, InputError, r"Returning\(kind='oops'\) failed: TypeError"),
        ({"threshold": -0.5}, InputError, "threshold=-0.5 must be a finite number of at least 0"),
        ({"frame": pd.DataFrame({"path": ["a"]})}, DataError, r"lacks the columns \['target'\]"),
        ({"frame": pd.DataFrame({"path": ["a"], "target": [1]})}, DataError, "images of both classes"),
        ({"model": simple()}, NotFittedError, "not fitted"),
        ({"model": loads_itself().fit(["a", "b"], [0, 1])}, InputError, "has no ImageLoader"),
    ],
)
def test_what_is_refused(images, options, error, message):
    given = {"model": simple().fit(images["path"], images["target"]), "frame": images, **options}
    with pytest.raises(error, match=message):
        stress_test(given.pop("model"), given.pop("frame"), **given)


def test_a_model_of_other_classes(images):
    model = simple().fit(images["path"], images["target"])
    model[-1].classes_ = np.array(["n", "p"])
    with pytest.raises(ModelError, match="classes are"):
        stress_test(model, images)
