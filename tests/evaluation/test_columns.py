import numpy as np
import pandas as pd
import pytest

from cxr_sklearn.evaluation.columns import check_columns, groups_of_column, text_of
from cxr_sklearn.exceptions import DataError, InputError


def divided(name, cells):
    """How a column is divided: its kind, its groups in order, and the group of each cell."""
    kind, groups = groups_of_column(name, text_of(pd.Series(cells)))
    return kind, groups.cat.categories.tolist(), groups.astype(object).where(groups.notna(), None).tolist()


def test_adults_ages_are_put_into_bands():
    ages = [64.9, 0, 17.9, 18, 39, 40, 65, 101, None, 148, -1, np.inf]
    kind, order, groups = divided("age", ages)
    assert (kind, order) == ("age", ["0-17", "18-39", "40-64", "65+"])
    assert groups == ["40-64", "0-17", "0-17", "18-39", "18-39", "40-64", "65+", "65+", None, None, None, None]


def test_ages_of_children_have_bands_of_their_own():
    kind, order, groups = divided("Edad (años)", ["1", "2", "5.5", "6", "11", "17", ""])
    assert (kind, order) == ("age", ["0-1", "2-5", "6-11", "12-17"])
    assert groups == ["0-1", "2-5", "2-5", "6-11", "6-11", "12-17", None]


@pytest.mark.parametrize("name", ["age", "Age", "patient_age", "Patient Age", "patientage", "age_years", "edad"])
def test_what_is_called_age(name):
    assert divided(name, range(60))[0] == "age"


@pytest.mark.parametrize("name", ["age_months", "edad_meses", "stage", "image", "dosage", "age_group"])
def test_what_is_not_an_age_in_years(name):
    assert divided(name, range(60))[0] == "quartiles"


def test_bands_of_ages_that_the_table_has_already():
    assert divided("age", ["18-39", "0-17"])[:2] == ("values", ["0-17", "18-39"])


def test_many_numbers_become_quartiles_named_by_their_bounds():
    kind, order, groups = divided("kvp", [None, *np.linspace(-3.2, 7, 50)])
    assert kind == "quartiles"
    assert order == ["Q1 [-3.2, -0.9102]", "Q2 [-0.702, 1.796]", "Q3 [2.004, 4.294]", "Q4 [4.502, 7]"]
    assert groups[0] is None
    assert [groups.count(name) for name in order] == [12, 13, 12, 13]


def test_equal_numbers_stay_in_one_quartile():
    _, order, groups = divided("dose", [0] * 90 + list(range(1, 31)))
    assert order == ["Q1 [0, 0]", "Q2 [1, 30]"]
    assert groups == [order[0]] * 90 + [order[1]] * 30


def test_few_numbers_are_groups_in_their_order():
    assert divided("tube", [10, 9.5, 2, None, 2]) == ("values", ["2", "9.5", "10"], ["10", "9.5", "2", None, "2"])
    assert divided("tube", ["1", "1.0", "02"]) == ("values", ["1", "2"], ["1", "1", "2"])


@pytest.mark.parametrize(
    ("cells", "order", "groups"),
    [
        (["M", " F ", "", None, np.nan, pd.NA], ["F", "M"], ["M", "F", None, None, None, None]),
        (pd.Categorical(["b", None, "a"], categories=["b", "c", "a"]), ["a", "b"], ["b", None, "a"]),
        ([True, False], ["False", "True"], ["True", "False"]),
        (pd.array([True, None], dtype="boolean"), ["True"], ["True", None]),
        (pd.array([3, None, 1], dtype="Int64"), ["1", "3"], ["3", None, "1"]),
        (pd.to_datetime(["2024-05-01", None]), ["2024-05-01"], ["2024-05-01", None]),
        (["1,5", "3"], ["1,5", "3"], ["1,5", "3"]),
        ([None, None], [], [None, None]),
        ([np.inf, 2.0], ["2"], [None, "2"]),
    ],
)
def test_cells_of_every_kind(cells, order, groups):
    assert divided("x", cells) == ("values", order, groups)


@pytest.fixture
def frame():
    return pd.DataFrame({
        "path": [f"{i}.png" for i in range(20)], "target": 0, "split": "test", "patient": [f"p{i}" for i in range(20)],
        "sex": "F", "Site  of study": "A", "age": range(20), "empty": None, "ward": [f"w{i}" for i in range(20)],
        "dirty": ["a\x1b[2Jb"] * 20, "date": pd.date_range("2024-01-01", periods=20),
    })  # fmt: skip


def test_columns_are_found_as_the_frame_spells_them(frame):
    assert check_columns(frame, ("sex", "AGE", "site of study", "sex")) == ("sex", "age", "Site  of study")
    assert check_columns(frame, "sex") == ("sex",)
    assert check_columns(frame, ()) == ()


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("sexx", r"no column 'sexx' to divide by; the table has 'sex', 'Site  of study', 'age', 'empty'"),
        ("patient", "column 'patient' divides no report; the table has 'sex'"),
        ("empty", "column 'empty' is empty, so it divides nothing"),
        ("ward", r"column 'ward' has 20 different values, such as 'w0': too many .* text with at most 12 values"),
        ("date", "column 'date' has 20 different values, such as '2024-01-01'"),
        ("dirty", r"column 'dirty' holds characters that cannot be printed: 'a\\x1b\[2Jb'"),
    ],
)
def test_columns_that_cannot_divide(frame, by, message):
    with pytest.raises(DataError, match=message):
        check_columns(frame, ["sex", by])


def test_sex_and_age_may_be_in_dicom_files(frame):
    with pytest.raises(DataError, match=r"no column 'sex' to divide by; .* read with --dicom-identity"):
        check_columns(frame.drop(columns="sex"), "sex")


def test_one_word_among_numbers_is_shown(frame):
    with pytest.raises(DataError, match="column 'age' has 21 different values, such as 'unknown'"):
        check_columns(pd.concat([frame, frame[:1].assign(age="unknown")]), "age")


def test_doubtful_names(frame):
    with pytest.raises(DataError, match="several columns are called 'SEX'"):
        check_columns(frame.assign(Sex="F"), "SEX")
    assert check_columns(frame.assign(Sex="F"), "Sex") == ("Sex",)
    twice = pd.concat([frame, frame[["sex"]]], axis=1)
    with pytest.raises(DataError, match="several columns are called 'sex'"):
        check_columns(twice, "sex")
    with pytest.raises(InputError, match=r"by=\(5,\) must hold names of columns, as text"):
        check_columns(frame, (5,))
