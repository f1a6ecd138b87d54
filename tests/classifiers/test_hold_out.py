import warnings

import numpy as np
import pytest

from cxr_sklearn import make_radiographs
from cxr_sklearn.classifiers import base
from cxr_sklearn.classifiers.base import Examples, hold_out
from cxr_sklearn.images.batch import as_batch


@pytest.fixture
def examples():
    images, frame = make_radiographs(30, size=32, random_state=0)
    return Examples(as_batch(images), frame["target"].to_numpy(), np.ones(len(frame))), frame["patient"]


def test_patients_that_nobody_named_are_warned_of_once(examples, monkeypatch):
    monkeypatch.setattr(base, "_has_warned", False)
    with pytest.warns(
        UserWarning, match="pass groups=patients to fit, or to cross_val_score and searches with"
    ) as found:
        hold_out(examples[0], None, 0.2, 0)
    assert len(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hold_out(examples[0], None, 0.2, 0)


def test_with_patients_there_is_nothing_to_warn_of(examples, monkeypatch):
    monkeypatch.setattr(base, "_has_warned", False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, held_out = hold_out(*examples, 0.2, 0)
    assert len(train) + len(held_out) == len(examples[0])
    assert not base._has_warned
