import copy
import json
import re
import shutil
import string

import pandas as pd
import pytest
from typer.main import get_command

from cxr_sklearn import compare
from cxr_sklearn.cli import app
from cxr_sklearn.exceptions import DataError
from cxr_sklearn.report.checklists import ABOUT, CHECKLISTS, answer_checklists, checklist_texts, read_about
from cxr_sklearn.report.words import LANGUAGES, words
from cxr_sklearn.study.run_folder import write_results

#: Of the published lists: TRIPOD+AI has 27 items and 52 with their parts, CLAIM 2024 44, and STARD-AI 40 and 48.
SIZES = {"tripod_ai": (27, 52), "claim": (44, 44), "stard_ai": (40, 48)}


def rate(value):
    return {"value": value, "ci95": [value - 0.05, value + 0.05]}


def metrics(**run):
    """As little of a metrics.json as the checklists look at."""
    counts = {"images": 1200, "patients": 900, "normal": 400, "pneumonia": 800}
    needed = {"images": 5000, "pneumonia": 3125}
    facts = {
        "test": {name: rate(0.9) for name in ("roc_auc", "recall", "specificity")},
        "sample_size": [needed], "subgroups": [], "stress": None, "sanity": None,
    }  # fmt: skip
    return {
        "pipelines": {"a_b": facts, "c": copy.deepcopy(facts)},
        "verdict": {"best": "a_b"},
        "run": {"lang": "en", "versions": {"python": "3.11.9", "cxr-sklearn": "0.1.0"}, "leaks": [], **run},
        "data": {
            **counts, "splits": {"train": counts, "val": dict.fromkeys(counts, 0), "test": counts}, "synthetic": False,
            "patients_unknown": 3, "patients_in_several_splits": 0, "copies_in_several_splits": 2,
        },
    }  # fmt: skip


def rows(facts, about=None):
    labels = {name: name for name in facts["pipelines"]}
    found = answer_checklists(facts, about or {}, labels, words(facts["run"]["lang"]))
    return {key: {row["number"]: row for row in one["rows"]} for key, one in zip(CHECKLISTS, found, strict=True)}


def test_every_official_number_is_there_once_and_in_order():
    for key, (n_items, n_rows) in SIZES.items():
        numbers = [number for number, _, _ in checklist_texts()[key]["items"]]
        assert len(numbers) == len(set(numbers)) == n_rows
        whole = [int(re.match(r"\d+", number)[0]) for number in numbers]
        assert sorted(set(whole)) == list(range(1, n_items + 1))
        assert whole == sorted(whole)


def places(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name)


def test_every_text_is_there_in_every_language_with_the_same_places():
    texts = checklist_texts()
    used = {name for key in CHECKLISTS for _, names, _ in texts[key]["items"] for name in names}
    assert used == set(texts["answer"])
    said = [topic for key in CHECKLISTS for _, _, topic in texts[key]["items"]]
    said += [answer[kind] for answer in texts["answer"].values() for kind in ("known", "evaluate", "open")
             if kind in answer]  # fmt: skip
    for text in said:
        assert set(text) == set(LANGUAGES), text
        assert places(text["en"]) == places(text["es"]), text


def test_an_answer_says_something_in_every_case():
    for name, answer in checklist_texts()["answer"].items():
        assert set(answer) <= {"known", "when", "evaluate", "of_development", "open", "supply"}, name
        assert "open" in answer or "known" in answer, name
        assert ("when" in answer) <= ("open" in answer and "known" in answer), name
        assert ("supply" in answer) <= ("open" in answer), name


def test_what_a_run_knows_is_answered_with_its_numbers():
    found = rows(metrics())
    assert found["claim"]["20"]["state"] == "answered"
    assert "copy in another split: 2." in found["claim"]["20"]["answer"]
    assert "a\\_b: ROC AUC 0.900 (0.850 to 0.950)" in found["stard_ai"]["31"]["answer"]
    assert "train 1\N{NARROW NO-BREAK SPACE}200 (800 with pneumonia), test 1" in found["tripod_ai"]["21"]["answer"]
    assert "cxr_sklearn 0.1.0, BSD" in found["tripod_ai"]["18f"]["answer"]
    for key, number in (("tripod_ai", "10"), ("claim", "21"), ("stard_ai", "22")):
        assert found[key][number]["state"] == "partly"
    assert "5\N{NARROW NO-BREAK SPACE}000 images, 3\N{NARROW NO-BREAK SPACE}125" in found["tripod_ai"]["10"]["answer"]


