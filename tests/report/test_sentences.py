import pytest

from cxr_sklearn.report.sentences import (
    between,
    decimal,
    grouped,
    listed,
    sample_size_sentence,
    threshold_sentence,
    verdict_sentences,
)
from cxr_sklearn.report.words import words

EN, ES = words("en"), words("es")


def test_numbers():
    assert [decimal(value, EN) for value in (0.12345, -0.00001, -1, None)] == [
        "0.123",
        "0.000",
        "-1.000",
        "not defined",
    ]
    assert (grouped(999), grouped(1234567)) == ("999", "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567")
    assert between([0.1, None], EN) == "0.100 to \N{INFINITY}"
    assert between([-0.1, 0.25], ES) == "-0.100 a 0.250"


@pytest.mark.parametrize("criterion", ["observed_expected", "slope", "roc_auc", "net_benefit"])
def test_size_of_the_next_validation(criterion):
    needed = {"prevalence": 0.3, "images": 1234, "pneumonia": 371, "patients": 900, "criterion": criterion}
    said = sample_size_sentence({**needed, "reason": None}, EN)
    assert said.startswith("Where the share of pneumonia is 0.30, 1\N{NARROW NO-BREAK SPACE}234 images of 900 patients")
    assert said.endswith(f"371 of them with pneumonia; {EN(f'sample_size.{criterion}')} asks most.")
    for reason in ("separated", "alike"):
        nothing = dict.fromkeys(needed) | {"reason": reason}
        assert sample_size_sentence(nothing, ES) == ES(f"sample_size.{reason}")


def test_lists():
    assert [listed(names, EN) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert listed(["a", "b", "c"], ES) == "a, b y c"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Youden's index on the 480 validation images"),
        ({"rule": "sensitivity=0.95"}, "a sensitivity of at least 0.95 on the 480 validation images"),
        (
            {"rule": "cost=5"},
            "the lowest cost, with a missed pneumonia counting as 5 false alarms on the 480 validation images",
        ),
        ({"rule": "0.5", "source": "fixed"}, "set by hand, not chosen from any scores"),
        (
            {"source": "out-of-fold", "n_images": 1000, "n_val": 16, "n_val_rarer": 8},
            "Youden's index on 1\N{NARROW NO-BREAK SPACE}000 out-of-fold training scores: the validation split has "
            "only 8 images of its rarer class",
        ),
        (
            {"source": "out-of-fold", "n_images": 300, "n_val": 0, "n_val_rarer": 0},
            "Youden's index on 300 out-of-fold training scores: there is no validation split",
        ),
    ],
)
def test_how_a_threshold_was_chosen(changes, sentence):
    threshold = {"rule": "youden", "source": "val", "n_images": 480, "n_val": 480, "n_val_rarer": 240}
    assert threshold_sentence(threshold | changes, EN) == sentence


def metrics(shortcuts_auc=0.6, **verdict):
    def pipeline(auc, passed=True):
        rate = {"value": 0.9, "ci95": [0.8, 0.95]}
        test = {"roc_auc": {"value": auc, "ci95": [auc - 0.1, auc + 0.1]}, "recall": rate, "specificity": rate}
        return {"test": test, "sanity": {"permuted": {"passed": passed}}}

    defaults = {"best": "a", "as_good": [], "worse": [], "not_beating_shortcuts": [], "worse_than_shortcuts": []}
    pipelines = {"a": pipeline(0.9), "b": pipeline(0.8, passed=False), "shortcuts": pipeline(shortcuts_auc)}
    return {"pipelines": pipelines, "verdict": defaults | verdict}


def said(facts):
    return " ".join(verdict_sentences(facts, {name: name.upper() for name in facts["pipelines"]}, EN))


def test_the_verdict_names_what_the_data_do_not_show():
    text = said(metrics(as_good=["b"]))
    assert text.startswith("A ranks the test images best: ROC AUC 0.900 (0.800 to 1.000).")
    assert "The data do not show that it is better than B." in text
    assert "The data show that it is better than" not in text
    assert "The data show that it is better than B." in said(metrics(worse=["b"]))


def test_the_baseline_to_beat():
    assert "every other pipeline beats it" in said(metrics())
    assert "may have learnt to do just that" not in said(metrics())
    high = said(metrics(0.85, not_beating_shortcuts=["a", "b"]))
    assert "may have learnt to do just that" in high
    assert "Not shown to beat the baseline: A and B." in high


def test_shortcuts_that_rank_best_are_named_first():
    text = said(metrics(0.95, worse_than_shortcuts=["b"], not_beating_shortcuts=["a"]))
    assert text.startswith("SHORTCUTS, which does not see the lungs, ranks the test images best: ROC AUC 0.950")
    assert "Of the others, A ranks them best: ROC AUC 0.900" in text
    assert "The data show that these are worse than the baseline: B." in text
    assert "Not shown to beat the baseline: A." in text
    assert "every other pipeline beats it" not in text


def test_a_failed_sanity_check_is_in_the_verdict():
    assert "Better than chance on permuted labels: B." in said(metrics())


def test_shortcuts_alone():
    facts = metrics(best="shortcuts")
    facts["pipelines"] = {"shortcuts": facts["pipelines"]["shortcuts"] | {"sanity": None}}
    assert "to beat" not in said(facts)
