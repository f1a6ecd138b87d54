"""No value of a DICOM header that tells who a patient is comes out of the program, in any form."""

import base64
import hashlib
import io
import json
import logging
import re
import traceback
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from typer.testing import CliRunner

from cxr_sklearn import check, compare, load_folder, write_radiographs
from cxr_sklearn.cli import app
from cxr_sklearn.exceptions import DataError, ImageReadError

from ..images.fuzz import dicom_bytes, dicom_dataset

#: Values that occur nowhere else, whole or in parts.
PLANTED = {
    "PatientID": "QZX4711",
    "PatientName": "Zebrafish^Quentina",
    "PatientBirthDate": "19280217",
    "PatientBirthTime": "031415",
    "OtherPatientIDs": "OPI-88231",
    "OtherPatientNames": "Wombat^Ulrica",
    "IssuerOfPatientID": "ISSUER-Kx9",
    "PatientAddress": "Gnarlwood Lane 993",
    "PatientTelephoneNumbers": "0555-771133",
    "PatientComments": "likes xylophones",
    "PatientMotherBirthName": "Yggdrasson",
    "EthnicGroup": "Quuxian",
    "AccessionNumber": "ACCQ-99871",
    "StudyID": "STUDY-Vv31",
    "StudyDate": "20190823",
    "StudyTime": "141516.25",
    "StudyInstanceUID": "1.2.826.0.99887766.1",
    "SeriesInstanceUID": "1.2.826.0.99887766.2",
    "StudyDescription": "THORAX-Fjordling",
    "InstitutionName": "Hospital Qwyjibo",
    "InstitutionAddress": "Blorptown",
    "ReferringPhysicianName": "Strangelove^Umberto",
    "OperatorsName": "Plimsoll^Vera",
    "StationName": "CRROOM-77q",
    "DeviceSerialNumber": "DSN-5512098",
    "ImageComments": "asked by Aunt Petunia",
}
PARTS = ["Zebrafish", "Quentina", "Wombat", "Strangelove", "Plimsoll", "xylophones", "Qwyjibo", "99887766", "Petunia"]


def header(dataset, number):
    for keyword, value in PLANTED.items():
        setattr(dataset, keyword, value)
    dataset.PatientID = f"{PLANTED['PatientID']}-{number}"
    dataset.PatientSex = "FM"[number % 2]
    private = dataset.private_block(0x11, "VENDOR-Zzyx", create=True)
    private.add_new(0x01, "LO", "private Kumquat")
    item = pydicom.Dataset()
    item.PatientID = "NESTED-QZX"
    dataset.OtherPatientIDsSequence = [item]
    return dataset


def needles(n_patients):
    """Everything that is searched for: the values, and plain digests of what could be looked up in a list."""
    texts = [*PLANTED.values(), *PARTS, "VENDOR-Zzyx", "Kumquat", "NESTED-QZX"]
    found = {text.encode() for text in texts}
    for number in range(n_patients):
        for value in (f"{PLANTED['PatientID']}-{number}", PLANTED["PatientName"], PLANTED["PatientBirthDate"]):
            for text in (value, f"{value}{' ' * (len(value) % 2)}", f"{value}\0{PLANTED['IssuerOfPatientID']}"):
                for name in ("md5", "sha1", "sha224", "sha256", "sha512", "blake2b", "blake2s"):
                    digest = hashlib.new(name, text.encode()).digest()
                    found |= {digest[:8], digest[:6].hex().encode(), base64.b64encode(digest)[:12]}
    return {needle.lower() for needle in found}


N_PATIENTS = 24
NEEDLES = re.compile(b"|".join(map(re.escape, sorted(needles(N_PATIENTS)))))


def betrayed(content):
    """Return what is found in bytes, in the members of an archive, and in the pictures of a page."""
    found = set(NEEDLES.findall(content.lower()))
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            found |= {value for name in archive.namelist() for value in betrayed(name.encode() + archive.read(name))}
    for packed in re.findall(rb"base64,([A-Za-z0-9+/=]+)", content):
        found |= set(NEEDLES.findall(base64.b64decode(packed).lower()))
    return found


