import pytest
from pandas.testing import assert_frame_equal

from cxr_sklearn import load_folder
from cxr_sklearn.datasets.folder import load_frame
from cxr_sklearn.exceptions import DataError

from ..conftest import write_image


@pytest.fixture
def write(tmp_path):
    """Write a table beside two images, x/a.png and x/person3_virus_4.png."""
    write_image(tmp_path / "x" / "a.png")
    write_image(tmp_path / "x" / "person3_virus_4.png")

    def write(text, encoding="utf-8"):
        (tmp_path / "labels.csv").write_text(text, encoding=encoding)
        return tmp_path / "labels.csv"

    return write


def test_path_and_label_are_enough(write, tmp_path):
    frame = load_frame(write("path,label\nx/person3_virus_4.png,Pneumonia\nx/a.png,normal\n"))
    assert frame["path"].tolist() == [str(tmp_path / "x/a.png"), str(tmp_path / "x/person3_virus_4.png")]
    assert frame["label"].tolist() == ["normal", "pneumonia"]
    assert frame["target"].tolist() == [0, 1]
    assert frame["patient"].tolist() == [str(tmp_path / "x/a.png"), "virus-3"]
    assert frame["subtype"].tolist()[1] == "virus"
    assert frame["split"].isna().all()
    assert frame[["width", "height", "mode"]].values.tolist() == [[8, 9, "L"]] * 2
    write_image(tmp_path / "normal" / "a.png")
    folder = load_folder(tmp_path)
    assert frame.dtypes.to_dict() == folder.dtypes.to_dict()
    assert frame.columns.tolist() == folder.columns.tolist()


@pytest.mark.parametrize(
    "text",
    [
        "path\nx/person3_virus_4.png\nx/a.png\n",
        "label;path\n;x/a.png\nunread;x/person3_virus_4.png\n",
        "# to be read\n\npath\ttarget\nx/a.png\t2\nx/person3_virus_4.png\t\n",
    ],
)
def test_labels_are_neither_needed_nor_read(write, tmp_path, text):
    frame = load_frame(write(text), labels=False)
    labelled = load_frame(write("path,label\nx/a.png,0\nx/person3_virus_4.png,1\n"))
    assert_frame_equal(frame, labelled.drop(columns=["label", "target"]))
    with pytest.raises(DataError, match="lacks the column 'path'"):
        load_frame(write("image\nx/a.png\n"), labels=False)


def test_further_columns_follow_as_text(write):
    head = "Path,Sex at  Birth,label,mode,site,site,,Age"
    frame = load_frame(write(f"{head}\nx/person3_virus_4.png,f,1,RGB,1,2,3,NA\nx/a.png, m,0,RGB,1,2,3,7\n"))
    assert frame.columns[-2:].tolist() == ["sex at birth", "age"]
    assert frame["sex at birth"].tolist() == ["m", "f"]  # sorted by path, as the rest
    assert frame["age"].fillna("missing").tolist() == ["7", "missing"]
    assert set(frame) & {"site", ""} == set()
    assert frame["mode"].tolist() == ["L", "L"]  # of the image, not of the table


def test_columns_in_any_order_and_case_with_what_else_is_known(write):
    frame = load_frame(
        write("Split,Age,Patient,Label,Path\ntrain,3,007,1,x/a.png\nTEST,4,12,0,x/person3_virus_4.png\n")
    )
    assert frame["patient"].tolist() == ["007", "12"]
    assert frame["split"].tolist() == ["train", "test"]
    assert frame["label"].tolist() == ["pneumonia", "normal"]
    assert frame["age"].tolist() == ["3", "4"]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_what_spreadsheets_write(write, separator):
    text = "path,label,patient\r\nx/a.png, normal,Müller\r\n".replace(",", separator)
    assert load_frame(write(text, "utf-8-sig"))["patient"].tolist() == ["Müller"]
    with pytest.raises(DataError, match=r"not text in UTF-8.*save the table as CSV UTF-8"):
        load_frame(write(text, "cp1252"))


