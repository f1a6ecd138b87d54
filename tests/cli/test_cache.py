"""The command that looks after the feature store."""

import json

import pytest
from typer.testing import CliRunner

from cxr_sklearn.cli import app
from cxr_sklearn.cli.cache import _age

from ..features.test_upkeep import NETWORK, execute, filled


def call(*arguments, **options):
    return CliRunner().invoke(app, ["cache", *map(str, arguments)], **options)


@pytest.fixture
def folder(tmp_path):
    filled(tmp_path / "store")
    filled(tmp_path / "store", "VGG16-old", {**NETWORK, "weights": "random:7"})
    (tmp_path / "store" / "notes.txt").write_text("mine")
    return tmp_path / "store"


def test_info(folder):
    done = call("info", "--store", folder)
    assert done.exit_code == 0
    assert f"2 files of the feature store in {folder}" in done.output
    assert "just now" in done.output
    assert "Obsolete: VGG16-old-" in done.output
    assert call("--store", folder).output == done.output


def test_info_as_json(folder):
    found = json.loads(call("info", "--store", folder, "--json").stdout)
    assert found["folder"] == str(folder)
    assert [(file["name"], file["rows"], bool(file["lost"])) for file in found["files"]] == [
        ("VGG16-avg", 4, False),
        ("VGG16-old", 4, True),
    ]
    assert found["bytes"] == sum(path.stat().st_size for path in folder.glob("*.sqlite"))


def test_the_store_is_where_it_always_is(folder, monkeypatch):
    monkeypatch.setenv("CXR_SKLEARN_CACHE", str(folder))
    assert str(folder) in call("info").output
    monkeypatch.setenv("CXR_SKLEARN_CACHE", str(folder / "absent"))
    assert "There is no folder" in call("info").output
    assert not (folder / "absent").exists()


def test_verify(folder):
    assert call("verify", "--store", folder).exit_code == 0
    execute(next(folder.glob("VGG16-avg*")), "UPDATE features SET row = x'00' WHERE rowid = 1")
    done = call("verify", "--store", folder)
    assert done.exit_code == 1
    assert "1 of 4 rows are damaged" in done.output


def test_prune(folder):
    assert "removed, because its random weights" in call("prune", "--store", folder).output
    assert "nothing to remove" in call("prune", "--store", folder).output
    assert len(list(folder.iterdir())) == 2


def test_clear_asks_first(folder):
    before = sorted(folder.iterdir())
    unanswered = call("clear", "--store", folder)
    assert unanswered.exit_code == 1
    assert "--yes clears without a question" in unanswered.output
    assert call("clear", "--store", folder, input="n\n").exit_code == 1
    assert sorted(folder.iterdir()) == before
    assert call("clear", "--store", folder, input="y\n").exit_code == 0
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_clear_without_a_question(folder):
    done = call("clear", "--store", folder, "--yes")
    assert "Removed 2 files of the feature store" in done.output
    assert "What else is in the folder stays there, for example notes.txt" in done.output
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_folder_that_is_not_there_is_said(tmp_path):
    done = call("info", "--store", tmp_path / "nowhere")
    assert done.exit_code == 0
    assert "There is no folder" in done.output


@pytest.mark.parametrize("action", ["prune", "clear"])
def test_what_is_removed_is_not_said_in_json(folder, action):
    done = call(action, "--json", "--store", folder)
    assert done.exit_code == 2
    assert "prints no JSON" in done.output


@pytest.mark.parametrize("action", ["info", "verify", "prune", "clear"])
def test_a_file_is_no_store(folder, action):
    done = call(action, "--store", folder / "notes.txt")
    assert done.exit_code == 1
    assert "notes.txt is a file; give the folder that the store is in" in done.output


@pytest.mark.parametrize("arguments", [["sweep"], ["info", "--store", "none"]])
def test_wrong_usage(arguments):
    assert call(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("seconds", "words"), [(5, "just now"), (61, "1 minute ago"), (7300, "2 hours ago"), (200_000, "2 days ago")]
)
def test_ages(seconds, words):
    assert _age(seconds) == words
