import html as entities
import json
import re
import shutil

import pandas as pd
import pytest

from cxr_sklearn.evaluation.metrics import METRICS
from cxr_sklearn.evaluation.subgroups import COLUMN_RATES
from cxr_sklearn.evaluation.tables import read_scores, read_table
from cxr_sklearn.report import page
from cxr_sklearn.report.checklists import answer_checklists, checklist_texts
from cxr_sklearn.report.page import HEADLINE, N_DOUBTFUL, N_PICTURES, write_report
from cxr_sklearn.report.words import LANGUAGES, catalogue, words
from cxr_sklearn.study.run_folder import write_results

from .conftest import ODD

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:[\N{NARROW NO-BREAK SPACE}.,]\d+)*")


def read(folder):
    return (folder / "report.html").read_text(), json.loads((folder / "metrics.json").read_text())


def shown(html):
    """The text that a person reads: without styles and curves, with the labels for screen readers."""
    said = " ".join(re.findall(r'(?:aria-label|alt)="([^"]*)"', html))
    html = re.sub(r"<(style|svg)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return entities.unescape(re.sub(r"<[^>]*>", " ", html) + said)


# The format of a number depends on its meaning.
TWO_DIGITS, ONE_DIGIT = {"specificity", "prevalence"}, {"embedding", "fitting", "scoring"}


def numbers_of(node, key=""):
    """All numbers of metrics.json as the page can write them, and those in its texts, except points of curves."""
    if isinstance(node, dict):
        items = {name: value for name, value in node.items() if name != "roc_band"}
        return {n for name, value in items.items() for n in numbers_of(value, name) | set(NUMBER.findall(name))}
    if isinstance(node, list):
        return {n for value in node for n in numbers_of(value)}
    if isinstance(node, bool) or node is None:
        return set()
    if isinstance(node, int):
        return {f"{node:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")}
    if isinstance(node, float):
        # A requested specificity is a whole percentage, a measured one any share.
        n_digits = {2, 3} if key in TWO_DIGITS else {1} if key in ONE_DIGIT else {3}
        return {f"{node:.{n}f}" for n in n_digits} | {f"{node:g}"}
    return set(NUMBER.findall(node))


def checklist_numbers(metrics, lang):
    """Numbers of the items, of their sources and of how many are answered; the answers' own have to be known."""
    found = answer_checklists(metrics, {}, {name: name for name in metrics["pipelines"]}, words(lang))
    counts = {str(len(numbers)) for one in found for numbers in one["numbers"].values()}
    counts |= {str(len(one["rows"])) for one in found}
    texts = [one[key] for one in found for key in ("name", "source")]
    texts += [text for one in found for row in one["rows"] for text in (row["number"], row["topic"])]
    texts += [text[lang] for answer in checklist_texts()["answer"].values() for text in answer.values()
              if isinstance(text, dict)]  # fmt: skip
    return counts | {number for text in texts for number in NUMBER.findall(text)}


@pytest.mark.parametrize("lang", LANGUAGES)
@pytest.mark.parametrize("file", ["report.html", "model-card.md"])
def test_every_number_shown_is_in_metrics_json(rendered, lang, file):
    page, metrics = read(rendered[lang])
    text = shown(page) if file == "report.html" else (rendered[lang] / file).read_text()
    words = {number for texts in catalogue().values() for number in NUMBER.findall(texts[lang])}
    tables = [read_table(rendered[lang], name).to_dict("records") for name in ("errors", "doubtful_labels")]
    known = numbers_of(metrics) | numbers_of(tables) | words | {"0.000", "0.5"}
    if file == "model-card.md":
        known |= checklist_numbers(metrics, lang)
    found = NUMBER.findall(text)
    assert len(found) > 150
    assert [number for number in found if number not in known] == []


def test_a_number_that_is_nowhere_would_be_noticed(rendered):
    page, metrics = read(rendered["en"])
    assert "0.123456" in NUMBER.findall(shown(page.replace("</main>", "0.123456</main>")))
    assert "0.123456" not in numbers_of(metrics)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_is_self_contained(rendered, lang):
    html, _ = read(rendered[lang])
    assert not re.findall(r'(?:src|href)="(?!#|data:image/jpeg;base64,)', html.replace('xlink:href="#', ""))
    assert "<script" not in html
    assert "url(http" not in html
    assert len(html) < 3_000_000
    assert f'<html lang="{lang}">' in html


