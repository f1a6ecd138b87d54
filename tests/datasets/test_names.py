import pytest

from cxr_sklearn.datasets import patient_of


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
        ("person_bacteria_1.jpeg", None, None),
        ("person12_fungus_3.jpeg", None, None),
        ("IM-0115.jpeg", None, None),
        ("my-IM-0115-0001.jpeg", None, None),
    ],
)
def test_patients_by_name(name, patient, subtype):
    assert patient_of(name) == (patient, subtype)