def betrayed_below(folder):
    written = [path for path in folder.rglob("*") if path.is_file()]
    assert written
    return {(path.name, value) for path in written for value in betrayed(str(path).encode() + path.read_bytes())}


def texts_of(error):
    """Everything that an error says, with all errors that it came from, however it was raised."""
    errors, texts = [error], []
    while errors:
        one = errors.pop()
        texts += [str(one), repr(one), repr(one.args), repr(vars(one)), "".join(traceback.format_exception(one))]
        errors += [earlier for earlier in (one.__cause__, one.__context__) if earlier is not None]
    return "\n".join(texts)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of DICOM files, two of each patient, in two splits."""
    folder = tmp_path_factory.mktemp("drawn")
    paths = load_folder_of_drawn(folder)
    root = tmp_path_factory.mktemp("images") / "set"
    counts = {"NORMAL": 0, "PNEUMONIA": 0}
    for i, path in enumerate(paths):
        label = Path(path).parent.name
        if counts[label] == N_PATIENTS:
            continue
        number = counts[label] // 2 + N_PATIENTS // 2 * (label == "NORMAL")
        split = "train" if number % 3 else "test"
        counts[label] += 1
        grey = np.asarray(Image.open(path).convert("L"), dtype="u2") * 16
        target = root / split / label / f"{i:03d}.dcm"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(dicom_bytes(header(dicom_dataset(grey), number)))
    assert set(counts.values()) == {N_PATIENTS}
    return root


def load_folder_of_drawn(folder):
    write_radiographs(folder, 60, size=64, random_state=0)
    return load_folder(folder)["path"]


@pytest.fixture(scope="module")
def damaged(images):
    """Contents of files that cannot be read, each for another reason."""
    path = next((images / "train" / "NORMAL").iterdir())
    content = path.read_bytes()
    contents = [content[:end] for end in range(140, len(content) // 2, 97)]
    contents.append(content.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0"))
    for keyword in ("PhotometricInterpretation", "SpecificCharacterSet", "VOILUTFunction", "RescaleSlope"):
        dataset = pydicom.dcmread(path)
        dataset.WindowCenter, dataset.WindowWidth = 5, 5
        setattr(dataset, keyword, "1.25" if keyword == "RescaleSlope" else "ISO_IR 100")
        contents.append(dicom_bytes(dataset).replace(b"ISO_IR 100", b"QZX4711-10").replace(b"1.25", b"Kumq"))
    return contents


@pytest.fixture
def talkative(caplog):
    """Let pydicom, and everybody else, log all they would ever log."""
    caplog.set_level(logging.DEBUG)
    pydicom.config.debug(True, default_handler=False)
    yield caplog
    pydicom.config.debug(False, default_handler=False)


def linked(images, target):
    """Return a folder with links to all images."""
    for path in images.rglob("*.dcm"):
        link = target / path.relative_to(images)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    return target


def test_what_is_searched_for_would_be_found(images):
    content = next(images.rglob("*.dcm")).read_bytes()
    assert len(betrayed(content)) > len(PLANTED)
    assert betrayed(b"x" + hashlib.sha256(b"QZX4711-3").hexdigest()[:16].encode())
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model", b"QZX4711-3" * 10)
    assert betrayed(packed.getvalue()) == {b"qzx4711"}


def test_a_whole_study_keeps_no_value(images, tmp_path, monkeypatch, talkative, recwarn):
    monkeypatch.setenv("CXR_SKLEARN_CACHE", str(tmp_path / "store"))
    warnings.simplefilter("always")
    said = []
    for command in (
        ["check", images, "--dicom-identity"],
        ["check", images, "--dicom-identity", "--json"],
        ["compare", images, "--dicom-identity", "--pipeline", "shortcuts", "--folds", "3", "--out", tmp_path / "run"],
        [
            "train",
            images,
            "--dicom-identity",
            "--pipeline",
            "shortcuts",
            "--folds",
            "3",
            "--save",
            tmp_path / "m.skops",
        ],
        ["subset", images, tmp_path / "subset", "--dicom-identity", "--train", "4", "--val", "4", "--test", "4"],
        ["report", tmp_path / "run", "--lang", "es"],
    ):
        done = CliRunner().invoke(app, [str(word) for word in command])
        assert done.exit_code == 0, done.output
        said += [done.output, done.stderr]
    said += [talkative.text, *(str(warning.message) for warning in recwarn)]
    assert "dicom-" in (tmp_path / "run" / "images.csv").read_text()
    assert not betrayed("\n".join(said).encode())
    for path in (tmp_path / "subset").rglob("*.dcm"):  # the images themselves, as links
        path.unlink()
    assert {path.name for path in tmp_path.iterdir()} == {"store", "run", "m.skops", "subset"}
    assert not betrayed_below(tmp_path)


@pytest.mark.slow
def test_the_same_command_gives_the_same_figures(images, tmp_path):
    figures = []
    for name in ("first", "second"):
        frame = load_folder(images, dicom_identity=True)
        metrics = compare(frame, ["shortcuts"], out=tmp_path / name, store=None, cv=3)
        metrics["pipelines"]["shortcuts"].pop("seconds", None)
        figures.append(metrics["pipelines"])
    assert figures[0] == figures[1]


def test_a_frame_has_age_and_sex_and_no_value(images):
    frame = load_folder(images, dicom_identity=True)
    assert set(frame["age"]) == {90}
    assert set(frame["sex"]) == {"F", "M"}
    assert frame["patient"].nunique() == N_PATIENTS
    assert not betrayed(frame.to_csv().encode() + repr(frame.attrs).encode())


def test_errors_quote_no_value(images, damaged, tmp_path, monkeypatch, talkative, recwarn):
    """Of files that are damaged in many ways, and of a patient in two splits."""
    monkeypatch.setenv("CXR_SKLEARN_CACHE", str(tmp_path / "store"))
    warnings.simplefilter("always")
    root, leaky = (linked(images, tmp_path / name) for name in ("damaged", "leak"))
    for i, content in enumerate(damaged):
        (root / "train" / "NORMAL" / f"damaged {i}.dcm").write_bytes(content)
    frame = load_folder(root, dicom_identity=True)
    found = check(frame)
    assert len(found["unreadable"]) > 10
    said = [json.dumps(found), frame.to_csv()]
    with pytest.raises(ImageReadError) as unreadable:
        compare(frame, ["shortcuts"], out=tmp_path / "run", cv=3)
    moved = next((leaky / "train" / "NORMAL").iterdir())
    moved.rename(leaky / "test" / "NORMAL" / moved.name)  # a patient of train in test as well
    with pytest.raises(DataError, match=r"1 patient in more than one split: dicom-\d+-[0-9a-f]{16}") as leak:
        compare(load_folder(leaky, dicom_identity=True), ["shortcuts"], out=tmp_path / "run", cv=3)
    for folder in ("damaged", "leak"):
        for command in (
            ["check", "--json"],
            ["check"],
            ["compare", "--pipeline", "shortcuts", "--out", tmp_path / "run"],
        ):
            words = [command[0], tmp_path / folder, *command[1:], "--dicom-identity"]
            done = CliRunner().invoke(app, [str(word) for word in words])
            assert done.exit_code == 1, done.output
            said += [done.output, done.stderr, texts_of(done.exception)]
    said += [texts_of(unreadable.value), texts_of(leak.value), talkative.text]
    said += [str(warning.message) for warning in recwarn]
    assert not betrayed("\n".join(said).encode())
    assert not betrayed_below(tmp_path / "store")
