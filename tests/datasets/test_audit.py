import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from cxr_sklearn import load_folder, make_radiographs
from cxr_sklearn.datasets.audit import check, similar_groups
from cxr_sklearn.exceptions import DataError
from cxr_sklearn.features._image_stats import image_stats


@pytest.fixture(scope="module")
def radiographs():
    images, frame = make_radiographs(60, size=96, random_state=0)
    firsts = ~frame["patient"].duplicated().to_numpy()
    return [Image.fromarray(np.asarray(image)) for image in images[firsts]]


@pytest.fixture
def root(radiographs, tmp_path):
    """Forty images of each class in train, eight in val, twelve in test."""
    for i, image in enumerate(radiographs[:60]):
        split = "train" if i < 40 else "val" if i < 48 else "test"
        save(image, tmp_path / "set" / place(i, split))
    return tmp_path / "set"


def place(i, split, suffix="png"):
    return f"{split}/NORMAL/IM-{i:04d}-0001.{suffix}" if i % 2 else f"{split}/PNEUMONIA/person{i}_virus_{i}.{suffix}"


def save(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def checked(root, **options):
    return check(load_folder(root), **options)


def test_nothing_wrong(root):
    found = checked(root)
    assert found["leaks"] == []
    assert found["warnings"] == [
        "a validation split of 8 images decides nothing: a threshold needs at least 30 of each class; "
        "`cxr-sklearn subset` or cxr_sklearn.group_split draws more"
    ]
    assert (found["images"], found["patients"], found["patients_unknown"]) == (60, 60, 0)
    assert found["counts"][:2] == [
        {"split": "train", "label": "normal", "subtype": None, "images": 20, "patients": 20},
        {"split": "train", "label": "pneumonia", "subtype": "virus", "images": 20, "patients": 20},
    ]
    assert found["width"] == found["height"] == [96, 96, 96]
    assert found["modes"] == {"L": {"normal": 30, "pneumonia": 30}}
    assert found["auc"]["size"] == found["auc"]["mode"] == {"value": 0.5, "p": 1.0}


@pytest.mark.parametrize(
    "again",
    [
        lambda image, path: save(image, path, quality=80),
        lambda image, path: save(image, path, quality=30),
        lambda image, path: save(image.resize((48, 48)), path, quality=90),
        lambda image, path: save(image.point(lambda grey: 20 + grey // 2), path, quality=90),
        lambda image, path: save(ImageOps.invert(image), path, quality=90),
    ],
    ids=["quality 80", "quality 30", "half the size", "paler", "negative"],
)
def test_a_test_image_in_train_under_another_name(root, radiographs, again):
    again(radiographs[50], root / "train/PNEUMONIA/person9999_bacteria_1.jpeg")
    found = checked(root)
    assert found["leaks"] == [
        "1 group of near-identical images across splits: "
        "test/PNEUMONIA/person50_virus_50.png = train/PNEUMONIA/person9999_bacteria_1.jpeg"
    ]
    assert found["near_identical"][0]["splits"] == ["train", "test"]
    assert found["near_identical"][0]["patients"] == ["bacteria-9999", "virus-50"]


def test_identical_files_across_splits_are_a_leak(root):
    shutil.copy(root / place(49, "test"), root / "val/NORMAL/IM-9999-0001.png")
    found = checked(root)
    assert found["leaks"] == [
        "1 group of identical files across splits: test/NORMAL/IM-0049-0001.png = val/NORMAL/IM-9999-0001.png"
    ]
    assert found["near_identical"] == []


def test_identical_files_within_a_split_are_a_warning(root):
    shutil.copy(root / place(1, "train"), root / "train/NORMAL/IM-0001-0002.png")
    shutil.copy(root / place(3, "train"), root / "train/NORMAL/IM-9999-0001.png")
    shutil.copy(root / place(5, "train"), root / "train/PNEUMONIA/person7777_virus_1.png")
    found = checked(root)
    assert found["leaks"] == []
    twice, labels = found["warnings"][1:]
    assert twice.startswith("3 groups of identical files within a split count twice; the patients differ in 2 of them")
    assert labels.startswith("1 group of identical files with both labels: train/NORMAL/IM-0005-0001.png = ")


def test_the_paths_that_are_shown_are_of_different_splits(root):
    for n in range(9990, 9994):
        shutil.copy(root / place(49, "test"), root / f"test/NORMAL/IM-{n}-0001.png")
    shutil.copy(root / place(49, "test"), root / "train/NORMAL/IM-9999-0001.png")
    assert "across splits: test/NORMAL/IM-0049-0001.png = train/NORMAL/IM-9999-0001.png = " in checked(root)["leaks"][0]


def test_a_copy_of_a_copy_is_in_one_group(root, radiographs):
    copied = root / "val/NORMAL/IM-9999-0001.png"
    shutil.copy(root / place(49, "test"), copied)
    save(radiographs[49], root / "train/NORMAL/IM-9998-0001.jpeg", quality=85)
    (group,) = checked(root)["near_identical"]
    assert len(group["paths"]) == 3
    assert group["splits"] == ["train", "val", "test"]


def test_patients_across_splits(root, radiographs):
    save(ImageOps.mirror(radiographs[2]), root / "test/PNEUMONIA/person2_virus_99.png")
    found = checked(root)
    assert found["patients_in_several_splits"] == {"virus-2": ["train", "test"]}
    assert found["leaks"] == ["1 patient in more than one split: virus-2 (train, test)"]


def test_unreadable_files_with_their_reasons(root):
    (root / "train/NORMAL/IM-9990-0001.jpeg").write_text("no image")
    shutil.copy(root / "train/NORMAL/IM-9990-0001.jpeg", root / "train/NORMAL/IM-9991-0001.jpeg")
    whole = (root / place(1, "train")).read_bytes()
    (root / "test/NORMAL/IM-9992-0001.png").write_bytes(whole[: len(whole) // 2])
    (root / "test/NORMAL/IM-9993-0001.png").symlink_to("nowhere")
    found = checked(root)
    reasons = {Path(path).name: reason for path, reason in found["unreadable"].items()}
    assert sorted(reasons) == [f"IM-{n}-0001.{suffix}" for n, suffix in
                               ((9990, "jpeg"), (9991, "jpeg"), (9992, "png"), (9993, "png"))]  # fmt: skip
    assert "not a JPEG" in reasons["IM-9990-0001.jpeg"]
    assert reasons["IM-9991-0001.jpeg"] == reasons["IM-9990-0001.jpeg"]
    assert reasons["IM-9993-0001.png"] == "No such file or directory"
    assert found["leaks"] == []
    assert checked(root, store=None)["unreadable"] == found["unreadable"]


def test_a_folder_of_nothing_readable(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / "NORMAL").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "NORMAL" / f"{name}.png").write_text(name)
    found = checked(tmp_path)
    assert len(found["unreadable"]) == 2
    assert found["width"] is None


def test_blank_and_inverted(root, radiographs):
    save(Image.new("L", (96, 96), 7), root / "train/NORMAL/IM-9990-0001.png")
    save(Image.new("L", (96, 96), 9), root / "test/NORMAL/IM-9991-0001.png")
    save(ImageOps.mirror(ImageOps.invert(radiographs[3])), root / "train/NORMAL/IM-9992-0001.png")
    found = checked(root)
    assert [Path(path).name for path in found["blank"]] == ["IM-9991-0001.png", "IM-9990-0001.png"]
    assert [Path(path).name for path in found["inverted"]] == ["IM-9992-0001.png"]
    assert found["leaks"] == []  # two blank images are not copies of each other
    assert [line.split(":")[0] for line in found["warnings"][1:]] == [
        "2 images look blank",
        "1 image looks like a negative of the others",
    ]


def test_size_and_mode_that_tell_the_label(radiographs, tmp_path):
    for i, image in enumerate(radiographs):
        changed = image.convert("RGB").resize((80, 80)) if i % 2 else image
        save(changed, tmp_path / place(i, "train"))
    found = checked(tmp_path)
    assert found["auc"]["size"]["value"] == found["auc"]["mode"]["value"] == 1.0
    assert "width and height alone predict the label with AUC 1.00" in found["warnings"]
    assert "the colour mode alone predicts the label with AUC 1.00" in found["warnings"]
    assert "all 30 images of mode RGB are normal" in found["warnings"]


@pytest.mark.parametrize("n", [6, 9, 30])
def test_a_giveaway_shows_in_a_small_set_too(radiographs, tmp_path, n):
    for i, image in enumerate(radiographs[: 2 * n]):
        save(image.resize((80, 80)) if i % 2 else image, tmp_path / place(i, "train"))
    assert checked(tmp_path)["auc"]["size"]["value"] == 1.0
    for path in list(tmp_path.rglob("*.png"))[8:]:
        path.unlink()
    assert checked(tmp_path)["auc"]["size"] is None  # too few patients for folds


def test_a_faint_image_is_not_blank(root, radiographs):
    save(radiographs[3].point(lambda grey: 100 + grey // 20), root / "train/NORMAL/IM-9992-0001.png")
    assert checked(root)["blank"] == []


def test_what_splits_lack(radiographs, tmp_path):
    save(radiographs[0], tmp_path / "normal" / "scan 1.png")
    assert checked(tmp_path)["warnings"] == [
        "there are no splits: `cxr-sklearn subset` or cxr_sklearn.group_split draws them by patient",
        "1 image of unknown patients: each is treated as a separate patient, so leaks may go undetected",
    ]
    save(radiographs[1], tmp_path / "train" / "normal" / "IM-0001-0001.png")
    assert checked(tmp_path)["warnings"][:4] == [
        "1 image in no split", "there is no val split", "there is no test split",
        "the train split has images of one class only",
    ]  # fmt: skip


def test_a_second_check_reads_no_image_again(root, monkeypatch):
    first = checked(root)
    monkeypatch.setattr("cxr_sklearn.features._image_stats._measure", None)
    assert checked(root) == first


def test_a_table_without_its_columns():
    frame = make_radiographs(10, size=32, random_state=0)[1].assign(path="a", split="train")
    with pytest.raises(DataError, match=r"lacks the columns \['patient'\]"):
        check(frame.drop(columns="patient"))


def test_different_radiographs_are_not_alike(monkeypatch):
    """All pairs of drawn images; `test_the_real_folder` compares all pairs of real ones."""
    images, _ = make_radiographs(100, size=64, random_state=1)
    spectra = image_stats(images, None, "", 0).spectra
    assert similar_groups(spectra) == []
    copied = np.concatenate([spectra, spectra[:3] * 1.2])
    for block in (1024, 7):
        monkeypatch.setattr("cxr_sklearn.datasets.audit._BLOCK", block)
        assert [group.tolist() for group in similar_groups(copied)] == [[i, i + len(spectra)] for i in range(3)]


def test_no_near_identical_image_is_missed():
    """Pairs on either side of the limit, negatives among them, against the correlations of all pairs."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.arange(24), np.arange(24))).ravel()[1:] ** 1.5
    first = rng.standard_normal((150, 575)) * rng.uniform(0.1, 3, 575)
    noise = rng.standard_normal((150, 575)) * rng.uniform(0.1, 3, 575)
    second = rng.choice((-1, 1), (150, 1)) * (first + rng.uniform(0.2, 0.45, (150, 1)) * noise)
    weighted = np.concatenate([first, second])
    unit = weighted / np.linalg.norm(weighted, axis=1, keepdims=True)
    alike = np.abs(np.einsum("ij,ij->i", unit[:150], unit[150:])) >= 0.95
    assert 30 < alike.sum() < 120
    found = similar_groups((weighted / frequency).astype(np.float32))
    assert [group.tolist() for group in found] == [[i, i + 150] for i in np.flatnonzero(alike)]


@pytest.mark.realdata
def test_the_real_folder(real_data, tmp_path):
    frame = load_folder(real_data / "chest_xray_224")
    found = check(frame)
    assert found["leaks"] == []
    assert found["patients_in_several_splits"] == found["unreadable"] == {}
    assert len(found["identical"]) == 24
    assert all(len(group["splits"]) == 1 for group in found["identical"])
    assert found["near_identical"] == found["blank"] == found["inverted"] == []
    assert "a validation split of 16 images decides nothing" in found["warnings"][0]
    source = frame.query("split == 'test' and label == 'pneumonia'").iloc[7]
    save(Image.open(source["path"]), tmp_path / "train/PNEUMONIA/person9999_virus_1.jpeg", quality=80)
    copy = load_folder(tmp_path).iloc[0]
    again = check(pd.concat([frame, copy.to_frame().T.astype(frame.dtypes)]))
    (group,) = again["near_identical"]
    assert set(group["paths"]) == {source["path"], copy["path"]}
    assert len(again["leaks"]) == 1
