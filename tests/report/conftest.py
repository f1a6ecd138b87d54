"""One run with everything that a report can show, made from kept features."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from cxr_sklearn import adapt, compare, evaluate, train, write_radiographs
from cxr_sklearn.evaluation.tables import TABLES, write_table
from cxr_sklearn.images.changes import CHANGES
from cxr_sklearn.report import page
from cxr_sklearn.report.words import words
from cxr_sklearn.study.run_folder import write_results
from cxr_sklearn.study.search import training_table

#: A name of a column as nobody would expect it.
ODD = '<b>Ort|"ñ"</b> `x` {0}'


def recording(lang, said):
    say = words(lang)

    def say_and_note(key, **values):
        said.add(key)
        return say(key, **values)

    return say_and_note


@pytest.fixture(scope="session")
def said():
    """Keys of the catalogue used by the reports of `rendered`."""
    return set()


@pytest.fixture(scope="session")
def rendered(embedded_frame, said, tmp_path_factory):
    """Folder of a run by language; its tables include epochs, probes and a learning curve."""
    frame, store = embedded_frame
    first = tmp_path_factory.mktemp("report")
    number = pd.Series(pd.factorize(frame["patient"])[0], frame.index)
    first_of_test = number[(frame["split"] == "test") & (frame["target"] == 0)].iloc[0]
    further = {
        "sex": np.array(["F", "M", None])[number % 3],
        "age": number % 90,
        "kvp": number / 7,
        ODD: np.where(number == first_of_test, "one | patient", "<script>alert('x')</script> *a* & `b`"),
    }
    compare(frame.assign(**further), ["vgg16_logistic", "shortcuts"], out=first, weights="random", store=store, cv=3,
            by=(*further, "subtype"))  # fmt: skip
    epochs = {"head": {"loss": [1.0, 0.5], "auc": [0.5, 0.75]},
              "all": {"loss": [0.5, 0.4, 0.1, 0.05, 0.02], "auc": [0.8, 0.9, 1.0, 1.0, 1.0],
                      "val_loss": [0.5, 0.45, 0.6, 0.9, 1.1]}}  # fmt: skip
    write_table(training_table("vgg16_logistic", epochs), first, "training")
    scores = pd.read_csv(first / "scores.csv")
    rng = np.random.default_rng(0)
    probes = [scores[scores["split"] == "train"].assign(probe="permuted")]
    probes += [scores[(scores["split"] == "test") & (scores["pipeline"] != "shortcuts")].assign(probe=part)
               for part in ("border", "centre")]  # fmt: skip
    probes += [scores[(scores["split"] == "train") & (scores["fold"] == 0) & (scores["pipeline"] != "shortcuts")]
               .assign(probe=f"stress:{change}") for change in ("clean", *CHANGES)]  # fmt: skip
    table = pd.concat(probes)
    write_table(table.assign(score=rng.random(len(table))), first, "probes")
    later = scores[(scores["split"] != "train") & (scores["pipeline"] == "vgg16_logistic")]
    runs = pd.concat(later.assign(run=run, score=(4 * later["score"] + rng.random(len(later))) / 5) for run in (2, 3))
    same = scores[(scores["split"] != "train") & (scores["pipeline"] == "shortcuts")].assign(run=2)
    write_table(pd.concat([runs, same]), first, "runs")
    metrics = json.loads((first / "metrics.json").read_text())
    metrics["run"]["repeats"] = 3
    for entry in metrics["split_shift"]:  # as if there were patients enough
        if (entry["b"], entry["label"]) == ("test", "normal"):
            entry |= {"auc": 0.7, "ci95": [0.6, 0.8], "p": 0.001, "p_holm": 0.003, "told_apart": True, "measures": []}
    (first / "metrics.json").write_text(json.dumps(metrics))
    curve = [("vgg16_logistic", "random", "held-out", 40, n, repeat, 0.5 + n / 400 + 0.01 * repeat)
             for n in (30, 60, 75) for repeat in range(3)]  # fmt: skip
    write_table(pd.DataFrame(curve, columns=TABLES["learning_curve"].columns), first, "learning_curve")
    folders = {"en": first, "es": tmp_path_factory.mktemp("report") / "es"}
    shutil.copytree(first, folders["es"])
    for lang, folder in folders.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(page, "words", lambda lang: recording(lang, said))
            write_results(folder, lang=lang, overwrite=True)
    return folders


@pytest.fixture(scope="session")
def rendered_evaluation(tmp_path_factory):
    """Folder of an evaluation by language: of a model as it was made, and adapted, at another place."""
    folder = tmp_path_factory.mktemp("evaluation")
    here = write_radiographs(folder / "here", 80, size=32, random_state=0)
    there = write_radiographs(folder / "there", 80, size=32, style="B", random_state=1)
    model = train(here, "shortcuts", store=None, cv=3)
    models = {"as made": model, "adapted": adapt(model, there["path"], prevalence=(0.4, 0.6), store=None)}
    evaluate(models, there.assign(sex=np.resize(["F", "M"], len(there))), out=folder / "en", by="sex", store=None)
    shutil.copytree(folder / "en", folder / "es")
    write_results(folder / "es", lang="es", overwrite=True)
    return {lang: folder / lang for lang in ("en", "es")}
