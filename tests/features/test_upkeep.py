"""The upkeep of a feature store: what is there, what is sound, what may go."""

import sqlite3
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from cxr_sklearn import FeatureStore
from cxr_sklearn.exceptions import StoreError
from cxr_sklearn.features._image_stats import DESCRIPTORS, RECIPE
from cxr_sklearn.features._upkeep import prune, remove, strangers, survey
from cxr_sklearn.images import _digests
from cxr_sklearn.images._decoding import DECODER

from ..conftest import write_image

NETWORK = {
    **{"backbone": "VGG16", "layer": None, "pooling": "avg", "precision": "float32", "weights": "random:0"},
    "decoder": DECODER,
}


def filled(folder, name="VGG16-avg", recipe=NETWORK, n=4):
    store = FeatureStore(folder, name, recipe)
    with store.claim([sha256(bytes([i])).digest() for i in range(n)]) as (missing, rows):
        rows.update({key: np.full(8, i, dtype=np.float32) for i, key in enumerate(missing)})
    return store.path


def execute(path, *statements):
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_a_store_that_is_not_there(tmp_path):
    assert survey(tmp_path / "absent") == strangers(tmp_path / "absent") == prune(tmp_path / "absent") == []


def test_what_is_there(tmp_path):
    path = filled(tmp_path)
    filled(tmp_path, DESCRIPTORS, RECIPE, n=2)
    FeatureStore(tmp_path, "x", {}).digests([write_image(tmp_path / "images" / "a.png")])
    files = {file.name: file for file in survey(tmp_path, thorough=True)}
    assert set(files) == {"VGG16-avg", "descriptors", "digests"}
    assert (files["VGG16-avg"].path, files["VGG16-avg"].n_rows) == (path, 4)
    assert files["VGG16-avg"].recipe == NETWORK
    assert files["VGG16-avg"].n_bytes == path.stat().st_size
    assert files["descriptors"].n_rows == 2
    assert not any(file.lost or file.fault or file.n_lost for file in files.values())
    assert prune(tmp_path) == []
    assert [place.name for place in strangers(tmp_path)] == ["images"]


@pytest.mark.parametrize(
    ("name", "recipe", "reason"),
    [
        ("descriptors", {"measures": ["width"]}, "another version measured other things"),
        ("VGG17-avg", {**NETWORK, "backbone": "VGG17"}, "there is no network 'VGG17'"),
        ("VGG16-avg", {**NETWORK, "decoder": DECODER - 1}, "decoded differently"),
        ("VGG16-avg", {**NETWORK, "weights": "random:9"}, "drawn with another seed"),
    ],
)
def test_what_no_estimator_looks_for(tmp_path, name, recipe, reason):
    path = filled(tmp_path, name, recipe)
    kept = filled(tmp_path, "VGG16-max", {**NETWORK, "pooling": "max"})
    (file,) = [file for file in survey(tmp_path) if file.path == path]
    assert reason in file.lost
    assert len(prune(tmp_path)) == 1
    assert [file.path for file in survey(tmp_path)] == [kept]


def test_features_of_somebodys_own_are_not_judged(tmp_path):
    path = filled(tmp_path, "texture", {"backbone": "mine", "radius": 3})
    assert survey(tmp_path)[0].lost is None
    assert prune(tmp_path) == []
    assert path.exists()


def test_what_the_embedder_writes_is_not_lost(embedded_frame):
    _, store = embedded_frame
    assert [file.lost for file in survey(store)] == [None] * len(survey(store))
    assert any(file.name.startswith("VGG16") for file in survey(store))