def rows_of(html, label):
    """Cells of the first table after a label, by the heading of their row."""
    table = html[html.index(label) :].split("</table>")[0]
    rows = re.findall(r'<tr[^>]*><th scope="row"[^>]*>(.*?)</th>(.*?)</tr>', table, flags=re.DOTALL)
    return {head: [cell.replace("†", "") for cell in re.findall(r"<td[^>]*>(.*?)</td>", cells, flags=re.DOTALL)]
            for head, cells in rows}  # fmt: skip


def written(found):
    low, high = found["ci95"]
    return f"{found['value']:.3f}<small>{low:.3f} to {high:.3f}</small>"


def test_every_metric_stands_in_its_own_cell(rendered):
    html, metrics = read(rendered["en"])
    labels = {"vgg16_logistic": "vgg16_logistic (random weights)", "shortcuts": "shortcuts"}
    pipelines = metrics["pipelines"]
    first = rows_of(html, 'aria-label="On the test images"')
    for name, label in labels.items():
        assert first[label] == [written(pipelines[name]["test"][m]) for m in HEADLINE]
    everything, folds = rows_of(html, 'id="test"'), rows_of(html, 'id="cv"')
    for metric in METRICS:
        head = words("en")(f"metric.{metric}")
        assert everything[head] == [written(pipelines[name]["test"][metric]) for name in pipelines]
        means = [pipelines[name]["cv"][metric] for name in pipelines]
        assert folds[head] == [f"{found['mean']:.3f} ± {found['std']:.3f}" for found in means]
    matrix = rows_of(html, "Confusion matrices: vgg16_logistic")
    cells = pipelines["vgg16_logistic"]["confusion"]
    assert matrix == {"Normal": [str(cells["tn"]), str(cells["fp"])], "Pneumonia": [str(cells["fn"]), str(cells["tp"])]}
    ratios = rows_of(html, 'id="elsewhere"')["shortcuts"]
    facts = pipelines["shortcuts"]["elsewhere"]
    wanted = [facts["likelihood_ratios"]["positive"], facts["likelihood_ratios"]["negative"]]
    wanted += [column[key] for column in facts["predictive_values"] for key in ("ppv", "npv")]
    assert ratios == [written(found) for found in wanted]
    groups = rows_of(html, 'id="subgroups"')["bacterial pneumonia"]
    row = pipelines["shortcuts"]["subgroups"][0]
    assert groups[:3] == ["sensitivity", str(row["images"]), str(row["patients"])]
    assert groups[4] == written(row)
    pair = rows_of(html, 'id="pairs"')["vgg16_logistic (random weights) against shortcuts"]
    found = metrics["comparisons"][0]
    assert pair[0] == written({"value": found["delta_auc"], "ci95": found["ci95"]})
    over_runs = found["runs"]
    assert pair[3] == written({"value": over_runs["delta_auc"], "ci95": over_runs["ci95"]})
    assert pair[4:6] == ["yes", f"{found['mcnemar']['only_a']} / {found['mcnemar']['only_b']}"]


@pytest.mark.parametrize(("lang", "to", "names"), [
    ("en", "to", ["unchanged", "brighter, with less contrast", "mean of the changes"]),
    ("es", "a", ["sin modificar", "más claras y con menos contraste", "media de los cambios"]),
])  # fmt: skip
def test_changed_images_have_a_row_each(rendered, lang, to, names):
    html, metrics = read(rendered[lang])
    facts = metrics["pipelines"]["vgg16_logistic"]["stress"]
    table = html[html.index('id="stress"') :].split("</table>")[0]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row, flags=re.DOTALL) for row in table.split("<tr")[2:]]
    assert [rows[0][0], rows[1][0], rows[-1][0]] == names
    found = [facts["clean"], *facts["changes"].values(), facts["mean"]]
    assert len(rows) == len(found) == 10
    for row, wanted in zip(rows, found, strict=True):
        ends = "<small>{:.3f} {} {:.3f}</small>".format(wanted["ci95"][0], to, wanted["ci95"][1])
        auc, delta = f"{wanted['roc_auc']:.3f}", "\N{EN DASH}"
        if "change" in wanted:
            delta = f"{wanted['change']:.3f}{ends}"
        else:
            auc += ends
        assert row[1:] == [auc, delta, *(f"{wanted[key]:.3f}" for key in ("recall", "specificity", "called_pneumonia"))]
    card = (rendered[lang] / "model-card.md").read_text()
    assert f"| {facts['mean']['roc_auc']:.3f} | {facts['mean']['change']:.3f} (" in card