def test_what_only_the_author_knows_is_not_reported():
    row = rows(metrics())["tripod_ai"]["17"]
    assert row == {"number": "17", "topic": "Ethical approval", "state": "open",
                   "answer": "Not reported: ethical approval and consent (`ethics`)."}  # fmt: skip
    assert rows(metrics())["tripod_ai"]["6b"]["state"] == "partly"


@pytest.mark.parametrize(("number", "command", "change"), [
    ("13", "cxr-sklearn compare … --calibrate sigmoid", {"calibrated": "sigmoid"}),
    ("14", "cxr-sklearn compare … --by sex,age", {"by": {"sex": {}, "age": {}}}),
    ("12d", "cxr-sklearn compare … --by site", {"by": {"Site": {}}}),
    ("23a", "cxr-sklearn compare … --by sex,age", {"subgroups": [{"attribute": "brightness"}]}),
])  # fmt: skip
def test_a_command_would_tell_until_it_has_told(number, command, change):
    facts = metrics()
    row = rows(facts)["tripod_ai"][number]
    assert row["state"] in ("open", "partly")
    assert f"To report it: `{command}`." in row["answer"]
    facts["pipelines"]["a_b"] |= change
    row = rows(facts)["tripod_ai"][number]
    assert row["state"] == "answered"
    assert "Not reported" not in row["answer"]


def test_groups_that_the_package_makes_say_nothing_about_fairness():
    facts = metrics()
    facts["pipelines"]["a_b"]["subgroups"] = [{"attribute": "subtype"}, {"attribute": "brightness"}]
    facts["pipelines"]["a_b"]["by"] = {"subtype": {}}
    assert rows(facts)["tripod_ai"]["14"]["state"] == "open"
    assert rows(facts)["stard_ai"]["26a"]["state"] == "answered"


def test_changed_images_and_permuted_labels():
    facts = metrics()
    assert "--stress" in rows(facts)["claim"]["30"]["answer"]
    assert "--sanity" in rows(facts)["claim"]["31"]["answer"]
    facts["pipelines"]["c"] |= {"stress": {"clean": {}}, "sanity": {"permuted": {}}}
    assert {rows(facts)["claim"][number]["state"] for number in ("30", "31")} == {"answered"}


def test_a_second_look_at_test_has_to_be_explained():
    assert rows(metrics())["stard_ai"]["15c"]["state"] == "answered"
    row = rows(metrics(threshold_before="youden"))["stard_ai"]["15c"]
    assert row["state"] == "partly"
    assert "(`cutoff`)" in row["answer"]


@pytest.mark.parametrize("kind", ["compare", "evaluate"])
def test_images_that_models_have_seen_are_not_called_unseen(kind):
    facts = metrics(kind=kind, leaks=["a_b was made with 3 of these images"])
    row = rows(facts)["stard_ai"]["15c"]
    assert row["state"] == "partly"
    assert "No threshold was chosen" not in row["answer"]
    answer = rows(facts)["claim"]["20"]["answer"]
    assert ("a\\_b was made with 3 of these images." in answer) == (kind == "evaluate")
    answer = rows(metrics(kind="evaluate"))["claim"]["20"]["answer"]
    assert answer.endswith("that a model was made with: none.")


def test_a_model_that_was_adapted_is_said_to_be():
    facts = metrics(kind="evaluate")
    assert "before this run: none." in rows(facts)["tripod_ai"]["24"]["answer"]
    assert rows(facts)["tripod_ai"]["13"]["state"] == "development"
    facts["pipelines"]["c"] |= {"adapted": [{"kind": "labels"}], "calibrated": "adapted"}
    found = rows(facts)["tripod_ai"]
    assert "before this run: c. No model" in found["24"]["answer"]
    assert found["13"]["state"] == "answered"
    assert "Recalibrated: c: adapted to another place." in found["13"]["answer"]


