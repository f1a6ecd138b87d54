import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_sklearn.evaluation.bootstrap import bootstrap, wilson
from cxr_sklearn.evaluation.subgroups import (
    COLUMN_RATES,
    COMPARED,
    divisions_of,
    elsewhere,
    groups_of,
    list_errors,
    n_group_comparisons,
    predictive_values,
    rates_by_column,
    rates_by_group,
)


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


HERE = Path(__file__).parent


@pytest.fixture
def patients():
    """Simulated scores with the sex, which is missing for some, and age of each patient."""
    rows = pd.read_csv(HERE / "subgroup_scores.csv", dtype={"sex": "str", "age": "str"})
    return rows.rename(columns={"sex": "by_sex", "age": "by_age"})


def by_column(rows, threshold=0.5):
    return rates_by_column(rows, divisions_of(rows), threshold)


def test_rates_of_columns_are_those_of_fairlearn(patients):
    wanted = pd.read_csv(HERE / "subgroups.csv")  # make_subgroups.py wrote it
    found = by_column(patients)
    rates = {
        (column, row["group"] or "not known", metric): row[metric]["value"]
        for column, division in found.items()
        for row in division["groups"]
        for metric in COLUMN_RATES
    }
    rates |= {
        (column, "difference", largest["metric"]): largest["value"]
        for column, division in found.items()
        for largest in division["differences"]
    }
    oracle = wanted.set_index(["column", "group", "metric"])["value"].to_dict()
    assert len(rates) == 7 * 7 + 2 * 3
    compared = {key for key in rates if key in oracle}
    assert len(compared) == 7 * 7 + 3
    assert {key: rates[key] for key in compared} == pytest.approx({key: oracle[key] for key in compared})


def test_groups_of_columns_and_what_they_depend_on(patients):
    found = by_column(patients)
    assert found["sex"]["kind"] == "values"
    assert [row["group"] for row in found["sex"]["groups"]] == ["F", "M", None]
    assert [row["group"] for row in found["age"]["groups"]] == ["0-17", "18-39", "40-64", "65+"]
    women = patients[patients["by_sex"] == "F"]
    row = found["sex"]["groups"][0]
    assert (row["images"], row["patients"]) == (len(women), women["patient"].nunique())
    sick = women[women["target"] == 1]
    recall = row["recall"]
    assert (recall["images"], recall["patients"], recall["few"]) == (len(sick), sick["patient"].nunique(), False)
    assert recall["ci95"][0] < recall["value"] < recall["ci95"][1]
    called = women[women["score"] >= 0.5]
    assert row["precision"]["images"] == len(called)
    unknown = found["sex"]["groups"][2]
    assert unknown["recall"]["few"]
    json.dumps(found, allow_nan=False)


def test_the_largest_difference_allows_for_the_number_of_pairs(patients):
    sex, age = by_column(patients)["sex"]["differences"], by_column(patients)["age"]["differences"]
    assert [largest["metric"] for largest in sex] == list(COMPARED)
    recall, older = sex[0], age[0]
    assert recall["groups"] == ["M", "F"]  # the group that is not known is not compared
    assert recall["pairs"] == 1
    assert recall["supported"]
    assert 0 < recall["ci95"][0] < recall["value"] < recall["ci95"][1]
    assert older["pairs"] == 6
    of_band = {"0-17": range(18), "18-39": range(18, 40), "40-64": range(40, 65), "65+": range(65, 121)}
    ages = [str(age) for band in older["groups"] for age in of_band[band]]
    two = patients.assign(by_age=patients["by_age"].where(patients["by_age"].isin(ages)))
    alone = by_column(two)["age"]["differences"][0]
    assert (alone["groups"], alone["pairs"]) == (older["groups"], 1)
    assert alone["value"] == older["value"]
    assert older["ci95"][0] < alone["ci95"][0] < alone["ci95"][1] < older["ci95"][1]
    pipelines = {name: {"by": by_column(patients)} for name in "ab"}
    assert n_group_comparisons(pipelines) == 2 * 3 * (1 + 6)


def test_a_column_of_one_class_is_set_against_all_of_the_other(images):
    rows = scored(images).assign(by_subtype=images["subtype"].astype("str"))
    found = by_column(rows)["subtype"]
    assert found["only"] == "pneumonia"
    bacteria, virus = found["groups"]
    assert (bacteria["group"], bacteria["images"], bacteria["recall"]["value"]) == ("bacteria", 10, 1)
    assert (virus["group"], virus["images"], virus["recall"]["value"]) == ("virus", 10, 0)
    assert bacteria["specificity"] == virus["specificity"]
    assert (bacteria["specificity"]["value"], bacteria["specificity"]["images"]) == (0.75, 20)
    assert bacteria["roc_auc"]["value"] == 1
    assert virus["roc_auc"]["value"] == 0.75
    assert [bacteria[metric] for metric in ("precision", "npv", "accuracy", "called_pneumonia")] == [None] * 4
    normal = by_column(rows.assign(by_series=images["series"].astype("str")))["series"]
    assert normal["only"] == "normal"
    assert normal["groups"][0]["recall"]["images"] == 20


def test_pneumonia_without_a_subtype_is_a_group_and_normal_images_are_not(images):
    subtype = images["subtype"].where(images["subtype"] != "virus").astype("str")
    found = by_column(scored(images).assign(by_subtype=subtype))["subtype"]
    assert [(row["group"], row["images"]) for row in found["groups"]] == [("bacteria", 10), (None, 10)]


def test_groups_of_one_class_or_of_one_patient(images):
    target = images["target"]
    column = np.where(target == 1, "sick", np.where(images.index < 4, "first", "others"))
    groups = {row["group"]: row for row in by_column(scored(images).assign(by_x=column))["x"]["groups"]}
    assert groups["sick"]["specificity"] is None
    assert groups["sick"]["roc_auc"] is None
    assert groups["others"]["recall"] is None
    assert groups["first"]["patients"] == 1
    specificity = groups["first"]["specificity"]
    assert (specificity["value"], specificity["ci95"], specificity["few"]) == (0.5, None, True)


def test_a_column_that_is_empty_on_test(images):
    found = by_column(scored(images).assign(by_x=pd.Series(None, images.index, dtype="str")))["x"]
    assert [row["group"] for row in found["groups"]] == [None]
    assert (found["only"], found["differences"]) == (None, [])


def test_no_columns(images):
    assert by_column(scored(images)) == {}
    assert rates_by_column(scored(images), divisions_of(images[:0]), 0.5) == {}


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