def test_random_weights_are_called_that_in_every_table_and_figure(rendered):
    html, _ = read(rendered["en"])
    places = re.findall(r"<table>.*?</table>|<svg.*?</svg>", html, flags=re.DOTALL)
    named = [place for place in places if "vgg16_logistic" in place]
    assert len(named) > 10
    assert all("vgg16_logistic (random weights)" in place for place in named)
    assert "shortcuts (random weights)" not in html
    assert "vgg16_logistic (pesos aleatorios)" in read(rendered["es"])[0]


def test_sections(rendered):
    html, _ = read(rendered["en"])
    anchors, ids = re.findall(r'<a href="#(\w+)"', html), re.findall(r'<h2 id="(\w+)"', html)
    assert anchors == [name for name in ids if name != "verdict"]
    assert {"training", "learning", "findings", "lung", "errors", "limits"} <= set(ids)
    assert "It memorises" in html
    assert "last layers too" in html


def test_no_english_is_left_in_the_spanish_page(rendered):
    """No English sentence of the catalogue is in the Spanish page."""
    html = shown(read(rendered["es"])[0])
    english = [texts["en"] for texts in catalogue().values() if texts["en"] != texts["es"] and " " in texts["en"]]
    pieces = [piece.strip() for text in english for piece in re.split(r"\{\w+\}", text) if len(piece.split()) > 2]
    assert len(pieces) > 60
    assert [piece for piece in pieces if piece in html] == []


def test_the_scores_in_both_languages_are_the_same(rendered):
    english, spanish = (read(rendered[lang])[1] for lang in LANGUAGES)
    assert english.pop("run") == {**spanish.pop("run"), "lang": "en"}
    assert english == spanish


def cells_of(html, label):
    """Cells of the first table after a label, by the pipeline and the group that head a row."""
    table = html[html.index(f'aria-label="{label}"') :].split("</table>")[0]
    found, pipeline = {}, ""
    for row in re.findall(r"<tr.*?</tr>", table.split("<tbody>")[1], flags=re.DOTALL):
        *first, group = re.findall(r"<th[^>]*>(.*?)</th>", row, flags=re.DOTALL)
        pipeline = first[0] if first else pipeline
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row, flags=re.DOTALL)
        found[pipeline, group] = [" ".join(cell.split()) for cell in cells]
    return found


def written_of_group(found):
    if found is None:
        return "not defined"
    low, high = found["ci95"] or (None, None)
    few = ' <small class="mark">few</small>' if found["few"] else ""
    return f"{found['value']:.3f}<small>{f'{low:.3f} to {high:.3f}' if low is not None else 'one patient'}</small>{few}"


@pytest.mark.parametrize(
    ("column", "head", "groups"),
    [
        ("sex", "By sex", ["F", "M", "(not known)"]),
        ("age", "By age", ["0\N{EN DASH}17 years", "18\N{EN DASH}39 years", "40\N{EN DASH}64 years", "65+ years"]),
        ("subtype", "By subtype", ["bacterial", "viral"]),
        (ODD, f"By {entities.escape(ODD).replace('&quot;', '&#34;')}",
         ["&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; *a* &amp; `b`", "one | patient"]),
    ],
)  # fmt: skip
def test_columns_of_the_users_divide_the_report(rendered, column, head, groups):
    html, metrics = read(rendered["en"])
    found = cells_of(html, head.replace("'", "&#39;"))
    labels = {"vgg16_logistic": "vgg16_logistic (random weights)", "shortcuts": "shortcuts"}
    assert list(found) == [(label, group) for label in labels.values() for group in groups]
    for name, label in labels.items():
        rows = metrics["pipelines"][name]["by"][column]["groups"]
        for group, row in zip(groups, rows, strict=True):
            counts = [str(row["images"]), str(row["patients"])]
            assert found[label, group] == [*counts, *(written_of_group(row[metric]) for metric in COLUMN_RATES)]
    assert sum(row["images"] for row in rows) == metrics["data"]["splits"]["test"][
        "pneumonia" if column == "subtype" else "images"]  # fmt: skip
    assert "No two groups are large enough to be compared." in html