def test_an_evaluation_leaves_the_development_to_the_other_card():
    facts = metrics(kind="evaluate")
    del facts["data"]["splits"]["train"], facts["data"]["splits"]["val"]
    found = rows(facts)
    for key, number in (("tripod_ai", "12c"), ("claim", "25"), ("claim", "30")):
        assert found[key][number]["state"] == "development"
        assert found[key][number]["answer"] == "See the card of the run that made the model."
    assert found["claim"]["33"]["state"] == "answered"
    assert found["claim"]["33"]["answer"].startswith(
        "This run, if its images are from another hospital: 1\N{NARROW NO-BREAK SPACE}200 images"
    )
    assert "cxr-sklearn evaluate … --by sex,age" in found["tripod_ai"]["14"]["answer"]
    assert "existing classifiers" in found["tripod_ai"]["4"]["answer"]


def test_scores_that_do_not_tell_the_size_of_the_next_validation():
    facts = metrics()
    facts["pipelines"]["a_b"]["sample_size"] = [{"images": None, "pneumonia": None}]
    assert rows(facts)["tripod_ai"]["10"]["state"] == "open"
    assert "(`sample_size`)" in rows(facts)["tripod_ai"]["10"]["answer"]


def test_the_author_answers(tmp_path):
    (tmp_path / ABOUT).write_text('ethics = "Approved | by the *board*"\nexternal = "Done in <b>2024</b>"\n')
    found = rows(metrics(), read_about(tmp_path))
    assert found["stard_ai"]["6"] == {"number": "6", "topic": "Ethical approval", "state": "answered",
                                      "answer": "Approved \\| by the \\*board\\*"}  # fmt: skip
    assert found["claim"]["33"]["answer"] == "Done in \\<b\\>2024\\</b\\>"
    assert read_about(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(("text", "message"), [
    ("ethics = ", "about.toml is not TOML .*write lines such as: ethics ="),
    ("etics = 'x'", r"has the names \['etics'\], which no checklist asks for; it can have .*, ethics,"),
    ("goal = 'x'", "which no checklist asks for"),
    ("ethics = 3", "ethics must be text"),
    ("ethics = ' '", "ethics must be text"),
])  # fmt: skip
def test_an_about_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / ABOUT).write_text(text)
    with pytest.raises(DataError, match=message):
        read_about(tmp_path)


def test_compare_refuses_it_before_any_work(tmp_path):
    (tmp_path / ABOUT).write_text("ethics = 3")
    with pytest.raises(DataError, match="ethics must be text"):
        compare(pd.DataFrame(), out=tmp_path)


def test_commands_have_the_options_that_would_tell():
    commands = get_command(app).commands
    for answer in checklist_texts()["answer"].values():
        for name in {"compare", "evaluate"} & set(commands):
            _, command, *rest = answer.get("supply", f"cxr-sklearn {name}").format(command=name).split()
            given = {option for param in commands[command].params for option in param.opts}
            assert {word for word in rest if word.startswith("--")} <= given


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_card_has_every_item(rendered, lang, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(rendered[lang], folder)
    (folder / ABOUT).write_text('funding = "No funding: 0 euros"')
    write_results(folder)
    card = (folder / "model-card.md").read_text()
    facts = json.loads((folder / "metrics.json").read_text())
    about, labels = read_about(folder), {name: name for name in facts["pipelines"]}
    for one in answer_checklists(facts, about, labels, words(lang)):
        part = card[card.index(f"<summary>{one['name']} (") :].split("</details>")[0]
        assert re.findall(r"^\| (\d+[a-z]?) \|", part, flags=re.MULTILINE) == [row["number"] for row in one["rows"]]
        assert f"- {one['name']}: {len(one['numbers']['answered'])} " in card
        assert "No funding: 0 euros" in part
    assert "(`funding`)" not in card
    assert (folder / ABOUT).read_text() == 'funding = "No funding: 0 euros"'
