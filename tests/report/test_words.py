import string

import pytest

from cxr_sklearn.datasets.shift import KINDS
from cxr_sklearn.exceptions import InputError
from cxr_sklearn.report.words import LANGUAGES, catalogue, words


def places(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


def test_every_text_is_there_in_every_language_with_the_same_places():
    for key, texts in catalogue().items():
        assert set(texts) == set(LANGUAGES), key
        assert all(text.strip() for text in texts.values()), key
        assert len({tuple(places(text)) for text in texts.values()}) == 1, key


# Texts that the report of the fixture has no reason to use; test_sentences.py and others cover most of them.
UNSAID = {
    "notice.failed", "label.no_figure", "stress.robust", "rule.robust", "cv.caption_of_one", "card.selection_of_one",
    "findings.head", "label.and", "label.no", "errors.nothing",
    "errors.unreadable", "errors.worst", "doubtful.copies", "doubtful.copy",
    "findings.exact", "findings.normal", "findings.not_the_cause",
    "findings.pneumonia", "findings.poor_at_half", "findings.ranks_badly", "findings.ranks_well", "findings.the_cause",
    "label.no_interval", "label.undefined", "learning.val", "method.isotonic", "method.sigmoid", "method.temperature",
    "made.to_layer", "made.trained_from", "notice.copies", "notice.leak", "notice.second_look", "notice.synthetic",
    "rule.cost", "rule.fixed", "rule.sensitivity", "rule.specificity", "source.absent", "source.fixed", "source.val",
    "subgroups.absent", "lung.not_tried", "verdict.as_good", "verdict.not_beating_shortcuts", "verdict.sanity_failed",
    "verdict.best_but_shortcuts", "verdict.worse_than_shortcuts", "method.reversed", "data.patients_unknown",
    "verdict.shortcuts_high", "verdict.worse", "pairs.below", "stress.val", "stress.not_tried",
    "sample_size.separated", "sample_size.alike", "sample_size.observed_expected", "sample_size.slope",
    "sample_size.roc_auc", "sample_size.net_benefit", "checklist.development", "checklist.elsewhere",
    "shift.absent", "shift.higher", "shift.lower", "shift.more", "shift.less", "shift.side.development",
    "shift.side.cohort", *(f"shift.measure.{name}" for names in KINDS.values() for name in names),
    "by.many", "by.only_normal", "by.largest", "by.largest_is", "by.between", "by.difference", "by.pairs",
    "by.supported",
    "limits.intervals", "notice.failed_run", "runs.fixed", "runs.own", "runs.without_seed", "verdict.not_in_other_runs",
    "verdict.not_random",
    # Of models that were not made in the run.
    "page.title_evaluate", "notice.seen", "thresholds.text_evaluate", "source.model", "source.adapted",
    "card.selection_evaluate", "method.adapted", "verdict.only", "verdict.tied", "verdict.then",
    *(key for key in catalogue() if key.startswith(("adapted.", "development."))),
}  # fmt: skip


def test_every_text_is_said(rendered, said):
    assert set(catalogue()) - said - UNSAID == set()
    assert set(catalogue()) >= UNSAID


def test_a_text_is_filled_in():
    assert words("en")("label.random", name="x") == "x (random weights)"
    assert words("es")("label.random", name="x") == "x (pesos aleatorios)"
    with pytest.raises(KeyError):
        words("en")("label.random")


def test_a_metric_that_the_catalogue_does_not_name():
    assert words("es")("metric.roc_auc") == "AUC ROC"
    assert words("es")("metric.balanced_accuracy") == "Balanced accuracy"


def test_an_unknown_language():
    with pytest.raises(InputError, match="lang='fr' must be one of"):
        words("fr")
