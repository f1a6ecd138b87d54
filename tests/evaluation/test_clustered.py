import numpy as np
import pytest
import sklearn.metrics as sk

from cxr_sklearn.evaluation.bootstrap import wilson
from cxr_sklearn.evaluation.clustered import difference, roc_auc, share


@pytest.fixture
def images():
    """Patient, target and score of images; the scores of a patient are alike."""
    rng = np.random.default_rng(0)
    patient_of = np.repeat(np.arange(80), rng.integers(1, 5, 80))
    target = (patient_of % 2 == 0).astype(int)
    score = 1.5 * target + 0.7 * rng.normal(size=80)[patient_of] + 0.7 * rng.normal(size=len(patient_of))
    return patient_of, target, score.round(1)


def everybody(patient_of):
    return np.ones(len(patient_of), dtype=bool)


def jackknife(value_of, patient_of):
    """Variance of a value, from leaving out one patient at a time."""
    left = [value_of(patient_of != patient) for patient in np.unique(patient_of)]
    return (len(left) - 1) / len(left) * np.sum((left - np.mean(left)) ** 2)


def test_a_share_and_its_variance(images):
    patient_of, target, score = images
    hits, members = score > 0.5, target == 1
    found = share(hits, members, patient_of)
    assert found.value == pytest.approx(hits[members].mean())
    assert (found.images, found.patients) == (members.sum(), 40)
    assert len(found.influence) == 80
    wanted = jackknife(lambda kept: hits[members & kept].mean(), np.where(members, patient_of, -1))
    assert found.influence @ found.influence == pytest.approx(wanted, rel=0.03)


def test_an_auc_and_its_variance(images):
    patient_of, target, score = images
    found = roc_auc(target, score, everybody(patient_of), patient_of)
    assert found.value == pytest.approx(sk.roc_auc_score(target, score))
    assert found.patients == 40
    assert found.images == min((target == 1).sum(), (target == 0).sum())
    wanted = jackknife(lambda kept: sk.roc_auc_score(target[kept], score[kept]), patient_of)
    assert found.influence @ found.influence == pytest.approx(wanted, rel=0.05)
    part = patient_of < 30
    assert roc_auc(target, score, part, patient_of).value == pytest.approx(sk.roc_auc_score(target[part], score[part]))


def test_images_of_many_patients_have_wilsons_interval():
    n = 3000
    hits, patient_of = np.arange(n) % 10 > 0, np.arange(n)
    found = share(hits, everybody(patient_of), patient_of)
    assert found.ends() == pytest.approx(wilson(2700, n), abs=1e-4)
    # Ten equal images of a patient are worth one.
    tenfold = share(np.repeat(hits, 10), np.ones(10 * n, dtype=bool), np.repeat(patient_of, 10))
    assert tenfold.ends() == pytest.approx(found.ends(), abs=1e-4)


def test_a_rate_of_one_is_as_certain_as_the_number_of_patients_makes_it():
    patient_of = np.repeat(np.arange(12), 4)
    low, high = share(everybody(patient_of), everybody(patient_of), patient_of).ends()
    assert high == 1
    assert 0.65 < low < wilson(12, 12)[0]  # Student's t is wider than the normal distribution
    perfect = roc_auc(patient_of % 2, patient_of % 2, everybody(patient_of), patient_of)
    assert perfect.value == perfect.ends()[1] == 1
    assert perfect.ends()[0] < 0.65


def test_an_auc_is_as_uncertain_as_the_class_with_fewer_patients():
    patient_of = np.concatenate([np.arange(30), 30 + np.arange(31) % 3])
    found = roc_auc((patient_of < 30).astype(int), np.arange(61.0), everybody(patient_of), patient_of)
    assert (found.images, found.patients, found.few) == (30, 3, True)


def test_no_interval_from_one_patient():
    patient_of = np.array([0, 0, 0, 1])
    members = np.array([True, True, True, False])
    found = share(np.array([True, False, True, True]), members, patient_of)
    assert (found.value, found.patients, found.ends(), found.few) == (pytest.approx(2 / 3), 1, None, True)
    one_sick = roc_auc(np.array([1, 1, 0, 0]), np.arange(4.0), everybody(range(4)), np.array([0, 0, 1, 2]))
    assert (one_sick.patients, one_sick.ends()) == (1, None)
    assert difference(found, share(members, everybody(patient_of), patient_of), 0.95) is None


def test_nothing_to_measure():
    patient_of, nobody = np.arange(4), np.zeros(4, dtype=bool)
    assert share(~nobody, nobody, patient_of) is None
    assert roc_auc(np.ones(4), np.arange(4.0), ~nobody, patient_of) is None


@pytest.mark.parametrize(("n_images", "n_patients", "few"), [(30, 10, False), (29, 10, True), (30, 9, True)])
def test_what_is_few(n_images, n_patients, few):
    patient_of = np.arange(n_images) % n_patients
    assert share(patient_of > 2, everybody(patient_of), patient_of).few == few


def test_a_difference_worked_out_by_hand():
    """Newcombe's example, 56/70 and 48/80: .0524 to .3339 by his method 10."""
    patient_of = np.arange(15000)
    first, hits = patient_of < 7000, (patient_of < 5600) | (patient_of >= 10200)
    a, b = share(hits, first, patient_of), share(hits, ~first, patient_of)
    assert (a.value, b.value) == (0.8, 0.6)
    small = [one._replace(influence=one.influence * 10, n_max=one.n_max // 100) for one in (a, b)]
    assert difference(*small, 0.95) == pytest.approx((0.0524, 0.3339), abs=1e-3)
    assert difference(*small[::-1], 0.95) == pytest.approx((-0.3339, -0.0524), abs=1e-3)
    assert difference(*small, 0.999)[0] < 0


def test_a_difference_between_images_of_the_same_patients_is_more_certain():
    """Two views of each patient, with the same decision in most: much of the uncertainty is common to both."""
    rng = np.random.default_rng(0)
    patient_of = np.tile(np.arange(200), 2)
    one = rng.random(200) < 0.7
    hits = np.concatenate([one, one ^ (rng.random(200) < 0.05)])
    first = np.arange(400) < 200
    a, b = (share(hits, of, patient_of) for of in (first, ~first))
    low, high = difference(a, b, 0.95)
    of_others = b._replace(influence=np.roll(b.influence, 1))  # as if no patient had both views
    apart_low, apart_high = difference(a, of_others, 0.95)
    assert low < a.value - b.value < high
    assert high - low < (apart_high - apart_low) / 2