def test_odd_names_of_columns_and_groups_break_nothing(rendered):
    page, card = ((rendered["en"] / file).read_text() for file in ("report.html", "model-card.md"))
    assert "<script" not in page
    assert "<b>Ort" not in page
    assert '### By \\<b\\>Ort\\|"ñ"\\</b\\> \\`x\\` {0}\n' in card
    assert "| one \\| patient | 2 | 1 | not defined | " in card
    lines = [line for line in card.splitlines() if line.startswith("|") and "one \\|" in line]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in lines] == [12, 12]


@pytest.mark.parametrize(("lang", "phrases"), [
    ("en", ["{n} comparisons in all", "Largest differences by sex", "F against M"]),
    ("es", ["{n} comparaciones en total", "Mayores diferencias por sex", "F frente a M"]),
])  # fmt: skip
def test_the_largest_differences_between_groups(rendered, tmp_path, monkeypatch, lang, phrases):
    monkeypatch.setattr("cxr_sklearn.evaluation.clustered.FEW_IMAGES", 8)
    monkeypatch.setattr("cxr_sklearn.evaluation.clustered.FEW_PATIENTS", 4)
    shutil.copytree(rendered[lang], tmp_path / "run")
    found = write_results(tmp_path / "run")["pipelines"]["vgg16_logistic"]["by"]["sex"]["differences"][0]
    page, metrics = read(tmp_path / "run")
    card = (tmp_path / "run" / "model-card.md").read_text()
    for sentence in phrases:
        assert sentence.format(n=metrics["group_comparisons"]) in page
    assert phrases[2] in card
    assert (found["metric"], found["pairs"], found["supported"]) == ("specificity", 1, False)
    cells = cells_of(page, phrases[1])
    (low, high), to = found["ci95"], {"en": "to", "es": "a"}[lang]
    assert next(iter(cells.values())) == [
        phrases[2], f"{found['value']:.3f}<small>{low:.3f} {to} {high:.3f}</small>", "1", "no",
    ]  # fmt: skip


def test_every_error_is_in_a_list_the_worst_with_pictures(rendered):
    html, metrics = read(rendered["en"])
    table = read_table(rendered["en"], "errors")
    section = html[html.index('id="errors"') : html.index('id="doubtful"')]
    parts = section.split("<h3>")[1:]
    kinds = [(name, kind, key) for name in metrics["pipelines"]
             for kind, key in (("false_negatives", "fn"), ("false_positives", "fp"))]  # fmt: skip
    assert len(parts) == len(kinds)
    for part, (name, kind, key) in zip(parts, kinds, strict=True):
        rows = table[(table["pipeline"] == name) & (table["kind"] == kind)]
        assert len(rows) == metrics["pipelines"][name]["confusion"][key]
        listed = re.findall(r'<th scope="row" class="wide">(.*?)</th><td>(.*?)</td><td>(.*?)</td><td>(.*?)</td>', part)
        assert [path for path, *_ in listed] == rows["path"].tolist()
        assert [tuple(cells) for _, *cells in listed] == [
            (row.patient, f"{row.score:.3f}", f"{row.distance:.3f}") for row in rows.itertuples()]  # fmt: skip
        pictured = re.findall(r"<b>(.*?)</b>", part)
        assert pictured == [path.rsplit("/", 1)[1] for path in rows["path"][:N_PICTURES]]
        assert part.index("<details>") > part.index("<img") if len(rows) else "No such error" in part


