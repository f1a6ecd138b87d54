import pytest

from cxr_sklearn.datasets.shift import KINDS
from cxr_sklearn.report.sentences import (
    adapted_sentence,
    between,
    decimal,
    grouped,
    listed,
    sample_size_sentence,
    share_text,
    shift_measures,
    shift_pair,
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
        return {"test": test, "sanity": {"permuted": {"passed": passed}}, "runs": None}

    defaults = {"best": "a", "as_good": [], "worse": [], "not_beating_shortcuts": [], "worse_than_shortcuts": [],
                "not_in_other_runs": []}  # fmt: skip
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


def test_a_model_its_adaptation_and_what_was_measured_when_it_was_made():
    facts = metrics(as_good=["b"])
    del facts["pipelines"]["shortcuts"]
    facts["pipelines"]["b"]["test"] = facts["pipelines"]["a"]["test"]
    facts["pipelines"]["a"]["development"] = {"metrics": {"roc_auc": 0.99, "recall": 0.95, "specificity": 0.97}}
    text = said(facts)
    assert text.startswith("A ranks the test images with a ROC AUC of 0.900 (0.800 to 1.000). The same ROC AUC: B.")
    assert "When it was made, its ROC AUC was 0.990, its sensitivity 0.950 and its specificity 0.970." in text
    assert "do not show" not in text


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


@pytest.mark.parametrize(
    ("say", "sentence"),
    [
        (EN, "brightness: higher, median 127.4 against 112; width: lower, median 900 against 1234; "
             "fine detail: varies more; border against centre: varies less"),
        (ES, "brillo: mayor, mediana 127.4 frente a 112; anchura: menor, mediana 900 frente a 1234; "
             "detalle fino: varía más; borde frente al centro: varía menos"),
    ],
)  # fmt: skip
def test_measures_that_tell_two_splits_apart(say, sentence):
    found = [
        {"measure": "brightness", "what": "level", "auc": 0.7, "medians": [112.0, 127.4]},
        {"measure": "width", "what": "level", "auc": 0.35, "medians": [1234.0, 900.0]},
        {"measure": "detail", "what": "spread", "auc": 0.6, "medians": [-2.0, -2.0]},
        {"measure": "border", "what": "spread", "auc": 0.4, "medians": [-80.0, -81.0]},
    ]
    assert shift_measures({"measures": found}, say) == sentence
    assert shift_measures({"measures": None}, say) == ""


def test_every_measure_and_every_side_has_a_name():
    for name in (name for names in KINDS.values() for name in names):
        found = {"measure": name, "what": "spread", "auc": 0.6, "medians": [0.0, 0.0]}
        assert shift_measures({"measures": [found]}, EN).endswith(": varies more")
    entry = {"a": "development", "b": "cohort", "label": "normal"}
    assert shift_pair(entry, EN) == "development or this cohort, normal"
    assert shift_pair(entry | {"a": "train", "b": "test", "label": "pneumonia"}, ES) == "train o test, neumonía"


def test_training_runs_are_in_the_verdict():
    facts = metrics(as_good=["b"], not_in_other_runs=["b"])
    auc = {"low": 0.7, "high": 0.9}
    facts["pipelines"]["a"]["runs"] = {"n": 5, "random": True, "metrics": {"roc_auc": auc}}
    text = said(facts)
    assert "In this training run the difference is supported for B; over several runs it is not." in text
    assert "Over 5 training runs with different seeds, its ROC AUC was 0.700 to 0.900." in text
    facts["pipelines"]["a"]["runs"] |= {"random": False}
    assert "Its training is not random" in said(facts)
    assert "training" not in said(metrics(as_good=["b"]))


RATES = {name: {"value": 0.8, "ci95": [0.7, 0.9]} for name in ("accuracy", "recall", "specificity")}


@pytest.mark.parametrize("say", [EN, ES])
@pytest.mark.parametrize(
    ("step", "parts"),
    [
        (
            {"kind": "labels", "images": 1200, "patients": 7,
             "recalibration": {"kind": "sigmoid", "intercept": -0.25, "slope": 0.5},
             "threshold": {"value": 0.3, "before": 0.41, "rule": "sensitivity=0.95"},
             "reached": RATES, "before": RATES},
            ["1\N{NARROW NO-BREAK SPACE}200", "0.500", "-0.250", "0.410", "0.300", "0.95", "0.700"],
        ),
        (
            {"kind": "unlabelled", "images": 50, "patients": 40, "prevalence": [0.04, 0.08], "recalibration": None,
             "threshold": {"value": 0.3, "before": 0.41, "ci95": [0.2, 0.4]}},
            ["0.04\N{EN DASH}0.08", "0.410", "0.300", "0.200", "0.400"],
        ),
        (
            {"kind": "prevalence", "prevalence": [0.05],
             "recalibration": {"kind": "intercept", "intercept": -1.5, "slope": 1.0},
             "threshold": {"value": 0.1, "before": 0.41}},
            ["0.05", "-1.500", "0.100"],
        ),
    ],
    ids=["labels", "unlabelled", "prevalence"],
)  # fmt: skip
def test_what_was_adapted_is_said_with_its_figures(say, step, parts):
    sentence = adapted_sentence({"date": "2026-01-02T03:04:05+00:00", **step}, say)
    for part in ["2026-01-02", *parts]:
        assert part in sentence


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.05, "0.05"), (0.1234, "0.123"), (0.5, "0.5"), (0.9999, "0.9999"), (1 - 1e-7, "0.9999999"), (2e-6, "0.000002")],
)
def test_a_share_never_reads_as_0_or_1(share, text):
    assert share_text(share) == text
    step = {"kind": "prevalence", "date": "2026-01-02", "prevalence": [share], "recalibration": None}
    assert f"prevalence of {text} " in adapted_sentence({**step, "threshold": {"before": 0.5, "value": 0.4}}, EN)