def test_a_file_that_was_renamed_is_lost(tmp_path):
    path = filled(tmp_path)
    path.rename(tmp_path / "VGG16-avg-00000000.sqlite")
    assert "its name does not fit its content" in survey(tmp_path)[0].lost
    prune(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_damaged_rows_are_told_and_removed(tmp_path):
    path = filled(tmp_path)
    execute(path, "UPDATE features SET row = x'00' WHERE rowid = 2", "UPDATE features SET crc32 = 'x' WHERE rowid = 3")
    assert survey(tmp_path)[0].fault is None  # rows are not read
    (file,) = survey(tmp_path, thorough=True)
    assert (file.n_rows, file.n_lost) == (4, 2)
    assert "2 of 4 rows are damaged" in file.fault
    prune(tmp_path)
    (file,) = survey(tmp_path, thorough=True)
    assert (file.n_rows, file.n_lost, file.fault) == (2, 0, None)


def test_digests_of_images_that_are_gone_or_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(_digests, "_SETTLED_NS", 0)
    images = [write_image(tmp_path / "images" / f"{i}.png", seed=i) for i in range(3)]
    FeatureStore(tmp_path / "store", "x", {}).digests(images)
    (file,) = survey(tmp_path / "store")
    assert (file.n_rows, file.n_lost) == (3, 0)
    Path(images[0]).unlink()
    write_image(Path(images[1]), seed=7)
    (file,) = survey(tmp_path / "store")
    assert (file.n_rows, file.n_lost) == (3, 2)
    assert prune(tmp_path / "store") == ["digests.sqlite: 2 of 3 rows removed"]
    (file,) = survey(tmp_path / "store")
    assert (file.n_rows, file.n_lost) == (1, 0)


def test_what_was_set_aside_is_lost(tmp_path):
    path = filled(tmp_path)
    path.replace(path.with_suffix(".damaged"))
    (tmp_path / "notes-0123abcd.damaged").write_text("mine")
    (file,) = survey(tmp_path)
    assert file.lost == "it was damaged and set aside"
    prune(tmp_path)
    assert [place.name for place in tmp_path.iterdir()] == ["notes-0123abcd.damaged"]


def test_nothing_of_others_is_ever_removed(tmp_path):
    execute(tmp_path / "other.sqlite", "CREATE TABLE features (a)", "CREATE TABLE recipe (json)")
    execute(tmp_path / "other-0123abcd.sqlite", "CREATE TABLE patients (name)")
    execute(tmp_path / "digests.sqlite", "CREATE TABLE songs (name)")
    (tmp_path / "text-0123abcd.sqlite").write_text("mine")
    elsewhere = filled(tmp_path / "elsewhere")
    (tmp_path / elsewhere.name).symlink_to(elsewhere)
    before = sorted(tmp_path.iterdir())
    assert survey(tmp_path) == []
    assert strangers(tmp_path) == before
    assert {file.path.name for file in survey(tmp_path, thorough=True)} == {
        "other-0123abcd.sqlite", "digests.sqlite", "text-0123abcd.sqlite",
    }  # fmt: skip
    assert all("not a feature store" in file.fault for file in survey(tmp_path, thorough=True))
    prune(tmp_path)
    for place in before:
        with pytest.raises(StoreError, match="is not a file of a feature store, and stays"):
            remove(place)
    assert sorted(tmp_path.iterdir()) == before
    assert elsewhere.exists()


def test_a_file_in_use_stays(tmp_path):
    path = filled(tmp_path)
    store = FeatureStore(tmp_path, "VGG16-avg", NETWORK)
    with store.claim([b"x" * 32]), pytest.raises(StoreError, match="cannot be changed now"):
        remove(path)
    with store.kept_open():
        with store.claim([b"x" * 32]) as (_, rows):
            rows[b"x" * 32] = np.zeros(8, dtype=np.float32)
        with pytest.raises(StoreError, match="is in use"):
            remove(path)
    assert len(store) == 5
    remove(path)
    assert list(tmp_path.iterdir()) == []


def test_pages_that_cannot_be_read(tmp_path):
    path = filled(tmp_path, n=200)
    content = bytearray(path.read_bytes())
    content[20_000:40_000] = b"x" * 20_000
    path.write_bytes(content)
    (file,) = survey(tmp_path, thorough=True)
    assert file.fault
    assert file.lost is None
