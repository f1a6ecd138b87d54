import pytest

from cxr_sklearn.datasets._names import patient_of, series_of


@pytest.mark.parametrize(
    ("name", "patient", "subtype"),
    [
        ("person1_bacteria_1.jpeg", "bacteria-1", "bacteria"),
        ("person1_virus_6.jpeg", "virus-1", "virus"),
        ("person1946_bacteria_4875.jpeg", "bacteria-1946", "bacteria"),
        ("person441_bacteria_1918_2.jpeg", "bacteria-441", "bacteria"),
        ("PERSON7_VIRUS_12.JPG", "virus-7", "virus"),
        ("IM-0115-0001.jpeg", "IM-0115", None),
        ("IM-0011-0001-0002.jpeg", "IM-0011", None),
        ("NORMAL2-IM-0115-0001.jpeg", "NORMAL2-IM-0115", None),
        ("NORMAL2-IM-1020-0001-0001.jpeg", "NORMAL2-IM-1020", None),
        ("NORMAL-1049278-0001.jpeg", "mendeley-1049278", None),
        ("BACTERIA-40699-0001.jpeg", "mendeley-40699", "bacteria"),
        ("VIRUS-1234567-0003.jpeg", "mendeley-1234567", "virus"),
        ("virus-1234567-0003.JPG", "mendeley-1234567", "virus"),
        ("PNEUMONIA-1234567-0003.jpeg", None, None),
        ("BACTERIA-40699.jpeg", None, None),
        ("BACTERIA-40699-0001-0001.jpeg", None, None),
        ("NORMAL2-40699-0001.jpeg", None, None),
        ("person_bacteria_1.jpeg", None, None),
        ("person12_fungus_3.jpeg", None, None),
        ("IM-0115.jpeg", None, None),
        ("my-IM-0115-0001.jpeg", None, None),
    ],
)
def test_patients_by_name(name, patient, subtype):
    assert patient_of(name) == (patient, subtype)


def test_a_child_seen_ill_and_well_is_one_patient():
    assert patient_of("NORMAL-12-0001.jpeg")[0] == patient_of("VIRUS-12-0001.jpeg")[0]


def test_the_two_releases_number_their_patients_apart():
    assert patient_of("BACTERIA-12-0001.jpeg")[0] != patient_of("person12_bacteria_1.jpeg")[0]


@pytest.mark.parametrize(
    ("name", "series"),
    [
        ("IM-0115-0001.jpeg", "IM"),
        ("normal2-im-0115-0001.jpeg", "NORMAL2"),
        ("NORMAL-1049278-0001.jpeg", None),
        ("person1_virus_6.jpeg", None),
        ("scan 7.png", None),
    ],
)
def test_series_of_a_normal_radiograph(name, series):
    assert series_of(name) == series
