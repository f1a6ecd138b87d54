"""A killed training resumes from its checkpoint and ends as if nothing had happened."""

import signal
import subprocess
import sys
import textwrap
from threading import Event

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from cxr_sklearn import FineTunedClassifier, ImageAugmenter, ImageLoader, load_model, make_radiographs, save_model
from cxr_sklearn.classifiers import _training as training
from cxr_sklearn.classifiers import finetuned
from cxr_sklearn.classifiers._training import Checkpoint
from cxr_sklearn.exceptions import TrainingError

keras = pytest.mark.keras
OPTIONS = {
    "backbone": "VGG16", "weights": "random", "layer": "block2_pool", "dense_units": 4, "epochs": 4, "batch_size": 16,
    "learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.5, "augmenter": ImageAugmenter(), "random_state": 0,
    "precision": "float32",
}  # fmt: skip
KINDS = {
    "all": {"trainable_from": "all", "head_epochs": 0, "early_stopping": False, "average_epochs": 2},
    "fixed views": {"trainable_from": "block2_conv1", "head_epochs": 2, "n_views": 2, "patience": 4},
    "views drawn anew": {"trainable_from": "block2_conv1", "head_epochs": 0, "n_views": None, "patience": 4},
}


@pytest.fixture(scope="module")
def data():
    images, frame = make_radiographs(24, size=32, random_state=0)
    return images, frame["target"].to_numpy()


class Killed(BaseException):
    pass


def killed_at(moment, monkeypatch):
    """Let the next fit fail at the n-th call of a method."""
    name, n = moment
    place = {
        "epoch": (training, "_one_epoch"),
        "evaluation": (finetuned, "monitored_scores"),
        "save": (Checkpoint, "save"),
    }
    holder, attribute = place[name]
    original, counted = getattr(holder, attribute), []

    def killing(*args, **kwargs):
        counted.append(1)
        if len(counted) == n:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(holder, attribute, killing)


@pytest.fixture(scope="module")
def uninterrupted(data):
    """Uninterrupted fits of all kinds."""
    return {kind: FineTunedClassifier(**OPTIONS, **options).fit(*data) for kind, options in KINDS.items()}


