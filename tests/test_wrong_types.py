"""Every parameter of every public name refuses what is of another type, and says which parameter it was."""

import inspect
import re

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import cxr_sklearn
from cxr_sklearn import ShortcutFeatures, make_radiographs
from cxr_sklearn.exceptions import CXRError

from .conftest import ROOT

NAMES = re.findall(r"as (\w+)$", (ROOT / "cxr_sklearn" / "__init__.pyi").read_text(), re.MULTILINE)
IMAGES, FRAME = make_radiographs(12, size=32, random_state=0)
LABELS = FRAME["target"].to_numpy()
#: Deprecated names, whose options are those of the new ones, and what is made by ImageLoader and not by users.
ELSEWHERE = {"load", "save", "ImageBatch"}
#: What is wrong, by the words of an annotation that allow it.
WRONG = [
    (object(), r"Any|ArrayLike"),
    (LogisticRegression, r"Any|ArrayLike"),
    ([1, 2], r"Any|ArrayLike|Sequence|Iterable|tuple"),
    ({"a": 1}, r"Any|ArrayLike|Mapping|dict|Sequence\[str\] \| Mapping"),
    ("text", r"Any|ArrayLike|str|Path"),
    (b"bytes", r"Any|ArrayLike"),
    (True, r"Any|ArrayLike|bool"),
    (None, r"Any|ArrayLike|None|RandomState"),
    (float("nan"), r"Any|ArrayLike"),
    (1 + 2j, r"Any|ArrayLike"),
    (np.array([[1.5]]), r"Any|ArrayLike|Sequence|Iterable|tuple"),
]


def valid(name, folder):
    """Arguments with which nothing is wrong but the one that is tried."""
    measured = make_pipeline(ShortcutFeatures(store=None), LogisticRegression(max_iter=9999))
    return {
        "frame": FRAME, "pipelines": "shortcuts", "pipeline": measured if name == "CXRModel" else "shortcuts",
        "out": folder / "out", "directory": folder / "directory", "path": folder / "m.skops", "root": folder,
        "csv_file": folder / "a.csv", "name_or_path": "shortcuts", "model": measured.fit(IMAGES, LABELS),
        "models": measured, "images": FRAME, "target": [0, 1] * 30, "score": np.linspace(0.1, 0.9, 60),
        "paths": ["a.png"], "X": IMAGES, "estimator": LogisticRegression(), "name": "x", "recipe": {},
        "reported_metrics": {"accuracy": 0.5}, "confusion_matrix": [[1, 1], [1, 1]],
    }  # fmt: skip


def use(name, arguments):
    thing = getattr(cxr_sklearn, name)
    made = thing(**arguments)
    if name == "CXRModel":
        made.predict_proba(IMAGES)
    elif name == "ShortcutFeatures":
        made.fit_transform(IMAGES)
    elif name == "DomainDetector":
        made.fit(IMAGES)
    elif name.endswith("Classifier"):
        made.fit(IMAGES if "Balanced" not in name else IMAGES.reshape(len(IMAGES), -1), LABELS)
    elif hasattr(made, "fit"):
        made.fit_transform(IMAGES if name != "ImageLoader" else ["a.png"])


def parameters():
    for name in NAMES:
        thing = getattr(cxr_sklearn, name)
        function = thing.__init__ if inspect.isclass(thing) else thing
        if name in ELSEWHERE:
            continue
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name not in ("self", "options", "facts"):
                yield name, parameter.name, str(parameter.annotation)


@pytest.mark.parametrize(("name", "parameter", "annotation"), list(parameters()))
def test_a_wrong_type_is_refused_by_the_name_of_its_parameter(name, parameter, annotation, tmp_path):
    given = inspect.signature(getattr(cxr_sklearn, name)).parameters
    arguments = {key: value for key, value in valid(name, tmp_path).items() if key in given}
    for value, allowed in WRONG:
        if re.search(allowed, annotation) or (parameter == "verbose" and value is True):
            continue
        with pytest.raises(CXRError, match=rf"\b{parameter}\b"):
            use(name, {**arguments, parameter: value})
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "parameter"),
    [("AugmentedClassifier", "estimator"), ("BalancedClassifier", "estimator"), ("CXRModel", "pipeline"),
     ("compare", "pipelines"), ("train", "pipeline"), ("learning_curve", "pipelines")],
)  # fmt: skip
@pytest.mark.parametrize("value", [object(), 3, LogisticRegression, True, 2.5])
def test_what_may_be_many_things_but_not_all(name, parameter, value, tmp_path):
    given = inspect.signature(getattr(cxr_sklearn, name)).parameters
    arguments = {key: value for key, value in valid(name, tmp_path).items() if key in given}
    with pytest.raises(CXRError, match=f"{parameter}|mine"):
        use(name, {**arguments, parameter: value})


def test_types_that_are_as_good_are_taken(tmp_path):
    """NumPy's numbers, whole numbers where a fraction may stand, and scikit-learn's verbose=True."""
    frame, _ = cxr_sklearn.group_split(FRAME, val=np.float32(0.2), test=0, random_state=np.int64(1)), None
    assert isinstance(frame, pd.DataFrame)
    cxr_sklearn.ImageAugmenter(rotation=np.int8(3), shift=0, flip=np.True_).fit(IMAGES)
    assert len(ShortcutFeatures(store=None, verbose=True).fit_transform(IMAGES)) == len(IMAGES)


def test_it_is_named_with_its_article():
    augmented = cxr_sklearn.AugmentedClassifier(LogisticRegression(), augmenter=3)
    with pytest.raises(CXRError, match=r"^augmenter=3 must be an ImageAugmenter or None, not int$"):
        augmented.fit(IMAGES, LABELS)