def test_a_patient_may_be_called_anything_else(write):
    text = 'path,label,patient,note\nx/a.png,0,Nancy,"a; b"\n\nx/person3_virus_4.png,1, none of them ,\n'
    assert load_frame(write(text))["patient"].tolist() == ["Nancy", "none of them"]
    text = 'path,label,patient,notes (a;b;c;d)\nx/a.png,0," ",\nx/person3_virus_4.png,1,,,\n'
    assert load_frame(write(text))["patient"].tolist()[1] == "virus-3"


@pytest.mark.parametrize(
    "missing", ["NA", "nan", "NaN", "None", "<NA>", "NaT", "#N/A", "N/A", "NULL", "#REF!", "#VALUE!"]
)
def test_what_programs_write_for_a_missing_value(write, tmp_path, missing):
    """Else all images without a patient would be those of one, and missing splits an error."""
    rows = f"{missing},x/a.png,0,{missing},{missing}\n{missing},x/person3_virus_4.png,1,,\n"
    frame = load_frame(write(f"patient,path,label,split,subtype\n{rows}"))
    assert frame["patient"].tolist() == [str(tmp_path / "x/a.png"), "virus-3"]
    assert frame["split"].isna().all()
    with pytest.raises(DataError, match="row 2: the label is missing"):
        load_frame(write(f"path,label\nx/a.png,{missing}\n"))


def test_numbers_that_became_floats(write):
    frame = load_frame(write("path,label,patient\nx/a.png,0.0,1\nx/person3_virus_4.png,1.0,1.0\n"))
    assert frame["patient"].tolist() == ["1", "1"]
    assert frame["label"].tolist() == ["normal", "pneumonia"]
    frame = load_frame(write("path,label,patient\nx/a.png,0,1.5\nx/person3_virus_4.png,1,1.2.0\n"))
    assert frame["patient"].tolist() == ["1.5", "1.2.0"]


@pytest.mark.parametrize(
    ("one", "other"), [("P1", "p1"), ("P 1", "P1"), ("007", "7.0"), ("P01", "P1"), ("\uff21", "A"), ("P1\u200b", "P1")]
)
def test_patients_that_look_alike_are_warned_of(write, one, other):
    with pytest.warns(UserWarning, match="differ in case, spaces or leading zeros alone") as noted:
        frame = load_frame(write(f"path,label,patient\nx/a.png,0,{one}\nx/person3_virus_4.png,1,{other}\n"))
    assert frame["patient"].nunique() == 2
    assert noted[0].filename == __file__  # the line of the caller


def test_patients_that_differ_are_not_warned_of(write):
    load_frame(write("path,label,patient\nx/a.png,0,P10\nx/person3_virus_4.png,1,P1\n"))
    load_frame(write("path,label,patient\nx/a.png,0,P100\nx/person3_virus_4.png,1,P1\n"))


def test_patients_that_a_spreadsheet_rounded_are_warned_of(write):
    with pytest.warns(UserWarning, match=r"patient '1.23457E\+12' is a number that a spreadsheet rounded"):
        load_frame(write("path,label,patient\nx/a.png,0,1.23457E+12\nx/person3_virus_4.png,1,1.23457E+12\n"))


@pytest.mark.parametrize(
    "text",
    [
        "# " + "a long comment " * 300 + "\npath,label\nx/a.png,0\n# " + "another, " * 300 + "\n",
        'path,label,"patient\nas in the files",note\nx/a.png,0,7,\n',
        '"path";"label";"note, with\r\nline break"\r\nx/a.png;0;\r\n',
        "# made by hand, on Monday\n\n# twice; really\npath,label\nx/a.png,0\n",
        "#path,label\nx/a.png,0\n",
        ",,\n\npath,label,\nx/a.png,0,\n,,\n",
        "path,label\n# the good ones, of May\nx/a.png,0\n#x/b.png,1\n\n",
        "sep=;\n\n# exported\npath;label\nx/a.png;0\n",
        "\n \npath\tlabel\nx/a.png\t0\n",
    ],
)
def test_comments_blank_lines_and_headers_of_several_lines(write, text):
    assert load_frame(write(text))["label"].tolist() == ["normal"]