def test_long_lists_of_errors_are_cut(rendered, tmp_path, monkeypatch):
    folder = rendered["en"]
    errors, doubtful = read_table(folder, "errors"), read_table(folder, "doubtful_labels")
    for name, n in (("N_ERRORS", 1), ("N_PICTURES", 2), ("N_ROWS", 3)):
        monkeypatch.setattr(page, name, n)
    write_report(read(folder)[1], read_scores(folder), read_table(folder, "training"), tmp_path, errors=errors,
                 doubtful=doubtful)  # fmt: skip
    html = (tmp_path / "report.html").read_text()
    parts = html[html.index('id="errors"') : html.index('id="doubtful"')].split("<h3>")[1:]
    n = errors.groupby(["pipeline", "kind"]).size().max()
    assert n > 3
    (part,) = (part for part in parts if f"The worst 3 of {n} in a list" in part)
    assert (part.count("<img"), part.split("<details>")[0].count("<img"), part.count('<th scope="row"')) == (2, 1, 3)


def test_doubtful_labels_have_pictures_and_figures(rendered):
    html, metrics = read(rendered["en"])
    facts, table = metrics["doubtful_labels"], read_table(rendered["en"], "doubtful_labels")
    assert facts["pipeline"] == "vgg16_logistic"
    assert len(table) == facts["suspected"] == sum(facts[key]["suspected"] for key in ("normal", "pneumonia")) > 0
    assert set(table["split"]) <= {"train", "val"}
    section = html[html.index('id="doubtful"') : html.index('id="lung"')]
    for head, key in (("Normal", "normal"), ("Pneumonia", "pneumonia")):
        found = facts[key]
        assert rows_of(section, 'aria-label="Labels')[head] == [
            str(found["images"]), str(found["suspected"]), f"{found['mean_score']:.3f}", f"{found['noise']:.3f}",
        ]  # fmt: skip
    assert re.findall(r"<b>(.*?)</b>", section) == [path.rsplit("/", 1)[1] for path in table["path"][:N_DOUBTFUL]]
    assert "pipelines that contradict it: 1 of 1" in section
    assert "must not be changed because of a score" in section
    assert "are contradicted by scores" in (rendered["en"] / "model-card.md").read_text()