@keras
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "moment", "n_epochs"),
    [
        ("all", ("epoch", 4), 1),
        ("all", ("epoch", 1), 4),
        ("all", ("save", 1), 4),
        ("all", ("save", 3), 3),
        ("all", ("evaluation", 2), 3),
        ("fixed views", ("save", 1), 2 + 4),
        ("fixed views", ("epoch", 2 + 3), 2),
        ("views drawn anew", ("save", 6), 0),
    ],
)
def test_a_continued_fit_equals_an_uninterrupted_one(
    data, uninterrupted, tmp_path, monkeypatch, kind, moment, n_epochs
):
    whole = uninterrupted[kind]
    options = {**OPTIONS, **KINDS[kind], "checkpoint": tmp_path}
    with monkeypatch.context() as patched:
        killed_at(moment, patched)
        with pytest.raises(Killed):
            FineTunedClassifier(**options).fit(*data)
    epochs = []
    one_epoch = training._one_epoch
    monkeypatch.setattr(training, "_one_epoch", lambda *args: epochs.append(1) or one_epoch(*args))
    continued = FineTunedClassifier(**options).fit(*data)
    for ours, theirs in zip(continued.weights_, whole.weights_, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert continued.history_ == whole.history_
    assert continued.head_history_ == whole.head_history_
    assert len(epochs) == n_epochs


@keras
def test_a_fit_that_had_ended_is_done_at_once(data, tmp_path, monkeypatch):
    options = {**OPTIONS, **KINDS["all"], "checkpoint": tmp_path}
    first = FineTunedClassifier(**options).fit(*data)
    monkeypatch.setattr(training, "_one_epoch", None)
    again = FineTunedClassifier(**options).fit(*data)
    for ours, theirs in zip(again.weights_, first.weights_, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert again.n_epochs_ == 4
    assert len(list(tmp_path.iterdir())) == 1


@keras
@pytest.mark.parametrize(
    "change", [{"learning_rate": 1e-4}, {"random_state": 1}, {"augmenter": ImageAugmenter(rotation=3)}, {"epochs": 3}]
)
def test_another_training_has_another_file(data, tmp_path, change):
    options = {**OPTIONS, **KINDS["all"], "epochs": 2, "average_epochs": 0, "checkpoint": tmp_path}
    first = FineTunedClassifier(**options).fit(*data)
    other = FineTunedClassifier(**{**options, **change}).fit(*data)
    assert not np.array_equal(first.weights_[0], other.weights_[0])
    assert len(list(tmp_path.iterdir())) == 2


@keras
def test_every_fit_of_a_search_has_its_own(data, tmp_path):
    images, y = data
    options = {**OPTIONS, **KINDS["all"], "epochs": 1, "average_epochs": 0, "checkpoint": tmp_path / "new" / "folder"}
    model = make_pipeline(ImageLoader(32), FineTunedClassifier(**options))
    GridSearchCV(model, {"finetunedclassifier__learning_rate": [1e-3, 1e-4]}, cv=2).fit(images, y)
    assert len(list((tmp_path / "new" / "folder").iterdir())) == 2 * 2 + 1


@keras
def test_a_model_file_holds_no_path_of_its_checkpoint(data, tmp_path):
    images, y = data
    options = {**OPTIONS, **KINDS["all"], "epochs": 1, "average_epochs": 0, "checkpoint": tmp_path / "half-done"}
    model = make_pipeline(ImageLoader(32), FineTunedClassifier(**options)).fit(images, y)
    save_model(model, tmp_path / "model.skops")
    assert b"half-done" not in (tmp_path / "model.skops").read_bytes()
    loaded = load_model(tmp_path / "model.skops")
    assert loaded.pipeline[-1].checkpoint is None
    np.testing.assert_allclose(loaded.predict_proba(images), model.predict_proba(images), atol=1e-6)


@keras
@pytest.mark.slow
def test_a_process_that_is_killed_loses_an_epoch_at_most(tmp_path):
    script = textwrap.dedent("""
        import sys
        import numpy as np
        from cxr_sklearn import FineTunedClassifier, ImageAugmenter, make_radiographs
        images, frame = make_radiographs(24, size=32, random_state=0)
        classifier = FineTunedClassifier(
            "VGG16", "random", "all", "block3_pool", dense_units=0, head_epochs=0, epochs=3, learning_rate=1e-5,
            schedule="cosine", early_stopping=False, augmenter=ImageAugmenter(), precision="float32", random_state=0,
            checkpoint=sys.argv[1] if len(sys.argv) > 2 else None,
        ).fit(images, frame["target"])
        np.savez(sys.argv[1] + ".npz", *classifier.weights_)
    """)
    folder = tmp_path / "checkpoint"
    process = subprocess.Popen([sys.executable, "-c", script, str(folder), "continue"])
    while process.poll() is None:  # until an epoch is done: the file of the first is replaced
        found = list(folder.glob("[!.]*.npz")) if folder.exists() else []
        if found and Checkpoint.load(_at(found[0])).facts["history"]:
            process.send_signal(signal.SIGKILL)
            process.wait()
    assert process.returncode == -signal.SIGKILL
    for arguments in ([str(folder), "continue"], [str(tmp_path / "whole")]):
        subprocess.run([sys.executable, "-c", script, *arguments], check=True)
    continued, whole = (np.load(f"{path}.npz") for path in (folder, tmp_path / "whole"))
    assert all(np.array_equal(continued[name], whole[name]) for name in whole)


def _at(path):
    checkpoint = Checkpoint.__new__(Checkpoint)
    checkpoint.path = path
    return checkpoint


def test_a_checkpoint_is_read_as_it_was_saved(tmp_path):
    checkpoint = Checkpoint(tmp_path / "a" / "b", {"rate": 0.1}, [b"image"])
    assert checkpoint.load() is None
    arrays = {"weights": [np.arange(3, dtype=np.float32), np.zeros(())], "none": []}
    checkpoint.save(arrays, {"loss": [0.1, float("inf")]})
    found = Checkpoint(tmp_path / "a" / "b", {"rate": 0.1}, [b"image"]).load()
    assert found.facts == {"loss": [0.1, float("inf")]}
    assert found.arrays["none"] == []
    for ours, theirs in zip(found.arrays["weights"], arrays["weights"], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for identity, rows in (({"rate": 0.2}, [b"image"]), ({"rate": 0.1}, [b"imag", b"e"])):
        assert Checkpoint(tmp_path / "a" / "b", identity, rows).load() is None


@pytest.mark.parametrize("content", [b"", b"PK", b"not a zip archive at all"])
def test_a_damaged_checkpoint_is_reported(tmp_path, content):
    checkpoint = Checkpoint(tmp_path, {}, [])
    checkpoint.path.write_bytes(content)
    with pytest.raises(TrainingError, match="remove it to train from the start"):
        checkpoint.load()


def test_half_a_checkpoint_never_takes_the_place_of_a_whole_one(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path, {}, [])
    checkpoint.save({"weights": [np.ones(2)]}, {})

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save({"weights": [np.zeros(2)]}, {})
    assert checkpoint.load().arrays["weights"][0].tolist() == [1, 1]
    assert len(list(tmp_path.iterdir())) == 1


def test_batches_come_in_order_and_are_read_ahead():
    rows = np.arange(20)

    third_is_read = Event()

    class Images:
        def __getitem__(self, index):
            if 9 in index:
                third_is_read.set()
            return rows[index][:, None]

    found = training.batches(Images(), rows, rows / 2, 4, rows[:18][::-1])
    parts = [next(found)]
    assert third_is_read.wait(10)  # while the network has the first
    parts += found
    assert [len(images) for images, *_ in parts] == [4, 4, 4, 4, 2]
    for i, expected in enumerate((rows[:18][::-1, None], rows[:18][::-1], rows[:18][::-1] / 2)):
        np.testing.assert_array_equal(np.concatenate([batch[i] for batch in parts]), expected)


def test_what_cannot_be_read_is_said_when_it_is_needed():
    class Images:
        def __getitem__(self, index):
            if 8 in index:
                raise ValueError("cut short")
            return index

    rows = np.arange(12)
    found = training.batches(Images(), rows, rows, 4, rows)
    assert [next(found)[0].tolist() for _ in range(2)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    with pytest.raises(ValueError, match="cut short"):
        next(found)