def test_a_comment_never_takes_rows_along(write):
    text = 'path,label\nx/a.png,0\n# the next one, "see there\nx/person3_virus_4.png,1\n# for its number, 7"\n'
    with pytest.raises(DataError, match="row 3: a quotation mark in the comment is not closed there"):
        load_frame(write(text))


def test_lines_are_still_counted_as_an_editor_counts_them(write):
    text = '# a comment\n\n"path","label","two\nlines"\n# another\nx/a.png,covid,\n'
    with pytest.raises(DataError, match="row 6: label 'covid'"):
        load_frame(write(text))


def test_an_image_whose_name_begins_as_a_comment_does(write, tmp_path):
    write_image(tmp_path / "#1.png")
    assert load_frame(write("path,label\n#1.png,0\n#2.png,0\n"))["path"].tolist() == [str(tmp_path / "#1.png")]
    with pytest.raises(DataError, match="row 2: the path is missing"):
        load_frame(write("path,label\n#N/A,0\n"))


def test_absolute_paths(write, tmp_path):
    frame = load_frame(write(f"path,label\n{tmp_path / 'x' / '..' / 'x' / 'a.png'},0\n"))
    assert frame["path"].tolist() == [str(tmp_path / "x/a.png")]


def test_a_few_images_may_be_missing(write):
    frame = load_frame(write("path,label\nx/a.png,0\nx/b.png,1\n"))
    assert frame["width"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,label\nx/a.png,0\n", "lacks the column 'path'; its columns are image, label"),
        ("path,label\n", "has no rows"),
        ("", "lacks the column 'path'"),
        ("path,label\nx/a.png,0,1\n", "row 2: it has more cells than there are columns"),
        ("path,label,Path\nx/a.png,0,1\n", "two columns 'path'"),
        ("path,label\n\n\nx/a.png,0\n\nx/b.png,covid\n", "row 6: label 'covid'"),
        ("sep=;\npath;label\nx/a.png;covid\n", "row 3: label 'covid'"),
        ("path,label,patient\nx/a.png,0,\x1b[31m7\n", "cannot be printed"),
        ("path,label\nx\\\\a.png,0\n", "with / between folders"),
        ('path,label\n"x/a.png,0\n', "is not a table"),
        ("path,label\nx/a.png,0\nx/b.png,covid\n", "row 3: label 'covid' is not one of normal, pneumonia"),
        ("path,label\nx/a.png,\n", "row 2: the label is missing"),
        ("path,label\n,0\n", "row 2: the path is missing"),
        (
            "path,label,split\nx/a.png,0,holdout\n",
            "row 2: split 'holdout' is not one of train, training, val, valid, validation, dev, test, testing",
        ),
        ("path,label\nx/a.png,0\n./x/a.png,0\n", "row 3: duplicate path .*a.png"),
        (
            "path,label\na.png,0\n",
            "the images in .* do not exist, for example .*a.png; paths are relative to its folder",
        ),
        ('path,label\nx/a.png,0\n"x/b\n.png",0\n', "cannot be printed"),
    ],
)
def test_invalid_tables(write, text, message):
    with pytest.raises(DataError, match=message):
        load_frame(write(text))


def test_files_that_cannot_be_read(write, tmp_path):
    with pytest.raises(DataError, match="No such file"):
        load_frame(tmp_path / "absent.csv")
    with pytest.raises(DataError, match="is not text in UTF-8"):
        load_frame(write("path,label\nx/ä.png,0\n", "latin-1"))


def test_many_images_are_not_opened(write, monkeypatch):
    monkeypatch.setattr("cxr_sklearn.datasets._frame._MANY", 1)
    table = write("path,label\nx/a.png,0\nx/person3_virus_4.png,1\n")
    assert load_frame(table)["width"].isna().all()
    assert load_frame(table, sizes=True)["width"].tolist() == [8, 8]
    with pytest.raises(ValueError, match="sizes='yes'"):
        load_frame(table, sizes="yes")
