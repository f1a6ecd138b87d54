import numpy as np
import pandas as pd
import pytest

from cxr_sklearn.evaluation.bootstrap import bootstrap, wilson
from cxr_sklearn.evaluation.subgroups import elsewhere, groups_of, list_errors, predictive_values, rates_by_group


@pytest.fixture
def images():
    n = 40
    target = np.arange(n) % 2
    return pd.DataFrame({
        "path": [f"test/{i}.jpeg" for i in range(n)],
        "split": "test",
        "patient": [f"p{i // 4}" for i in range(n)],
        "target": target,
        "subtype": np.where(target == 0, None, np.where(np.arange(n) < 20, "bacteria", "virus")),
        "series": np.where(target == 1, None, "IM"),
        "brightness": np.arange(n, dtype=float),
    })  # fmt: skip


def scored(images):
    """Bacterial pneumonia is found, viral is missed, every fourth normal image is called pneumonia."""
    score = np.where(images["subtype"] == "bacteria", 0.9, np.where(images["subtype"] == "virus", 0.2, 0.1))
    score = np.where((images["target"] == 0) & (images.index % 8 == 0), 0.8, score)
    return images[["path", "patient", "target"]].assign(score=score)


def test_groups_and_their_rates(images):
    rows = rates_by_group(scored(images), groups_of(images), 0.5)
    found = {(row["attribute"], row["group"], row["metric"]): row for row in rows}
    bacteria, virus = found["subtype", "bacteria", "recall"], found["subtype", "virus", "recall"]
    assert (bacteria["value"], bacteria["images"], bacteria["patients"]) == (1, 10, 5)
    assert (bacteria["ci95"], bacteria["method"]) == (wilson(10, 10), "wilson")
    assert (virus["value"], virus["ci95"]) == (0, wilson(0, 10))
    series = found["series", "IM", "specificity"]
    assert (series["value"], series["images"], series["method"]) == (0.75, 20, "bootstrap")
    assert series["ci95"][0] < 0.75 < series["ci95"][1]
    quartiles = {key for key in found if key[0] == "brightness"}
    assert quartiles == {("brightness", q, m) for q in "1234" for m in ("recall", "specificity")}
    assert found["brightness", "1", "recall"]["value"] == 1
    assert found["brightness", "4", "recall"]["value"] == 0


def test_the_darkest_quarter_is_the_first(images):
    groups = groups_of(images.sample(frac=1, random_state=0))
    assert groups.loc["test/0.jpeg", "brightness"] == "1"
    assert groups.loc["test/39.jpeg", "brightness"] == "4"
    assert groups["brightness"].value_counts().tolist() == [10] * 4


def test_images_without_a_group(images):
    bare = images.assign(subtype=None, series=None, brightness=7.0)
    assert rates_by_group(scored(images), groups_of(bare), 0.5) == []
    assert rates_by_group(scored(images), groups_of(images[:0]), 0.5) == []


def test_every_error_is_listed_the_worst_first():
    one = pd.DataFrame({
        "path": list("abcdefghij"),
        "patient": "p",
        "split": ["test"] * 9 + ["val"],
        "target": [1, 1, 1, 1, 1, 1, 0, 0, 0, 0],
        "score": [0.4, 0.1, 0.3, 0.2, 0.05, 0.9, 0.7, 0.2, 0.8, 0.9],
    })  # fmt: skip
    scores = pd.concat([one.assign(pipeline="second"), one.assign(pipeline="first")])
    images = pd.DataFrame({"path": list("abcdefghij"), "subtype": ["virus"] * 5 + [None] * 5})
    found = list_errors(scores, images, {"second": 0.5, "first": 0.75})
    wanted = {("second", "false_negatives"): "ebdca", ("second", "false_positives"): "ig",
              ("first", "false_negatives"): "ebdca", ("first", "false_positives"): "i"}  # fmt: skip
    rows = found.groupby(["pipeline", "kind"], sort=False)
    assert {key: "".join(group["path"]) for key, group in rows} == wanted
    assert list(dict.fromkeys(found["pipeline"])) == ["second", "first"]
    worst = found.iloc[0]
    assert (worst["score"], worst["distance"], worst["subtype"]) == (0.05, pytest.approx(0.45), "virus")
    assert list_errors(scores, images[:0], {"second": 0.5, "first": 0.75})["subtype"].isna().all()


def test_a_score_at_the_threshold_is_called_pneumonia():
    scores = pd.DataFrame({"path": ["a", "b"], "patient": "p", "split": "test", "pipeline": "one", "target": [0, 1],
                           "score": 0.5})  # fmt: skip
    images = pd.DataFrame({"path": [], "subtype": []})
    assert list_errors(scores, images, {"one": 0.5})["path"].tolist() == ["a"]


def test_predictive_values_worked_out_by_hand():
    """Of 1,000 patients, 50 are sick, and 45 of these are found; of 950 healthy ones, 760 are called normal."""
    ppv, npv = predictive_values(0.9, 0.8, 0.05)
    assert ppv == pytest.approx(45 / (45 + 190))
    assert npv == pytest.approx(760 / (760 + 5))


def found_elsewhere(target, score):
    draws = bootstrap(np.arange(len(target)), target, {"a": score}, {"a": 0.5}, n_draws=300)["a"]
    return elsewhere(target, (np.asarray(score) >= 0.5).astype(int), draws)


def test_at_its_own_prevalence_they_are_what_was_counted():
    target = np.repeat([0, 1], [60, 40])
    score = np.concatenate([np.repeat([0.1, 0.9], [45, 15]), np.repeat([0.1, 0.9], [4, 36])])
    facts = found_elsewhere(target, score)
    rare, common, own = facts["predictive_values"]
    assert (rare["prevalence"], common["prevalence"], own["prevalence"]) == (0.05, 0.30, 0.4)
    assert own["ppv"]["value"] == pytest.approx(36 / 51)
    assert own["npv"]["value"] == pytest.approx(45 / 49)
    assert rare["ppv"]["value"] < common["ppv"]["value"] < own["ppv"]["value"]
    ratios = facts["likelihood_ratios"]
    assert ratios["positive"]["value"] == pytest.approx(0.9 / 0.25)
    assert ratios["negative"]["value"] == pytest.approx(0.1 / 0.75)
    for part in (own["ppv"], own["npv"], *ratios.values()):
        assert part["ci95"][0] < part["value"] < part["ci95"][1]


def test_undefined_values_are_none_and_infinite_ends_too():
    never = found_elsewhere(np.repeat([0, 1], 20), np.full(40, 0.1))
    assert never["predictive_values"][0]["ppv"] is None
    assert never["likelihood_ratios"]["positive"] is None
    perfect = found_elsewhere(np.repeat([0, 1], 20), np.repeat([0.1, 0.9], 20))
    assert perfect["likelihood_ratios"]["positive"] is None
    almost = np.repeat([0.1, 0.9], 20)
    almost[0] = 0.9
    assert found_elsewhere(np.repeat([0, 1], 20), almost)["likelihood_ratios"]["positive"]["ci95"][1] is None