def test_a_copy_with_the_other_label_is_pointed_out(rendered, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(rendered["en"], folder)
    images = pd.read_csv(folder / "images.csv")
    train = images[images["split"] == "train"]
    pair = [train.index[train["target"] == target][0] for target in (0, 1)]
    images.loc[pair, "copies"] = 1
    images.to_csv(folder / "images.csv", index=False)
    write_results(folder)
    html = (folder / "report.html").read_text()
    assert html.count("a copy bears the other label") == 2
    assert "copy that bears the other label: 2." in html
    assert set(read_table(folder, "doubtful_labels")["path"][:2]) == set(images["path"][pair])


def test_without_held_out_scores_no_label_is_doubted(rendered, tmp_path):
    metrics = {**read(rendered["en"])[1], "doubtful_labels": None}
    folder = rendered["en"]
    write_report(metrics, read_scores(folder), read_table(folder, "training"), tmp_path,
                 errors=read_table(folder, "errors"), doubtful=read_table(tmp_path, "doubtful_labels"))  # fmt: skip
    html = (tmp_path / "report.html").read_text()
    assert "second look" not in html
    assert '#doubtful"' not in html


EVIL = "<img src=x onerror=alert(1)>.jpeg"


def test_names_are_only_names(rendered, tmp_path):
    _, metrics = read(rendered["en"])
    folder = rendered["en"]
    scores, training = read_scores(folder), read_table(folder, "training")
    errors, doubtful = read_table(folder, "errors"), read_table(folder, "doubtful_labels")
    text = json.dumps(metrics).replace("shortcuts", "<img src=x onerror=alert(1)>")
    changed = json.loads(text)
    errors["pipeline"] = errors["pipeline"].replace("shortcuts", "<img src=x onerror=alert(1)>")
    errors.loc[errors["kind"] == "false_negatives", ["path", "patient", "subtype"]] = f"test/{EVIL}", EVIL, EVIL
    doubtful.loc[0, "path"] = f"train/{EVIL}"
    changed["pipelines"]["vgg16_logistic"]["subgroups"][0]["group"] = "<img src=y>"
    changed["run"]["command"] = "compare '<img src=z>`|'"
    renamed = scores.assign(pipeline=scores["pipeline"].replace("shortcuts", "<img src=x onerror=alert(1)>"))
    write_report(changed, renamed, training, tmp_path, errors=errors, doubtful=doubtful)
    page, card = (tmp_path / "report.html").read_text(), (tmp_path / "model-card.md").read_text()
    assert page.count("<img") == page.count('<img src="data:image/jpeg;base64,')
    assert "&lt;img src=x onerror=alert(1)&gt;.jpeg" in page
    assert "image cannot be read" in page
    assert "\\<img src=x onerror=alert(1)\\>" in card
    assert card.count("<img") == card.count("\\<img") + card.count("`compare '<img src=z>'|'`")


def test_pictures_that_are_gone_cost_nothing_else(rendered, tmp_path):
    shutil.copytree(rendered["en"], tmp_path / "run")
    for name in ("scores", "runs"):
        scores = pd.read_csv(tmp_path / "run" / f"{name}.csv")
        scores.assign(path=scores["path"] + ".gone").to_csv(tmp_path / "run" / f"{name}.csv", index=False)
    (tmp_path / "run" / "images.csv").unlink()
    (tmp_path / "run" / "probes.csv").unlink()
    write_results(tmp_path / "run")
    html = (tmp_path / "run" / "report.html").read_text()
    assert "<img" not in html
    assert html.count("image cannot be read") > 2
    assert "Nothing is known about the test images" in html
    assert "were not tried" in html


def test_scores_alone_give_the_report_again(rendered, tmp_path):
    html, metrics = read(rendered["en"])
    shutil.copytree(rendered["en"], tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    stale = json.loads(json.dumps(metrics))
    stale["pipelines"]["shortcuts"]["test"]["accuracy"]["value"] = 2
    (tmp_path / "run" / "metrics.json").write_text(json.dumps(stale))
    assert write_results(tmp_path / "run", overwrite=True) == metrics
    assert (tmp_path / "run" / "report.html").read_text() == html


def test_how_splits_differ_and_what_was_not_tested(rendered, tmp_path):
    _, metrics = read(rendered["en"])
    few, *_, of_features = metrics["split_shift"]
    assert (few["kind"], of_features["kind"], of_features["pipeline"]) == ("size", "features", "vgg16_logistic")
    told = few | {
        "kind": "grey", "patients": [700, 90], "drawn": [600, 90], "auc": 0.7123, "ci95": [0.6, 0.8], "p": 0.001,
        "p_holm": 0.004, "told_apart": True,
        "measures": [{"measure": "contrast", "what": "level", "auc": 0.3, "p": 0.001, "medians": [61.5, 48.25]}],
    }  # fmt: skip
    of_features |= {"auc": 0.5, "ci95": [0.4, 0.6], "p": 0.5, "p_holm": 0.5, "told_apart": False}
    data = read_scores(rendered["en"]), read_table(rendered["en"], "training")
    tables = {"errors": read_table(rendered["en"], "errors"), "doubtful": read_table(tmp_path, "doubtful_labels")}
    for entries in ([few, few | {"kind": "grey"}, told, of_features], []):
        write_report(metrics | {"split_shift": entries}, *data, tmp_path, **tables)
        section = shown((tmp_path / "report.html").read_text().partition('<h2 id="shift">')[2].partition("<h2 id")[0])
        card = (tmp_path / "model-card.md").read_text().partition("### Are the splits")[2].partition("## Outcome")[0]
        for text in (section, card):
            assert ("0.712" in text and "0.600 to 0.800" in text) == bool(entries)
            assert ("contrast: lower, median 48.25 against 61.5" in text) == bool(entries)
            assert ("kept features of vgg16" in text.replace("\\", "")) == bool(entries)
            assert text.count("train or val, normal (45 and 15).") == bool(entries)  # of two entries
            assert ("fewer than 20 on one side" in text) == bool(entries)
            assert ("Not tested in this run." in text) != bool(entries)
        assert ("600 of 700" in section) == bool(entries)
    for entries, is_few in (([few], True), ([told], False)):
        write_report(metrics | {"split_shift": entries}, *data, tmp_path, **tables)
        for name in ("report.html", "model-card.md"):
            text = (tmp_path / name).read_text()
            assert ("Too few patients to tell" in text) == is_few
            assert ("Difference shown" in text) != is_few  # the head of the table
    del metrics["split_shift"]  # as in runs of earlier versions
    write_report(metrics, *data, tmp_path, **tables)
