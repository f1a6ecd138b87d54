"""Patient, age and sex of DICOM files, where they are asked for."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian
from sklearn.model_selection import StratifiedGroupKFold

from cxr_sklearn import check, group_split, load_folder, load_frame
from cxr_sklearn.datasets import splits
from cxr_sklearn.datasets._frame import names_no_patient
from cxr_sklearn.datasets._identity import is_keyed
from cxr_sklearn.exceptions import DataError

from ..conftest import write_image
from ..images.fuzz import dicom_bytes, dicom_dataset


def write_dicom(path, seed=0, **header):
    """Write an image of noise with these elements in its header; None takes one out."""
    pixels = np.random.default_rng(seed).integers(0, 4096, size=(20, 20)).astype("u2")
    dataset = dicom_dataset(pixels, syntax=header.pop("syntax", "1.2.840.10008.1.2.1"))
    for keyword, value in header.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(dicom_bytes(dataset))
    return str(path)


@pytest.fixture
def read(tmp_path):
    """Return the frame of files with these headers, in their order."""

    def read(*headers):
        for i, header in enumerate(headers):
            write_dicom(tmp_path / "set" / "NORMAL" / f"{i:03d}.dcm", i, **header)
        return load_folder(tmp_path / "set", sizes=False, dicom_identity=True)

    return read


def ids(*names):
    return [{"PatientID": name} for name in names]


def test_images_of_a_patient_have_the_same_digest(read):
    patients = read(*ids("A1", "B2", " A1 ", "C3", "B2"))["patient"].tolist()
    assert patients[0] == patients[2]
    assert patients[1] == patients[4]
    assert len(set(patients)) == 3
    assert [patient[:8] for patient in patients] == ["dicom-1-", "dicom-2-", "dicom-1-", "dicom-3-", "dicom-2-"]


def test_two_calls_cannot_be_compared(read):
    first, second = read(*ids("A1", "B2"))["patient"], read(*ids("A1", "B2"))["patient"]
    assert not set(first) & set(second)


def test_the_same_seed_draws_the_same_patients(read):
    headers = ids(*(f"P{i % 20}" for i in range(60)))
    frames = [read(*headers).assign(target=np.arange(60) % 20 % 2) for _ in range(2)]
    drawn = [group_split(frame, val=0.2, test=0.2, random_state=0)["split"].tolist() for frame in frames]
    assert drawn[0] == drawn[1]
    folds = [
        np.concatenate([test for _, test in StratifiedGroupKFold(3).split(f, f["target"], f["patient"])])
        for f in frames
    ]
    np.testing.assert_array_equal(*folds)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_encodings(read, syntax):
    frame = read(*({"PatientID": name, "PatientAge": "007Y", "syntax": syntax} for name in ("A1", "B2", "A1")))
    assert frame["patient"].nunique() == 2
    assert frame["age"].tolist() == [7, 7, 7]


def test_letters_beyond_ascii_count(read):
    """Read as ASCII, both would be the same question mark."""
    assert read(*({"SpecificCharacterSet": "ISO_IR 192", "PatientID": name} for name in "äö"))["patient"].nunique() == 2


def test_patients_of_different_issuers_are_different(read):
    headers = [{"PatientID": "1", "IssuerOfPatientID": issuer} for issuer in ("north", "south", "north")]
    patients = read(*headers)["patient"]
    assert patients[0] == patients[2] != patients[1]


@pytest.mark.parametrize(
    "headers",
    [ids("p1", "P1"), ids("P 1", "P1"), ids("007", "7"), [{"PatientID": "1", "IssuerOfPatientID": "x"}, *ids("1")]],
)
def test_patients_that_may_be_one_are_warned_of(read, headers):
    with pytest.warns(UserWarning, match=r"PatientIDs of .*000\.dcm and .*001\.dcm differ in case.*different patients"):
        assert read(*headers, *ids("other"))["patient"].nunique() == 3


@pytest.mark.parametrize(
    "differing", [{"PatientSex": "M"}, {"PatientBirthDate": "20100101"}, {"PatientSex": "M", "PatientID": " A1"}]
)
def test_an_identifier_of_different_people_is_warned_of(read, differing):
    known = {"PatientID": "A1", "PatientSex": "F", "PatientBirthDate": "20110101"}
    with pytest.warns(UserWarning, match=r"PatientID of .*001\.dcm differ in sex or date of birth, but count as one"):
        read(known, known | differing, {"PatientID": "A1"}, *ids("B2"))


def test_an_identifier_for_all_is_warned_of(read):
    with pytest.warns(UserWarning, match="all 3 DICOM files with a PatientID have the same"):
        read(*ids("ANONYMOUS", "ANONYMOUS", "ANONYMOUS", ""))


AGES = {
    "045Y": 45,
    "018M": 1,
    "003W": 0,
    "104W": 1,
    "105W": 2,
    "010D": 0,
    "366D": 1,
    "7y": 7,
    "51": 51,
    "089Y": 89,
    "090Y": 90,
    "101Y": 90,
    "148Y": None,
    "4 5Y": None,
    "": None,
    "-01Y": None,
    "04.5": None,
}


@pytest.mark.filterwarnings("ignore:Invalid value for VR AS")
def test_ages(read):
    frame = read(*({"PatientAge": age, "PatientID": f"n{i}"} for i, age in enumerate(AGES)))
    assert str(frame["age"].dtype) == "Int64"
    assert [None if age is pd.NA else age for age in frame["age"]] == list(AGES.values())


@pytest.mark.parametrize(
    ("birth", "study", "age"),
    [
        ("20200615", "20240614", 3),
        ("20200615", "20240615", 4),
        ("20200229", "20210228", 0),
        ("19300101", "20240101", 90),
        ("19000101", "20240101", None),
        ("20240101", "20200101", None),
        ("2020", "20240101", None),
        ("20200101", None, None),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_age_from_two_dates(read, birth, study, age):
    header = {"PatientBirthDate": birth} | ({"StudyDate": study} if study else {})
    assert read(header)["age"].tolist() == [pd.NA if age is None else age]
    if age is not None:  # the age that the file gives comes first, if it gives one
        assert read(header | {"PatientAge": "033Y"})["age"].tolist() == [33]
        assert read(header | {"PatientAge": "?"})["age"].tolist() == [age]


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_sex(read):
    sexes = read(
        *({"PatientSex": sex, "PatientID": f"n{i}"} for i, sex in enumerate(["M", "F", "O", "f ", "male", ""]))
    )
    assert sexes["sex"].fillna("none").tolist() == ["M", "F", "O", "F", "none", "none"]


@pytest.mark.parametrize("missing", [None, "", "  "])
def test_without_an_identifier_an_image_is_a_patient_of_its_own(read, tmp_path, missing):
    write_dicom(tmp_path / "set" / "PNEUMONIA" / "person1_virus_6.dcm", PatientID=missing)
    frame = read({"PatientID": missing}, *ids("A1"))
    assert frame["patient"].nunique() == 3
    assert names_no_patient(frame).tolist() == [True, False, True]


def test_files_of_other_kinds_keep_the_patient_of_their_name(read, tmp_path):
    write_image(tmp_path / "set" / "PNEUMONIA" / "person3_virus_4.png")
    write_image(tmp_path / "set" / "PNEUMONIA" / "person3_virus_5.dcm")  # called so, but PNG
    frame = read({"PatientID": "A1", "PatientSex": "F"})
    assert frame["patient"].tolist()[1:] == ["virus-3", "virus-3"]
    assert frame["sex"].isna().tolist() == [False, True, True]


def test_nothing_of_the_patient_is_read_unless_asked_for(read, tmp_path, monkeypatch):
    read({"PatientAge": "045Y"})

    def elements(file, keywords):
        raise AssertionError("read")

    monkeypatch.setattr("cxr_sklearn.images._dicom.elements", elements)
    frame = load_folder(tmp_path / "set")
    assert frame["patient"].tolist() == ["NORMAL/000.dcm"]
    assert not {"age", "sex"} & set(frame)


def table(tmp_path, *rows):
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,patient", *rows]) + "\n")
    return load_frame(tmp_path / "labels.csv", sizes=False, dicom_identity=True)


def test_a_table_of_files_in_any_order(tmp_path):
    for i, name in enumerate("bac"):
        write_dicom(tmp_path / name, PatientID="two" if name == "c" else "one", PatientAge=f"00{i}Y")
    write_image(tmp_path / "d.png")
    frame = table(tmp_path, "c,0,", "d.png,1,p1", "a,1,", "b,0,")
    a, b, c, d = frame["patient"]
    assert a == b != c
    assert d == "p1"
    assert frame["age"].tolist() == [1, 0, 2, pd.NA]


def test_a_patient_in_the_table_and_in_the_header(tmp_path):
    write_dicom(tmp_path / "a.dcm", PatientID="")
    with pytest.raises(DataError, match=r"a\.dcm has a patient in the table and another.*leave out --dicom-identity"):
        table(tmp_path, "a.dcm,0,p1")


def test_without_any_dicom_file_there_is_nothing_to_read(tmp_path):
    write_image(tmp_path / "NORMAL" / "a.dcm")
    with pytest.raises(DataError, match=r"none of 1 images is a DICOM file.*--dicom-identity"):
        load_folder(tmp_path, dicom_identity=True)


def test_without_pydicom_the_extra_is_named(read, tmp_path, monkeypatch):
    read(*ids("A1"))
    monkeypatch.delitem(sys.modules, "cxr_sklearn.images._dicom", raising=False)
    monkeypatch.delattr("cxr_sklearn.images._dicom", raising=False)
    monkeypatch.setitem(sys.modules, "pydicom.dataset", None)
    with pytest.raises(DataError, match=r"pip install 'cxr-sklearn\[dicom\]'"):
        load_folder(tmp_path / "set", dicom_identity=True)


def test_files_that_cannot_be_read_are_left_to_the_check(read, tmp_path):
    folder = tmp_path / "set" / "PNEUMONIA"
    content = Path(write_dicom(folder / "whole.dcm")).read_bytes()
    (folder / "cut.dcm").write_bytes(content[:300])
    (folder / "syntax.dcm").write_bytes(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))
    write_dicom(folder / "deflated.dcm", syntax=DeflatedExplicitVRLittleEndian)
    (folder / "gone.dcm").symlink_to(tmp_path / "nowhere")
    frame = read(*ids("A1"))
    assert len(frame) == 6
    assert {path.rsplit("/")[-1] for path in check(frame)["unreadable"]} == {
        *("cut.dcm", "syntax.dcm", "deflated.dcm", "gone.dcm")
    }
    assert frame["patient"].nunique() == 6


def test_a_patient_in_two_splits_is_a_leak(tmp_path):
    paths = [
        write_dicom(tmp_path / split / "NORMAL" / f"{i}.dcm", 10 * len(split) + i, PatientID=f"{name}{i}")
        for split, name in (("train", "A"), ("test", "B"))
        for i in range(3)
    ]
    copy = write_dicom(tmp_path / "test" / "NORMAL" / "again.dcm", 99, PatientID="A1 ")
    found = check(load_folder(tmp_path, dicom_identity=True))
    (patient, names), *others = found["patients_in_several_splits"].items()
    assert names == ["train", "test"]
    assert not others
    assert found["paths_in_several_splits"] == {patient: [copy, paths[1]]}
    assert found["leaks"] == [f"1 patient in more than one split: {patient} (train, test)"]


def test_a_subset_is_drawn_by_patient_and_lists_digests(tmp_path):
    for i in range(24):
        folder = tmp_path / "set" / ("train", "test")[i % 2] / ("NORMAL", "PNEUMONIA")[i // 2 % 2]
        write_dicom(folder / f"{i}.dcm", i, PatientID=f"A{i % 8}", PatientSex="F")
    frame = load_folder(tmp_path / "set", dicom_identity=True)
    drawn = splits.balanced_subset(frame, train=2, val=2, test=2, random_state=0)
    splits.write_subset(drawn, tmp_path / "subset")
    again = load_frame(tmp_path / "subset" / "manifest.csv")
    assert again["patient"].map(is_keyed).all()
    assert not again.drop_duplicates(["patient", "split"])["patient"].duplicated().any()
